-- What a database's catalog says about a server and about tables.

-- name: server
-- The server and the transaction's snapshot, on a primary or a standby. A primary's timeline is
-- read from a WAL file name: just after a promotion the control file still shows the old one. So it
-- does on a standby that follows a promoted one, up to its next restartpoint.
select
    current_setting('server_version_num')::int as version,
    system.system_identifier::text as system_identifier,
    case when pg_is_in_recovery()
        then greatest(
            checkpoint.timeline_id,
            recovery.min_recovery_end_timeline,
            (select received_tli from pg_stat_wal_receiver)
        )
        else ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int
    end as timeline,
    (select oid::bigint from pg_database where datname = current_database()) as database_oid,
    case when pg_is_in_recovery() then pg_last_wal_replay_lsn()
        else pg_current_wal_insert_lsn()
    end::text as lsn,
    pg_snapshot_xmin(pg_current_snapshot())::text::bigint as xmin,
    pg_snapshot_xmax(pg_current_snapshot())::text::bigint as xmax,
    now()::text as cut_at,
    pg_is_in_recovery() as is_standby,
    current_setting('server_encoding') as encoding
from pg_control_system() as system
cross join pg_control_checkpoint() as checkpoint
cross join pg_control_recovery() as recovery

-- name: lsn
-- The WAL position now.
select
    case when pg_is_in_recovery() then pg_last_wal_replay_lsn()
        else pg_current_wal_insert_lsn()
    end::text

-- name: open_transactions
-- When the oldest transaction of this database began that is not this one. A reading that
-- sees none tells that none is older than itself.
select
    case
        when pg_is_in_recovery() then 'the source is a standby'
        when not pg_has_role(current_user, 'pg_read_all_stats', 'usage')
            then 'the role does not see other sessions'' transactions (pg_read_all_stats)'
        when current_setting('track_activities') = 'off' or bool_or(activity.state = 'disabled')
            then 'sessions do not say what they do (track_activities)'
    end as why_unknown,
    least(min(activity.xact_start), now())::text as since
from pg_stat_activity as activity
where activity.datid = (select oid from pg_database where datname = current_database())
    and activity.pid <> pg_backend_pid()
    and activity.backend_type <> 'autovacuum worker'

-- name: prepared_transactions
select count(*) from pg_prepared_xacts where database = current_database()

-- name: relations
-- Relations by name, with their sizes on disk (TOAST and its index too, other indexes not).
select
    wanted.position,
    class.oid::bigint,
    class.relkind::text,
    class.reltuples::bigint,
    coalesce(pg_relation_size(class.oid), 0) as heap_bytes,
    coalesce(pg_table_size(class.oid), 0) as table_bytes,
    current_setting('block_size')::int as block_bytes
from unnest(%(schemas)s::name[], %(tables)s::name[]) with ordinality as wanted (
    schema, name, position
)
inner join pg_namespace as namespace on namespace.nspname = wanted.schema
inner join pg_class as class
    on class.relnamespace = namespace.oid and class.relname = wanted.name
where class.relkind in ('r', 'p', 'v', 'm', 'f')

-- name: leaves
-- The relations that tables' rows are read from: themselves, or the partitions that hold rows. One
-- that is being detached concurrently is no part of its table for a new snapshot (14 and later).
with recursive tree as (
    select oid as root, oid, relkind from pg_class where oid = any(%(oids)s::oid[])
    union all
    select tree.root, class.oid, class.relkind
    from tree
    inner join pg_inherits as inherits on inherits.inhparent = tree.oid
    inner join pg_class as class on class.oid = inherits.inhrelid
    where tree.relkind = 'p'
        and not coalesce((to_jsonb(inherits) ->> 'inhdetachpending')::boolean, false)
)
select
    tree.root::bigint,
    class.oid::bigint,
    namespace.nspname::text,
    class.relname::text,
    class.relkind::text,
    case when class.relkind in ('v', 'm') then md5(pg_get_viewdef(class.oid)) end,
    class.reltuples::bigint,
    coalesce(pg_relation_size(class.oid), 0),
    coalesce(pg_table_size(class.oid), 0),
    coalesce(pg_relation_size(nullif(class.reltoastrelid, 0)), 0),
    has_table_privilege(class.oid, 'SELECT') as is_granted,
    array(
        select name
        from (values ('ctid', -1), ('xmin', -2)) as system_column (name, number)
        where has_column_privilege(class.oid, number::int2, 'SELECT')
    ) as granted_system_columns
