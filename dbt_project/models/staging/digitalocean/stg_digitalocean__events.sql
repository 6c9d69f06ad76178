with

source as (

    select * from {{ source('digitalocean', 'events') }}

),

renamed as (

    select

        ---------- ids
        id as event_id,
        user_id,
        session_id,

        ---------- strings
        event_type,

        ---------- nested
        payload,

        ---------- timestamps
        created_at as occurred_at,

        ---------- load metadata
        _loaded_at

    from source

)

select * from renamed
