-- What `doctor` asks a server about itself, the role, and what stands in a run's way. Each is one
-- statement by itself: behind a pooler in statement mode there is no transaction.

-- name: version
select current_setting('server_version_num')::int

-- name: server
-- The role, the server's state, and how many connections the role may have. On 13 and later.
select
    role.rolname::text as role,
    pg_is_in_recovery() as is_standby,
    current_setting('default_transaction_read_only')::boolean as is_read_only,
    current_setting('hot_standby_feedback')::boolean as sends_feedback,
    (select setting::bigint from pg_settings where name = 'max_standby_streaming_delay')
        as conflict_delay_ms,
    role.rolsuper or pg_has_role(role.oid, 'pg_read_all_stats', 'usage') as sees_transactions,
    has_database_privilege(database.oid, 'CREATE') as may_create_schemas,
    (
        select sum(pg_database_size(oid))::bigint
        from pg_database
        where has_database_privilege(oid, 'CONNECT')
    ) as databases_bytes,
    (
        (pg_snapshot_xmax(pg_current_snapshot())::text)::bigint
        - (pg_snapshot_xmin(pg_current_snapshot())::text)::bigint
    ) as open_xids
from pg_roles as role
cross join pg_database as database
where role.rolname = current_user and database.datname = current_database()

-- name: connection_limits
-- What bounds the connections of this role, and how many of them others hold now. A superuser is
-- bound by the server alone.
with everyone as (
    select
        count(*) filter (where datid is not null and usesysid is not null) as of_server,
        count(*) filter (where usesysid = role.oid) as of_role,
        count(*) filter (where datid = database.oid and usesysid is not null) as of_database
    from pg_stat_activity
    cross join (select oid from pg_roles where rolname = current_user) as role
    cross join (select oid from pg_database where datname = current_database()) as database
)

select
    'the server' as name,
    current_setting('max_connections')::int - case
        when role.rolsuper then 0
        else current_setting('superuser_reserved_connections')::int
            + coalesce(current_setting('reserved_connections', true)::int, 0)
    end as allowed,
    of_server::int - 1 as used
from pg_roles as role
cross join everyone
where role.rolname = current_user
union all
select 'role "' || role.rolname || '"', role.rolconnlimit, of_role::int - 1
from pg_roles as role
cross join everyone
where role.rolname = current_user and role.rolconnlimit >= 0 and not role.rolsuper
union all
select 'database "' || database.datname || '"', database.datconnlimit, of_database::int - 1
from pg_database as database
cross join pg_roles as role
cross join everyone
where database.datname = current_database() and database.datconnlimit >= 0
    and role.rolname = current_user and not role.rolsuper

-- name: open_writers
-- Transactions that hold the snapshot's xmin back, prepared ones too, the oldest first.
select 'prepared' as state, 'prepared transaction "' || gid || '"' as name,
    owner::text as owner, database::text as database,
    extract(epoch from clock_timestamp() - prepared)::float8 as seconds,
    gid as handle
from pg_prepared_xacts
union all
select state, 'session ' || pid || coalesce(' (' || nullif(application_name, '') || ')', ''),
    usename::text, datname::text,
    extract(epoch from clock_timestamp() - xact_start)::float8,
    pid::text
from pg_stat_activity
where backend_xid is not null and pid <> pg_backend_pid()
order by seconds desc nulls last

-- name: schemas
-- Schemas by name: whether each is there, and what the role may do in it.
select
    wanted.name,
    namespace.oid is not null as is_there,
    coalesce(has_schema_privilege(namespace.oid, 'USAGE'), false) as may_use,
    coalesce(has_schema_privilege(namespace.oid, 'CREATE'), false) as may_create
from unnest(%(names)s::text[]) as wanted (name)
left join pg_namespace as namespace on namespace.nspname = wanted.name
order by wanted.name

-- name: writable
-- Tables the role would write: those of the ledger, and raw tables that are there.
select
    namespace.nspname::text as schema,
    class.relname::text as name,
    class.relkind::text as kind,
    pg_has_role(class.relowner, 'usage') as is_owned,
    array(
        select privilege
        from unnest(array['SELECT', 'INSERT', 'UPDATE', 'DELETE']) as privilege
        where not has_table_privilege(class.oid, privilege)
    ) as missing
from pg_class as class
inner join pg_namespace as namespace on namespace.oid = class.relnamespace
where class.relkind in ('r', 'p') and (
    namespace.nspname = 'extract_load'
    or (namespace.nspname = 'extract_load_scratch' and class.relname = 'chunks')
    or (namespace.nspname, class.relname) in (
        select raw.schema, raw.name
        from unnest(%(schemas)s::text[], %(tables)s::text[]) as raw (schema, name)
    )
)
order by 1, 2

-- name: row_security
-- Which of some relations show the role only the rows that a policy lets through.
select format('%%I.%%I', namespace.nspname, class.relname)
from pg_class as class
inner join pg_namespace as namespace on namespace.oid = class.relnamespace
where class.oid = any(%(oids)s::oid[]) and class.relkind in ('r', 'p')
    and row_security_active(class.oid)
order by 1