from tree
inner join pg_class as class on class.oid = tree.oid
inner join pg_namespace as namespace on namespace.oid = class.relnamespace
where class.relkind <> 'p'
order by tree.root, class.oid

-- name: heaps
-- Where the rows of relations stand: their own heap; for a view those of all it reads from, with
-- their children, since it may read these too.
with recursive used as (
    select class.oid as leaf, class.oid, class.relkind
    from pg_class as class
    where class.oid = any(%(oids)s::oid[])
    union
    select used.leaf, class.oid, class.relkind
    from used
    cross join lateral (
        select dependency.refobjid
        from pg_rewrite as rule
        inner join pg_depend as dependency
            on dependency.classid = 'pg_rewrite'::regclass and dependency.objid = rule.oid
        where used.relkind = 'v' and rule.ev_class = used.oid
            and dependency.refclassid = 'pg_class'::regclass
        union all
        select inhrelid from pg_inherits where inhparent = used.oid and used.oid <> used.leaf
    ) as next (oid)
    inner join pg_class as class on class.oid = next.oid
)
select used.leaf::bigint, class.oid::bigint, class.relfilenode::bigint
from used
inner join pg_class as class on class.oid = used.oid
where class.relkind in ('r', 'm') and class.relfilenode <> 0
order by used.leaf, class.oid

-- name: near_tables
-- Relations with rows that share their schema or, but for case, their name with one that is not
-- there; those that the role may enter, of the same name first, then of the same schema.
select
    namespace.nspname::text,
    class.relname::text
from pg_class as class
inner join pg_namespace as namespace on namespace.oid = class.relnamespace
where
    class.relkind in ('r', 'p', 'v', 'm', 'f')
    and (namespace.nspname = %(schema)s or lower(class.relname) = lower(%(table)s))
    and has_schema_privilege(namespace.oid, 'usage')
order by
    lower(class.relname) <> lower(%(table)s),
    namespace.nspname <> %(schema)s,
    namespace.nspname,
    class.relname
limit 1000

-- name: children
-- Tables that inherit from plain ones, each with its estimated rows.
select
    inherits.inhparent::bigint,
    format('%%I.%%I', namespace.nspname, class.relname) as name,
    class.reltuples::bigint
from pg_inherits as inherits
inner join pg_class as class on class.oid = inherits.inhrelid
inner join pg_namespace as namespace on namespace.oid = class.relnamespace
where inherits.inhparent = any(%(oids)s::oid[])
order by inherits.inhparent, name

-- name: columns
-- The columns of relations in order, with what makes their content: type, missing value,
-- generation.
select
    attribute.attrelid::bigint,
    attribute.attnum::int,
    attribute.attname::text,
    attribute.atttypid::bigint,
    attribute.atttypmod,
    format_type(attribute.atttypid, attribute.atttypmod),
    attribute.attnotnull and not exists (
        select from pg_constraint as constraint_
        where constraint_.conrelid = attribute.attrelid and constraint_.contype = 'n'
            and constraint_.conkey = array[attribute.attnum] and not constraint_.convalidated
    ),
    attribute.attgenerated::text <> '' as is_generated,
    attribute.attmissingval::text,
    pg_get_expr(definition.adbin, definition.adrelid) as default_expression,
    col_description(attribute.attrelid, attribute.attnum),
    has_column_privilege(attribute.attrelid, attribute.attnum, 'SELECT') as is_readable
from pg_attribute as attribute
left join pg_attrdef as definition
    on definition.adrelid = attribute.attrelid and definition.adnum = attribute.attnum
where attribute.attrelid = any(%(oids)s::oid[])
    and attribute.attnum > 0 and not attribute.attisdropped
