with

source as (

    select * from {{ source('extract_load', 'runs') }}

),

renamed as (

    select

        ---------- ids
        run_id,

        ---------- strings
        status as run_status,
        version,

        ---------- numerics
        peak_rss_bytes,

        ---------- nested
        invoked_by,

        ---------- timestamps
        started_at,
        finished_at

    from source

)

select * from renamed
