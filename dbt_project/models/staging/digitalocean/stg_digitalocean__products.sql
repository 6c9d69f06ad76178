with

source as (

    select * from {{ source('digitalocean', 'products') }}

),

renamed as (

    select

        ---------- ids
        id as product_id,
        sku,

        ---------- strings
        name as product_name,
        category as product_category,

        ---------- numerics
        price as price_amount,

        ---------- nested
        attributes,

        ---------- timestamps
        created_at,
        updated_at,

        ---------- load metadata
        _loaded_at

    from source

)

select * from renamed
