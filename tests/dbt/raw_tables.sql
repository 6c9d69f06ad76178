-- What extract-load leaves in a warehouse after its first run: the raw tables, by hand. The
-- ledger beside them comes from its own migration.

create schema raw_data;

create table raw_data.digitalocean_users (
    id bigint primary key,
    public_id uuid not null,
    email text not null,
    full_name text,
    status text not null,
    balance numeric(12, 2) not null,
    is_subscribed boolean not null,
    tags text[] not null,
    profile jsonb,
    created_at timestamptz not null,
    updated_at timestamptz not null,
    _loaded_at timestamptz not null
);

create table raw_data.digitalocean_products (
    id integer primary key,
    sku text not null,
    name text not null,
    category text not null,
    price numeric(10, 2) not null,
    attributes jsonb not null,
    created_at timestamptz not null,
    updated_at timestamptz not null,
    _loaded_at timestamptz not null
);

create table raw_data.digitalocean_orders (
    id bigint primary key,
    user_id bigint not null,
    status text not null,
    is_gift boolean not null,
    note text,
    total_amount numeric(12, 2) not null,
    placed_at timestamptz not null,
    updated_at timestamptz not null,
    _loaded_at timestamptz not null,
    _deleted_at timestamptz
);

create table raw_data.digitalocean_order_items (
    order_id bigint,
    line_number integer,
    product_id integer not null,
    quantity integer not null,
    unit_price numeric(10, 2) not null,
    line_amount numeric(12, 2),
    created_at timestamptz not null,
    _loaded_at timestamptz not null,
    _deleted_at timestamptz,
    primary key (order_id, line_number)
);

create table raw_data.digitalocean_events (
    id bigint primary key,
    user_id bigint,
    session_id uuid not null,
    event_type text not null,
    payload jsonb not null,
    created_at timestamptz not null,
    _loaded_at timestamptz not null
);

create table raw_data.digitalocean_stocks (
    "시장구분" text,
    "종목코드" text,
    "기준일자" date,
    "통화" text,
    "종목명" text not null,
    "종가" numeric(18, 4),
    "상장주식수" bigint,
    "업종" text,
    "수정일시" timestamptz not null,
    _loaded_at timestamptz not null,
    primary key ("시장구분", "종목코드", "기준일자", "통화")
);

insert into raw_data.digitalocean_users
select
    n,
    gen_random_uuid(),
    'user' || n || '@example.com',
    'User ' || n,
    (array['active', 'dormant', 'closed'])[1 + n % 3],
    n,
    n % 2 = 0,
    array['new', 'vip'],
    '{"locale": "ko"}',
    '2025-01-01 00:00+00',
    '2025-01-01 00:00+00',
    '2025-02-01 00:00+00'
from generate_series(1, 10) as n;

create table raw_data.digitalocean_users_local (
    like raw_data.digitalocean_users including all
);

insert into raw_data.digitalocean_users_local
select * from raw_data.digitalocean_users;

insert into raw_data.digitalocean_products
select
    n,
    'SKU-' || n,
    'Product ' || n,
    'books',
    n + 0.99,
    '{"pages": 100}',
    '2025-01-01 00:00+00',
    '2025-01-01 00:00+00',
    '2025-02-01 00:00+00'
from generate_series(1, 5) as n;

-- Order n has n % 4 items, so every fourth has none.
insert into raw_data.digitalocean_order_items
select
    order_id,
    line_number,
    1 + line_number % 5,
    line_number,
    10.50,
    10.50 * line_number,
    '2025-01-10 00:00+00',
    '2025-02-01 00:00+00',
    null
from generate_series(1, 40) as order_id
cross join generate_series(1, order_id % 4) as line_number;

insert into raw_data.digitalocean_orders
select
    n,
    1 + n % 10,
    (array['placed', 'paid', 'shipped', 'cancelled'])[1 + n % 4],
    false,
    null,
    coalesce(
        (
            select sum(items.line_amount)
            from raw_data.digitalocean_order_items as items
            where items.order_id = n
        ), 0
    ),
    '2025-01-10 00:00+00',
    '2025-01-10 00:00+00',
    '2025-02-01 00:00+00',
    null
from generate_series(1, 40) as n;

insert into raw_data.digitalocean_events
select
    n,
    nullif(n % 4, 0),
    gen_random_uuid(),
    'page_view',
    '{}',
    '2025-01-10 00:00+00',
    '2025-02-01 00:00+00'
from generate_series(1, 20) as n;

insert into raw_data.digitalocean_stocks
select
    'KOSPI',
    lpad(n::text, 6, '0') || '-L',
    '2025-01-10',
    'KRW',
    '종목 ' || n,
    50000.1234,
    1000000,
    null,
    '2025-01-10 00:00+00',
    '2025-02-01 00:00+00'
from generate_series(1, 5) as n;

-- The run that published all this, in the ledger.
insert into extract_load.runs (run_id, finished_at, status, invoked_by, version)
values ('first', clock_timestamp(), 'done', '{}', '0.1.0');

with

tables (name, source_table, sync_mode) as (
    values
    ('users', 'public.users', 'full_sync'),
    ('users_local', 'public.users', 'full_sync'),
    ('products', 'public.products', 'full_sync'),
    ('orders', 'public.orders', 'incremental_sync'),
    ('order_items', 'public.order_items', 'xmin_incremental'),
    ('events', 'public.events', 'incremental_sync'),
    ('stocks', '"시장"."종목마스터"', 'xmin_incremental')
),

published as (
    insert into extract_load.table_runs (
        run_id, target_schema, target_table, source_connection, source_table, sync_mode, status,
        baseline, published_at, rows_read, rows_inserted, seconds
    )
    select
        'first',
        'raw_data',
        'digitalocean_' || name,
        'digitalocean_postgres',
        source_table,
        sync_mode,
        'done',
        true,
        clock_timestamp(),
        40,
        40,
        0.5
    from tables
    returning *
)

insert into extract_load.watermarks (
    target_schema, target_table, target_oid, source_connection, source_table, sync_mode,
    loaded_at, published_at, run_id
)
select
    target_schema,
    target_table,
    format('%I.%I', target_schema, target_table)::regclass::oid::bigint,
    source_connection,
    source_table,
    sync_mode,
    '2025-02-01 00:00+00',
    published_at,
    run_id
from published;
