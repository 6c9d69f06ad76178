with

source as (

    select * from {{ source('digitalocean', 'orders') }}
    where _deleted_at is null

),

renamed as (

    select

        ---------- ids
        id as order_id,
        user_id,

        ---------- strings
        status as order_status,
        note,

        ---------- numerics
        total_amount,

        ---------- booleans
        is_gift,

        ---------- timestamps
        placed_at,
        updated_at,

        ---------- load metadata
        _loaded_at

    from source

)

select * from renamed
