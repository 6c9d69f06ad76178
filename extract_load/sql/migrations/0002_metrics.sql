-- Metrics: what a table run cost, and how each raw table has fared lately. Rows of before stay;
-- their memory is unknown.

alter table extract_load.table_runs
    add column peak_rss_bytes bigint,
    add column rows_per_second double precision
        generated always as (case when seconds > 0 then rows_read / seconds end) stored;
comment on column extract_load.table_runs.peak_rss_bytes is
'The most memory the process had held when the table ended; other tables of its run share it.';
comment on column extract_load.table_runs.rows_per_second is
'Rows read in a second of wall clock, from waiting for the lease to the publish.';

-- "The last runs of this table", and "the runs of this Airflow task".
create index on extract_load.table_runs (target_schema, target_table, started_at desc);
create index on extract_load.runs ((invoked_by ->> 'run_id'));

create function extract_load.table_metrics_of(schema_name text, table_name text, over_runs integer)
returns table (
    source_connection text,
    source_table text,
    run_id text,
    status text,
    started_at timestamptz,
    seconds double precision,
    rows_per_second double precision,
    peak_rss_bytes bigint,
    runs integer,
    failures integer,
    error_rate double precision,
    last_error jsonb,
    published_at timestamptz
)
language sql stable
as $$
with finished as (
    select *, row_number() over (order by run.started_at desc) as age
    from extract_load.table_runs as run
    where run.target_schema = schema_name and run.target_table = table_name
        and run.status <> 'running'
    order by run.started_at desc
    limit over_runs
),

counted as (
    select
        count(*)::integer as runs,
        (count(*) filter (where finished.status = 'failed'))::integer as failures,
        (array_agg(finished.error order by finished.age)
            filter (where finished.status = 'failed'))[1] as last_error
    from finished
)

select
    coalesce(last.source_connection, watermark.source_connection),
    coalesce(last.source_table, watermark.source_table),
    last.run_id,
    last.status,
    last.started_at,
    last.seconds,
    last.rows_per_second,
    last.peak_rss_bytes,
    counted.runs,
    counted.failures,
    counted.failures / nullif(counted.runs, 0)::double precision,
    counted.last_error,
    watermark.published_at
from counted
left join finished as last on last.age = 1
left join extract_load.watermarks as watermark
    on watermark.target_schema = schema_name and watermark.target_table = table_name
$$;
comment on function extract_load.table_metrics_of is
'One row: the last finished run of a raw table, and its failures over so many finished runs. '
'A run that was killed stays "running" and is none.';

create view extract_load.table_metrics as
select known.target_schema, known.target_table, metrics.*
from (
    select run.target_schema, run.target_table from extract_load.table_runs as run
    union
    select mark.target_schema, mark.target_table from extract_load.watermarks as mark
) as known
cross join lateral extract_load.table_metrics_of(known.target_schema, known.target_table, 20)
    as metrics;
comment on view extract_load.table_metrics is
'One row per raw table: its last finished run, its failures over the last 20, its freshness.';
