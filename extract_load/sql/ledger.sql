-- Queries on the ledger. Each runs inside the caller's transaction.

-- name: start_run
insert into extract_load.runs (run_id, status, invoked_by, version)
values (%(run_id)s, 'running', %(invoked_by)s, %(version)s)
on conflict (run_id) do nothing

-- name: finish_run
update extract_load.runs
set
    status = %(status)s,
    finished_at = clock_timestamp(),
    peak_rss_bytes = %(peak_rss_bytes)s
where run_id = %(run_id)s

-- name: start_table_run
insert into extract_load.table_runs (
    run_id, target_schema, target_table, source_connection, source_table, sync_mode, status
)
values (
    %(run_id)s, %(target_schema)s, %(target_table)s,
    %(source_connection)s, %(source_table)s, %(sync_mode)s, 'running'
)
on conflict (run_id, target_schema, target_table) do nothing

-- name: finish_table_run
update extract_load.table_runs
set
    status = %(status)s,
    baseline = %(baseline)s,
    window_low = %(window_low)s,
    window_high = %(window_high)s,
    published_at = %(published_at)s,
    rows_read = %(rows_read)s,
    rows_inserted = %(rows_inserted)s,
    rows_updated = %(rows_updated)s,
    rows_deleted = %(rows_deleted)s,
    rows_unchanged = %(rows_unchanged)s,
    rows_late = %(rows_late)s,
    bytes_read = %(bytes_read)s,
    chunks = %(chunks)s,
    chunks_resumed = %(chunks_resumed)s,
    retries = %(retries)s,
    seconds = %(seconds)s,
    peak_rss_bytes = %(peak_rss_bytes)s,
    verified = %(verified)s,
    error = %(error)s
where run_id = %(run_id)s
    and target_schema = %(target_schema)s
    and target_table = %(target_table)s

-- name: read_watermark
-- Through JSON where an older ledger, which `plan` and `verify` leave as it is, lacks the column.
select
    target_oid, identity, fingerprint, lsn::text, cursor_value, xid, loaded_at::text,
    (to_jsonb(watermark) ->> 'open_for')::interval,
    (to_jsonb(watermark) ->> 'snapshot_xid')::numeric,
    run_id,
    to_jsonb(watermark) -> 'raw_mark'
from extract_load.watermarks as watermark
where target_schema = %(target_schema)s and target_table = %(target_table)s

-- name: write_watermark
insert into extract_load.watermarks (
    target_schema, target_table, target_oid, source_connection, source_table, sync_mode,
    identity, fingerprint, lsn, cursor_value, open_for, xid, snapshot_xid, raw_mark,
    loaded_at, published_at, run_id
)
values (
    %(target_schema)s, %(target_table)s, %(target_oid)s,
    %(source_connection)s, %(source_table)s, %(sync_mode)s,
    %(identity)s, %(fingerprint)s, %(lsn)s, %(cursor_value)s, %(open_for)s, %(xid)s,
    %(snapshot_xid)s, %(raw_mark)s,
    %(loaded_at)s, clock_timestamp(), %(run_id)s
)
on conflict (target_schema, target_table) do update
set
    target_oid = excluded.target_oid,
    source_connection = excluded.source_connection,
    source_table = excluded.source_table,
    sync_mode = excluded.sync_mode,
    identity = excluded.identity,
    fingerprint = excluded.fingerprint,
    lsn = excluded.lsn,
    cursor_value = excluded.cursor_value,
    open_for = excluded.open_for,
    xid = excluded.xid,
    snapshot_xid = excluded.snapshot_xid,
    raw_mark = excluded.raw_mark,
    loaded_at = excluded.loaded_at,
    published_at = excluded.published_at,
    run_id = excluded.run_id

-- name: forget_watermark
-- Who created the raw table, its OID and when it was published stay known.
update extract_load.watermarks
set
    identity = null, fingerprint = null, lsn = null, cursor_value = null, open_for = null,
    xid = null, snapshot_xid = null, raw_mark = null
where target_schema = %(target_schema)s and target_table = %(target_table)s

-- name: forget_fingerprint
update extract_load.watermarks
set fingerprint = null
where target_schema = %(target_schema)s and target_table = %(target_table)s

