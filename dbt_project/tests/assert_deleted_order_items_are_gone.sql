-- An item that left the source before the newest item of the fact was published
-- is no longer in the fact. Later deletions may still wait for the next build.
with

order_items as (

    select * from {{ ref('fct_order_items') }}

),

deletions as (

    select * from {{ ref('stg_digitalocean__order_item_deletions') }}

),

newest_order_item as (

    select max(_loaded_at) as loaded_at from order_items

),

deleted_order_items as (

    select
        order_items.order_id,
        order_items.line_number,
        deletions.deleted_at

    from order_items

    inner join deletions
        on
            order_items.order_id = deletions.order_id
            and order_items.line_number = deletions.line_number

    cross join newest_order_item

    where deletions._loaded_at <= newest_order_item.loaded_at

)

select * from deleted_order_items
