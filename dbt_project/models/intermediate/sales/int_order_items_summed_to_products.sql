with

order_items as (

    select * from {{ ref('stg_digitalocean__order_items') }}

),

order_items_summed as (

    select
        product_id,
        sum(quantity) as ordered_unit_count,
        sum(line_amount) as ordered_amount

    from order_items

    group by 1

)

select * from order_items_summed