order by attribute.attrelid, attribute.attnum

-- name: rewritten
-- What the transaction has read from since its savepoint, as its locks tell, and that is not what its
-- snapshot knows: pg_class is the snapshot's; files, and names as regclass prints them, are of now.
-- A relation that the snapshot does not know is new, unless it is an index.
select held.relation::pg_catalog.regclass::pg_catalog.text
from pg_catalog.pg_locks as held
left join pg_catalog.pg_class as class on class.oid = held.relation
left join pg_catalog.pg_namespace as namespace on namespace.oid = class.relnamespace
where held.pid = pg_catalog.pg_backend_pid()
    and held.locktype = 'relation'
    and held.relation >= 16384
    and case
        when class.oid is null then pg_catalog.pg_get_indexdef(held.relation) is null
        when class.relkind not in ('r', 'm') then false
        else class.relfilenode <> pg_catalog.pg_relation_filenode(class.oid)
            or held.relation::pg_catalog.regclass::pg_catalog.text not in (
                pg_catalog.quote_ident(class.relname),
                pg_catalog.quote_ident(namespace.nspname)
                || '.' || pg_catalog.quote_ident(class.relname)
            )
    end
limit 1

-- name: types
-- Types of columns, each with the types it is made of (elements and bases).
with recursive used as (
    select root, root as oid
    from unnest(%(oids)s::oid[]) as root
    union
    select used.root, part.oid
    from used
    inner join pg_type as type on type.oid = used.oid
    cross join lateral (
        select type.typelem
        union all
        select type.typbasetype
        union all
        select atttypid
        from pg_attribute
        where attrelid = type.typrelid and attnum > 0 and not attisdropped
        union all
        select part_of.rngsubtype
        from pg_range as part_of
        where type.oid in (part_of.rngtypid, (to_jsonb(part_of) ->> 'rngmultitypid')::oid)
    ) as part (oid)
    where part.oid <> 0
)
select
    used.root::bigint,
    type.oid::bigint,
    namespace.nspname::text,
    type.typname::text,
    type.typtype::text,
    case when type.typcategory = 'A' then type.typelem else 0 end::bigint as element_oid,
    type.typbasetype::bigint,
    format_type(type.typbasetype, type.typtypmod) as base_text,
    array(
        select enumlabel::text from pg_enum where enumtypid = type.oid order by enumsortorder
    ) as labels,
    array(
        select attname || ' ' || format_type(atttypid, atttypmod)
        from pg_attribute
        where attrelid = type.typrelid and attnum > 0 and not attisdropped
        order by attnum
    ) as attributes,
    extension.extname::text as extension,
    format_type(type.oid, null) as plain_text,
    array(
        select attnum::int
        from pg_attribute
        where attrelid = type.typrelid and attnum > 0 and not attisdropped
        order by attnum
    ) as numbers
from used
inner join pg_type as type on type.oid = used.oid
inner join pg_namespace as namespace on namespace.oid = type.typnamespace
left join pg_depend as dependency
    on dependency.classid = 'pg_type'::regclass and dependency.objid = type.oid
    and dependency.refclassid = 'pg_extension'::regclass and dependency.deptype = 'e'
left join pg_extension as extension on extension.oid = dependency.refobjid

-- name: row_versions
-- The versions of all catalog rows that say what plain tables are: a digest of each that stays the
-- same as long as nobody wrote one of them. Whoever changes a row in the catalog gives it a new
-- xmin; what is updated in place (relpages, reltuples) says nothing of the content.
with wanted as (
    select *
    from unnest(%(oids)s::oid[], %(schemas)s::name[], %(tables)s::name[]) as wanted (
        oid, schema, name
    )
),

used as (
    select pair.of_table, type.oid, type.typnamespace, type.typrelid
    from unnest(%(owners)s::oid[], %(types)s::oid[]) as pair (of_table, type)
    inner join pg_type as type on type.oid = pair.type
),

