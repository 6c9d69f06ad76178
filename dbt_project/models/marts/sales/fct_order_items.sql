{{
    config(
        materialized='incremental',
        unique_key=['order_id', 'line_number'],
        on_schema_change='fail',
        indexes=[
            {'columns': ['order_id', 'line_number'], 'unique': true},
            {'columns': ['product_id']},
            {'columns': ['_loaded_at']},
        ],
        post_hook="{{ delete_keys_in(ref('stg_digitalocean__order_item_deletions')) }}"
    )
}}

with

order_items as (

    select * from {{ ref('stg_digitalocean__order_items') }}

    {% if is_incremental() %}
        -- A publish appears at once, with one _loaded_at that is later than
        -- all before it: nothing new can hide at or below the newest one here.
        where
            _loaded_at > (
                select coalesce(max(built._loaded_at), '-infinity') as newest
                from {{ this }} as built
            )
    {% endif %}

),

order_items_named as (

    select
        order_id,
        line_number,
        product_id,
        quantity as unit_count,
        unit_price_amount,
        line_amount,
        created_at,
        _loaded_at

    from order_items

)

select * from order_items_named
