{{
    config(
        indexes=[
            {'columns': ['order_id'], 'unique': true},
            {'columns': ['user_id']},
            {'columns': ['ordered_at']},
        ]
    )
}}

with

orders as (

    select * from {{ ref('stg_digitalocean__orders') }}

),

order_items_summed as (

    select * from {{ ref('int_order_items_summed_to_orders') }}

),

orders_joined_to_items as (

    select
        orders.order_id,
        orders.user_id,
        orders.order_status,
        orders.is_gift,
        orders.total_amount,
        orders.placed_at as ordered_at,
        orders.updated_at,
        cast(orders.placed_at at time zone 'UTC' as date) as ordered_date,
        coalesce(order_items_summed.items_amount, 0) as items_amount,
        coalesce(order_items_summed.item_count, 0) as item_count,
        coalesce(order_items_summed.unit_count, 0) as unit_count

    from orders

    left join order_items_summed
        on orders.order_id = order_items_summed.order_id

)

select * from orders_joined_to_items
