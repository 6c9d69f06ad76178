with

source as (

    select * from {{ source('extract_load', 'table_runs') }}

),

renamed as (

    select

        ---------- ids
        run_id,
        target_schema,
        target_table,

        ---------- strings
        source_connection,
        source_table,
        sync_mode,
        status as table_run_status,
        window_low,
        window_high,
        verified as verification,

        ---------- numerics
        rows_read as read_row_count,
        rows_inserted as inserted_row_count,
        rows_updated as updated_row_count,
        rows_deleted as deleted_row_count,
        rows_unchanged as unchanged_row_count,
        rows_late as late_row_count,
        bytes_read as read_bytes,
        chunks as chunk_count,
        chunks_resumed as resumed_chunk_count,
        retries as retry_count,
        seconds as duration_seconds,
        rows_per_second,
        peak_rss_bytes,

        ---------- booleans
        baseline as is_baseline,

        ---------- nested
        error,

        ---------- timestamps
        started_at,
        published_at,

        ---------- calculations
        rows_inserted + rows_updated + rows_deleted as changed_row_count

    from source

)

select * from renamed
