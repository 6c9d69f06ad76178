-- A table that the ledger calls done has made its rows visible.
with

table_runs as (

    select * from {{ ref('stg_extract_load__table_runs') }}

),

unpublished_table_runs as (

    select
        run_id,
        target_schema,
        target_table

    from table_runs

    where
        table_run_status = 'done'
        and published_at is null

)

select * from unpublished_table_runs
