-- What a slow transaction does while the day passes: an order of two lines and an event, stamped
-- with the time it began. It commits only after the day's changes have been landed, so its times
-- lie below what was then the newest.
with

placed as (

    insert into public.orders (
        user_id, status, is_gift, note, total_amount, placed_at, updated_at
    )
    values (1, 'placed', true, 'committed late', 30.00, now(), now())
    returning id

)

insert into public.order_items (
    order_id, line_number, product_id, quantity, unit_price, created_at
)
select
    placed.id,
    line_number,
    1,
    line_number,
    10.00,
    now()
from placed
cross join generate_series(1, 2) as line_number;

insert into public.events (user_id, session_id, event_type, payload, created_at)
values (1, gen_random_uuid(), 'order_placed', '{"late": true}', now());
