-- A day passes in the shop: about one row in a hundred of each kind is new, changed or gone.
-- Which ones follows from the data, the time is now(). All of it is one transaction.

-- users: some join, some are seen again, and one who never ordered closes the account for good.
insert into public.users (
    public_id, email, full_name, status, balance, is_subscribed, tags, profile, created_at, updated_at
)
select
    gen_random_uuid(),
    'user' || (select max(id) from public.users) + n || '@example.com',
    case when n % 3 > 0 then '새 손님 ' || n end,
    'active',
    0,
    n % 2 = 0,
    array['new'],
    null,
    now(),
    now()
from generate_series(1, (select 1 + count(*) / 100 from public.users)) as n;

update public.users
set
    status = case when status = 'active' then 'dormant' else 'active' end::public.user_status,
    balance = balance - 1.50,
    updated_at = now()
where id in (
    select id from public.users
    order by updated_at, id
    limit (select 1 + count(*) / 100 from public.users)
);

delete from public.users
where id = (
    select max(users.id) from public.users
    where users.updated_at < now()
        and not exists (select from public.orders where orders.user_id = users.id)
);

-- products: prices move, one comes, and one that nobody ever ordered goes.
update public.products
set
    price = round(price * 1.02, 2),
    updated_at = now()
where id in (
    select id from public.products
    order by updated_at, id
    limit (select 1 + count(*) / 100 from public.products)
);

delete from public.products
where id = (
    select min(products.id) from public.products
    where not exists (select from public.order_items where order_items.product_id = products.id)
);

insert into public.products (
    id, sku, name, category, price, attributes, created_at, updated_at
)
select
    1 + max(id),
    'SKU-' || lpad((1 + max(id))::text, 6, '0'),
    'Today''s special ' || 1 + max(id),
    'kitchen',
    19.90,
    '{"colour": "green"}',
    now(),
    now()
from public.products;

-- orders: some are placed, the oldest open ones move on, the oldest cancelled ones are removed.
with

placed as (

    insert into public.orders (
        user_id, status, is_gift, note, total_amount, placed_at, updated_at
    )
    select
        users.id,
        'placed',
        row_number() over (order by users.id) % 8 = 0,
        null,
        0,
        now(),
        now()
    from public.users
    where users.id % 7 = 0
    order by users.id
    limit (select 1 + count(*) / 100 from public.orders)
    returning id

)

insert into public.order_items (
    order_id, line_number, product_id, quantity, unit_price, created_at
)
select
    placed.id,
    line_number,
    products.id,
    line_number,
    products.price,
    now()
from placed
cross join generate_series(1, 2) as line_number
cross join lateral (
    select
        id,
        price
    from public.products
    where id > placed.id % 10
    order by id
    limit 1
) as products;

update public.orders
set
    status = case
        when status = 'paid' then 'shipped'
        when id % 10 = 0 then 'cancelled'
        else 'paid'
    end::public.order_status,
    updated_at = now()
where id in (
    select id from public.orders
    where status in ('placed', 'paid')
    order by updated_at, id
    limit (select 1 + count(*) / 100 from public.orders)
);

delete from public.orders -- and, by the foreign key, of their items
where id in (
    select id from public.orders
    where status = 'cancelled'
    order by updated_at, id
    limit (select 1 + count(*) / 500 from public.orders)
);

-- order_items: a quantity is corrected, a line is taken back. They carry no time of change.
create temporary table demo_reopened on commit drop as
select id from public.orders
where status = 'paid' and exists (
    select from public.order_items
    where order_items.order_id = orders.id and order_items.line_number = 2
)
order by updated_at, id
limit (select 1 + count(*) / 200 from public.orders);

update public.order_items
set quantity = quantity + 1
from demo_reopened
where order_items.order_id = demo_reopened.id and order_items.line_number = 1;

delete from public.order_items
using demo_reopened
where order_items.order_id = demo_reopened.id and order_items.line_number = 2;

-- Whatever happened to its items above, an order's total is their sum.
update public.orders
set
    total_amount = amounts.total_amount,
    updated_at = now()
from (
    select
        order_id,
        sum(line_amount) as total_amount
    from public.order_items
    group by order_id
) as amounts
where orders.id = amounts.order_id and orders.total_amount <> amounts.total_amount;

-- events: only ever appended.
insert into public.events (user_id, session_id, event_type, payload, created_at)
select
    case when n % 5 > 0 then 1 + n % 10 end,
    gen_random_uuid(),
    'page_viewed',
    jsonb_build_object('path', '/today', 'milliseconds', n),
    now()
from generate_series(1, (select 1 + count(*) / 100 from public.events)) as n;

-- 종목마스터: the next trading day, a correction of the last, and papers that leave the market.
create temporary table demo_last_day on commit drop as
select max("기준일자") as "기준일자" from "시장"."종목마스터";

insert into "시장"."종목마스터"
select
    stocks."시장구분",
    stocks."종목코드",
    stocks."기준일자" + 1,
    stocks."통화",
    stocks."종목명",
    stocks."종가" * 1.01,
    stocks."상장주식수",
    stocks."업종",
    now()
from "시장"."종목마스터" as stocks
inner join demo_last_day using ("기준일자");

update "시장"."종목마스터" as stocks
set
    "종가" = stocks."종가" + 0.5,
    "수정일시" = now()
from demo_last_day
where stocks."기준일자" = demo_last_day."기준일자"
    and right(stocks."종목코드", 2) in ('-L', '00');

delete from "시장"."종목마스터" as stocks
where (stocks."종목코드", stocks."기준일자") in (
    select
        "종목코드",
        "기준일자"
    from "시장"."종목마스터"
    where "종목코드" like '%-L'
    order by "기준일자", "종목코드"
    limit (select 1 + count(*) / 1000 from "시장"."종목마스터")
);
