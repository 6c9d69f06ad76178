with

source as (

    select * from {{ source('digitalocean', 'order_items') }}
    where _deleted_at is null

),

renamed as (

    select

        ---------- ids
        order_id,
        line_number,
        product_id,

        ---------- numerics
        quantity,
        unit_price as unit_price_amount,
        line_amount,

        ---------- timestamps
        created_at,

        ---------- load metadata
        _loaded_at

    from source

)

select * from renamed
