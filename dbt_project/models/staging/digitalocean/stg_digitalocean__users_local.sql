with

source as (

    select * from {{ source('digitalocean', 'users_local') }}

),

renamed as (

    select

        ---------- ids
        id as user_id,
        public_id as public_user_id,

        ---------- strings
        email,
        full_name,
        status as user_status,

        ---------- numerics
        balance as balance_amount,

        ---------- booleans
        is_subscribed,

        ---------- nested
        tags,
        profile,

        ---------- timestamps
        created_at,
        updated_at,

        ---------- load metadata
        _loaded_at

    from source

)

select * from renamed
