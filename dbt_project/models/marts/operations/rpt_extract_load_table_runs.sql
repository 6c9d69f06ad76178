with

runs as (

    select * from {{ ref('stg_extract_load__runs') }}

),

table_runs as (

    select * from {{ ref('stg_extract_load__table_runs') }}

),

watermarks as (

    select * from {{ ref('stg_extract_load__watermarks') }}

),

table_runs_joined as (

    select
        table_runs.run_id,
        table_runs.target_schema,
        table_runs.target_table,
        table_runs.source_connection,
        table_runs.source_table,
        table_runs.sync_mode,
        runs.run_status,
        table_runs.table_run_status,
        table_runs.is_baseline,
        table_runs.read_row_count,
        table_runs.changed_row_count,
        table_runs.inserted_row_count,
        table_runs.updated_row_count,
        table_runs.deleted_row_count,
        table_runs.read_bytes,
        table_runs.duration_seconds,
        table_runs.rows_per_second,
        table_runs.peak_rss_bytes,
        table_runs.started_at,
        table_runs.published_at,
        watermarks.run_id is not null as is_latest_publish,
        table_runs.error ->> 'primary' as error_message

    from table_runs

    inner join runs
        on table_runs.run_id = runs.run_id

    left join watermarks
        on
            table_runs.run_id = watermarks.run_id
            and table_runs.target_schema = watermarks.target_schema
            and table_runs.target_table = watermarks.target_table

)

select * from table_runs_joined
