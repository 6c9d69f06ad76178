with

orders as (

    select * from {{ ref('stg_digitalocean__orders') }}

),

orders_summed as (

    select
        user_id,
        count(*) as order_count,
        coalesce(
            sum(total_amount) filter (where order_status != 'cancelled'), 0
        ) as lifetime_amount,
        min(placed_at) as first_ordered_at,
        max(placed_at) as last_ordered_at

    from orders

    group by 1

)

select * from orders_summed