-- name: forget_mark
update extract_load.watermarks
set raw_mark = null
where target_schema = %(target_schema)s and target_table = %(target_table)s

-- name: acquire_lease
insert into extract_load.leases (
    target_schema, target_table, token, run_id, backend_pid, backend_start
)
select
    %(target_schema)s, %(target_table)s, %(token)s, %(run_id)s,
    case when %(is_pooled)s then 0 else pid end, backend_start
from pg_stat_activity
where pid = pg_backend_pid()
on conflict (target_schema, target_table) do nothing
returning token

-- name: read_lease
-- The lease, and whether its owner is gone: seen to have ended, or silent for too long. Behind a
-- pooler (backend 0) a backend serves others too, and may be closed while its owner lives.
-- NO KEY UPDATE, since the owner's chunks hold KEY SHARE on the row.
select
    lease.run_id,
    lease.acquired_at::text,
    lease.heartbeat_at < clock_timestamp() - make_interval(secs => %(expiry_seconds)s)
    or lease.backend_pid <> 0 and not exists (
        select from pg_stat_activity as activity
        where activity.pid = lease.backend_pid
            and coalesce(activity.backend_start, lease.backend_start) = lease.backend_start
    ) as is_ownerless,
    lease.token
from extract_load.leases as lease
where lease.target_schema = %(target_schema)s and lease.target_table = %(target_table)s
for no key update of lease

-- name: end_owner
-- Every backend of the run that held the lease, so that none of its transactions is still to come.
select pg_terminate_backend(pid)
from pg_stat_activity
where application_name = %(application_name)s and pid <> pg_backend_pid()

-- name: take_over_lease
update extract_load.leases as lease
set
    token = %(token)s,
    run_id = %(run_id)s,
    backend_pid = case when %(is_pooled)s then 0 else activity.pid end,
    backend_start = activity.backend_start,
    acquired_at = clock_timestamp(),
    heartbeat_at = clock_timestamp()
from pg_stat_activity as activity
where activity.pid = pg_backend_pid()
    and lease.target_schema = %(target_schema)s
    and lease.target_table = %(target_table)s

-- name: end_backend
-- The backend that stands for a lease: its connection is lost, but it may not know it yet.
select pg_terminate_backend(activity.pid)
from extract_load.leases as lease
inner join pg_stat_activity as activity
    on activity.pid = lease.backend_pid and activity.backend_start = lease.backend_start
where lease.token = %(token)s and activity.pid <> pg_backend_pid()

-- name: reclaim_lease
-- FOR UPDATE waits for every transaction that holds the fence.
with mine as (
    select token from extract_load.leases where token = %(token)s for update
)

update extract_load.leases as lease
set
    backend_pid = case when %(is_pooled)s then 0 else activity.pid end,
    backend_start = activity.backend_start,
    heartbeat_at = clock_timestamp()
from mine
cross join pg_stat_activity as activity
where activity.pid = pg_backend_pid() and lease.token = mine.token
returning lease.token

-- name: hold_lease
-- The fence: while this row lock stands nobody can take the lease over.
-- It tells which transaction of which backend holds it: a lost connection cannot be asked any more,
-- and through a pooler another backend runs the transaction than was told at login.
-- The function looks at one backend, the view at all.
select
    pg_backend_pid(),
    (select backend_start::text from pg_stat_get_activity(pg_backend_pid())),
    pg_current_xact_id()::xid::text
from extract_load.leases
where token = %(token)s
for key share

-- name: end_transaction
-- A backend, if it is the same and still in the same transaction: a pooler gives it to others.
select pg_terminate_backend(pid)
from pg_stat_activity
where pid = %(pid)s
    and backend_start = %(backend_start)s::timestamptz
    and backend_xid = %(xid)s::xid

-- name: beat
update extract_load.leases set heartbeat_at = clock_timestamp() where run_id = %(run_id)s

-- name: release_lease
delete from extract_load.leases where token = %(token)s

