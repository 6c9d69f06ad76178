{{ config(indexes=[{'columns': ['product_id'], 'unique': true}]) }}

with

products as (

    select * from {{ ref('stg_digitalocean__products') }}

),

order_items_summed as (

    select * from {{ ref('int_order_items_summed_to_products') }}

),

products_joined_to_order_items as (

    select
        products.product_id,
        products.sku,
        products.product_name,
        products.product_category,
        products.price_amount,
        products.created_at,
        products.updated_at,
        coalesce(order_items_summed.ordered_unit_count, 0)
            as ordered_unit_count,
        coalesce(order_items_summed.ordered_amount, 0) as ordered_amount

    from products

    left join order_items_summed
        on products.product_id = order_items_summed.product_id

)

select * from products_joined_to_order_items
