{{ config(indexes=[{'columns': ['user_id'], 'unique': true}]) }}

with

users as (

    select * from {{ ref('stg_digitalocean__users') }}

),

orders_summed as (

    select * from {{ ref('int_orders_summed_to_users') }}

),

users_joined_to_orders as (

    select
        users.user_id,
        users.public_user_id,
        users.email,
        users.full_name,
        users.user_status,
        users.balance_amount,
        users.is_subscribed,
        users.tags,
        orders_summed.first_ordered_at,
        orders_summed.last_ordered_at,
        users.created_at,
        users.updated_at,
        coalesce(orders_summed.order_count, 0) as order_count,
        coalesce(orders_summed.lifetime_amount, 0) as lifetime_amount

    from users

    left join orders_summed
        on users.user_id = orders_summed.user_id

)

select * from users_joined_to_orders