-- name: done_by_task
-- Raw tables whose newest run by one Airflow task of one DAG run is done.
select newest.target_schema, newest.target_table
from (
    select distinct on (table_run.target_schema, table_run.target_table)
        table_run.target_schema,
        table_run.target_table,
        table_run.status
    from extract_load.runs as run
    inner join extract_load.table_runs as table_run on table_run.run_id = run.run_id
    where run.invoked_by ->> 'run_id' = %(run_id)s
        and run.invoked_by ->> 'dag_id' = %(dag_id)s
        and run.invoked_by ->> 'task_id' = %(task_id)s
    order by table_run.target_schema, table_run.target_table, table_run.started_at desc
) as newest
where newest.status = 'done'

-- name: status
-- Every raw table and every table ever tried, with its last run. Times are ISO 8601 in UTC.
with last_run as (
    select distinct on (target_schema, target_table) *
    from extract_load.table_runs
    order by target_schema, target_table, started_at desc
),

open_chunk as (
    select target_schema, target_table from extract_load.chunks
    union all
    select target_schema, target_table from extract_load_scratch.chunks
)

select
    target_schema,
    target_table,
    coalesce(watermark.source_table, last_run.source_table),
    last_run.status,
    last_run.run_id,
    to_char(last_run.started_at, 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'),
    to_char(watermark.published_at, 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'),
    extract(epoch from clock_timestamp() - watermark.published_at)::float8,
    coalesce(watermark.cursor_value, watermark.xid::text),
    (
        select count(*)
        from open_chunk
        where open_chunk.target_schema = last_run.target_schema
            and open_chunk.target_table = last_run.target_table
    )::int,
    lease.run_id,
    last_run.error ->> 'primary'
from last_run
full join extract_load.watermarks as watermark using (target_schema, target_table)
left join extract_load.leases as lease using (target_schema, target_table)
order by target_schema, target_table

-- name: table_health
-- How some raw tables fare, over so many of their finished runs. Ages by this server's clock.
select
    wanted.target_schema,
    wanted.target_table,
    metrics.runs,
    metrics.failures,
    1 - metrics.error_rate,
    metrics.status,
    metrics.seconds,
    metrics.rows_per_second,
    metrics.peak_rss_bytes,
    to_char(metrics.published_at, 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'),
    extract(epoch from clock_timestamp() - metrics.published_at)::float8,
    metrics.last_error
from unnest(%(schemas)s::text[], %(tables)s::text[]) as wanted (target_schema, target_table)
cross join lateral extract_load.table_metrics_of(
    wanted.target_schema, wanted.target_table, %(over_last_runs)s
) as metrics

-- name: abandoned
-- Tables that nobody landed for a while, with what a dead run of theirs left: a scratch table, a
-- checkpoint, a lease. The names of scratch tables follow from those of raw tables.
with landed as (
    select target_schema, target_table, max(started_at) as started_at
    from extract_load.table_runs
    group by target_schema, target_table
),

idle as (
    select
        target_schema,
        target_table,
        '_el_' || left(encode(sha256(
            convert_to(target_schema, 'UTF8') || '\x00'::bytea || convert_to(target_table, 'UTF8')
        ), 'hex'), 24) as scratch
    from landed
    where started_at < clock_timestamp() - make_interval(secs => %(seconds)s)
)

select target_schema, target_table, scratch
from idle
where
    exists (
        select from pg_class
        inner join pg_namespace as namespace on namespace.oid = relnamespace
        where relname = idle.scratch and relkind = 'r'
            and namespace.nspname in (idle.target_schema, 'extract_load_scratch')
    )
    or exists (
        select from extract_load.leases as lease
        where (lease.target_schema, lease.target_table) = (idle.target_schema, idle.target_table)
    )
    or exists (
        select from extract_load.chunks as chunk
        where (chunk.target_schema, chunk.target_table) = (idle.target_schema, idle.target_table)
    )
    or exists (
        select from extract_load_scratch.chunks as chunk
        where (chunk.target_schema, chunk.target_table) = (idle.target_schema, idle.target_table)
    )
order by target_schema, target_table

-- name: forget_old_runs
-- Rows of their tables go with them.
delete from extract_load.runs
where started_at < clock_timestamp() - make_interval(secs => %(seconds)s)
