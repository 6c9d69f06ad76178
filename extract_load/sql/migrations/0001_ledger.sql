-- The ledger: what ran, what is published, what is being loaded, and by whom.

create table extract_load.runs (
    run_id text primary key,
    started_at timestamptz not null default clock_timestamp(),
    finished_at timestamptz,
    status text not null check (status in ('running', 'done', 'failed')),
    invoked_by jsonb not null,
    version text not null,
    peak_rss_bytes bigint
);
comment on table extract_load.runs is 'One row per invocation that reached this target.';

create table extract_load.table_runs (
    run_id text not null references extract_load.runs on delete cascade,
    target_schema text not null,
    target_table text not null,
    source_connection text not null,
    source_table text not null,
    sync_mode text not null,
    status text not null check (status in ('running', 'done', 'failed')),
    baseline boolean,
    window_low text,
    window_high text,
    started_at timestamptz not null default clock_timestamp(),
    published_at timestamptz,
    rows_read bigint not null default 0,
    rows_inserted bigint not null default 0,
    rows_updated bigint not null default 0,
    rows_deleted bigint not null default 0,
    rows_unchanged bigint not null default 0,
    rows_late bigint not null default 0,
    bytes_read bigint not null default 0,
    chunks integer not null default 0,
    chunks_resumed integer not null default 0,
    retries integer not null default 0,
    seconds double precision,
    verified text,
    error jsonb,
    primary key (run_id, target_schema, target_table)
);
comment on table extract_load.table_runs is 'One row per table of a run.';

create table extract_load.watermarks (
    target_schema text not null,
    target_table text not null,
    target_oid bigint not null,
    source_connection text not null,
    source_table text not null,
    sync_mode text not null,
    identity jsonb,
    fingerprint jsonb,
    lsn pg_lsn,
    cursor_value text,
    xid numeric(20),
    loaded_at timestamptz not null,
    published_at timestamptz not null,
    run_id text not null,
    primary key (target_schema, target_table)
);
comment on table extract_load.watermarks is
'One row per raw table this project created: how far it is published. Written with its rows.';
comment on column extract_load.watermarks.target_oid is
'The raw table that was created; a table of that name with another OID is somebody else''s.';
comment on column extract_load.watermarks.published_at is
'Moves with every successful run, also when nothing changed: freshness is measured on it.';
comment on column extract_load.watermarks.loaded_at is
'The _loaded_at of the last publish; the next one is larger.';

create table extract_load.chunks (
    run_id text not null,
    target_schema text not null,
    target_table text not null,
    chunk integer not null,
    range text not null,
    rows bigint,
    bytes bigint,
    loaded_at timestamptz not null default clock_timestamp(),
    primary key (run_id, target_schema, target_table, chunk)
);
comment on table extract_load.chunks is
'Checkpoints of first loads: each committed with its chunk''s rows, gone with the publish.';

create unlogged table extract_load_scratch.chunks (like extract_load.chunks including all);
comment on table extract_load_scratch.chunks is
'Checkpoints of refreshes. Unlogged like the scratch tables: a crash empties both.';

create table extract_load.leases (
    target_schema text not null,
    target_table text not null,
    token uuid not null unique,
    run_id text not null,
    backend_pid integer not null,
    backend_start timestamptz not null,
    acquired_at timestamptz not null default clock_timestamp(),
    heartbeat_at timestamptz not null default clock_timestamp(),
    primary key (target_schema, target_table)
);
comment on table extract_load.leases is
'Who writes a raw table now. A writer holds its token''s row in every transaction.';
