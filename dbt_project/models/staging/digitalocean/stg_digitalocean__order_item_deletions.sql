with

source as (

    select * from {{ source('digitalocean', 'order_items') }}
    where _deleted_at is not null

),

renamed as (

    select

        ---------- ids
        order_id,
        line_number,

        ---------- timestamps
        _deleted_at as deleted_at,

        ---------- load metadata
        _loaded_at

    from source

)

select * from renamed
