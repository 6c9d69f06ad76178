with

source as (

    select * from {{ source('extract_load', 'watermarks') }}

),

renamed as (

    select

        ---------- ids
        target_schema,
        target_table,
        run_id,

        ---------- strings
        source_connection,
        source_table,
        sync_mode,
        cursor_value,

        ---------- timestamps
        loaded_at,
        published_at

    from source

)

select * from renamed