attributes as (
    select relation.of_table, attrelid, attnum::int, atttypid, attribute.xmin
    from (
        select oid, oid from wanted
        union all
        select of_table, typrelid from used where typrelid <> 0
    ) as relation (of_table, oid)
    inner join pg_attribute as attribute on attribute.attrelid = relation.oid
    where attnum > 0
),

types as (
    select of_type.of_table, type.oid, type.typnamespace, type.xmin
    from (
        select of_table, oid from used
        union
        select of_table, atttypid from attributes
    ) as of_type
    inner join pg_type as type on type.oid = of_type.oid
),

namespaces as (
    select of_table, typnamespace as oid from types
    union
    select wanted.oid, namespace.oid
    from wanted
    inner join pg_namespace as namespace on namespace.nspname = wanted.schema
),

versions (of_table, kind, part, number, version) as (
    select of_table, 'attribute', attrelid, attnum, xmin from attributes
    union all
    select class.oid, 'table', class.oid, 0, class.xmin
    from wanted
    inner join pg_class as class on class.oid = wanted.oid and class.relname = wanted.name
    union all
    select adrelid, 'default', adrelid, adnum, definition.xmin
    from wanted
    inner join pg_attrdef as definition on definition.adrelid = wanted.oid
    union all
    select of_table, 'type', oid, 0, xmin from types
    union all
    select used.of_table, 'label', label.oid, 0, label.xmin
    from used
    inner join pg_enum as label on label.enumtypid = used.oid
    union all
    select namespaces.of_table, 'namespace', namespace.oid, 0, namespace.xmin
    from namespaces
    inner join pg_namespace as namespace on namespace.oid = namespaces.oid
)

select of_table::bigint, md5(string_agg(
    format('%%s %%s %%s %%s', kind, part, number, version), ',' order by kind, part, number
))
from versions
group by of_table

-- name: unique_keys
-- Column lists of valid, whole-table unique indexes over plain columns. One that is deferrable
-- proves nothing while a transaction runs.
select
    index.indrelid::bigint,
    index.indisprimary,
    index.indimmediate,
    array_agg(attribute.attname::text order by key.position) as columns
from pg_index as index
cross join lateral unnest(index.indkey::int2[]) with ordinality as key (attnum, position)
inner join pg_attribute as attribute
    on attribute.attrelid = index.indrelid and attribute.attnum = key.attnum
where index.indrelid = any(%(oids)s::oid[])
    and index.indisunique and index.indisvalid
    and index.indpred is null and index.indexprs is null
    and key.position <= index.indnkeyatts
group by index.indrelid, index.indexrelid, index.indisprimary, index.indimmediate
order by index.indrelid, index.indisprimary desc, index.indexrelid

-- name: leading_index_columns
-- Columns that some usable index begins with, and whether it keeps them under collation "C".
select distinct
    index.indrelid::bigint,
    attribute.attname::text,
    index.indcollation[0] = 'pg_catalog."C"'::regcollation as is_byte_ordered
from pg_index as index
inner join pg_attribute as attribute
    on attribute.attrelid = index.indrelid and attribute.attnum = index.indkey[0]
where index.indrelid = any(%(oids)s::oid[]) and index.indisvalid and index.indpred is null

-- name: fares
-- How a server fares: the largest lag of a standby, and who is active beside this program.
select
    (select max(replay_lag) from pg_stat_replication) as lag,
    case
        when pg_has_role('pg_read_all_stats', 'usage')
            or current_setting('is_superuser')::boolean
            then (
                select count(*)
                from pg_stat_activity
                where state = 'active' and backend_type = 'client backend'
                    and not starts_with(application_name, 'extract-load')
            )
    end::int as active

-- name: blockers
-- Which of some backends hold a lock that a session of somebody else waits for.
select distinct ours.pid
from unnest(%(pids)s::int[]) as ours (pid)
inner join pg_locks as waiting
    on not waiting.granted and waiting.pid <> all (%(pids)s::int[])
where ours.pid = any (pg_blocking_pids(waiting.pid))

-- name: is_working
-- Whether a backend does something, and does not wait for its client to take or send bytes.
select state = 'active' and wait_event_type is distinct from 'Client'
from pg_stat_activity
where pid = %(pid)s
