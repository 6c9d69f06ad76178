with

order_items as (

    select * from {{ ref('stg_digitalocean__order_items') }}

),

order_items_summed as (

    select
        order_id,
        count(*) as item_count,
        sum(quantity) as unit_count,
        sum(line_amount) as items_amount

    from order_items

    group by 1

)

select * from order_items_summed
