-- What the catalog of a source says about the names in a custom_where.

-- name: called_functions
-- Every function that names of a predicate may lead to: by itself, behind an operator, behind a
-- cast to a type (its input, its casts, the checks of a domain), or behind an implicit cast.
with wanted as (
    select *
    from unnest(
        %(kinds)s::text[], %(schemas)s::text[], %(names)s::text[], %(arguments)s::int[]
    ) as wanted (kind, schema, name, arguments)
),

visible as (
    select wanted.*, namespace.oid as namespace
    from wanted
    inner join pg_namespace as namespace
        on case
            when wanted.schema = '' then namespace.nspname = any(%(path)s::text[])
            else namespace.nspname = wanted.schema
        end
),

reached (kind, name, function) as (
    select 'function', proc.proname::text, proc.oid
    from visible
    inner join pg_proc as proc
        on proc.pronamespace = visible.namespace and proc.proname = visible.name
    where visible.kind = 'function' and (
        visible.arguments between proc.pronargs - proc.pronargdefaults and proc.pronargs
        or proc.provariadic <> 0 and visible.arguments >= proc.pronargs - 1
    )
    union all
    select 'operator', operator.oprname::text, operator.oprcode::oid
    from visible
    inner join pg_operator as operator
        on operator.oprnamespace = visible.namespace and operator.oprname = visible.name
    where visible.kind = 'operator'
    union all
    select 'type', type.typname::text, behind.function
    from visible
    inner join pg_type as type
        on type.typnamespace = visible.namespace and type.typname = visible.name
    cross join lateral (
        select type.typinput::oid
        union all
        select castfunc from pg_cast where casttarget = type.oid and castfunc <> 0
        union all
        select dependency.refobjid
        from pg_constraint as constraint_
        inner join pg_depend as dependency
            on dependency.classid = 'pg_constraint'::regclass
            and dependency.objid = constraint_.oid
            and dependency.refclassid = 'pg_proc'::regclass
        where constraint_.contypid = type.oid
    ) as behind (function)
    where visible.kind in ('type', 'function')
    union all
    select 'implicit cast', format_type(casttarget, null), castfunc
    from pg_cast
    where castcontext = 'i' and castfunc <> 0
)

select distinct
    reached.kind || ' ' || namespace.nspname || '.' || reached.name as what,
    proc.proname::text as name,
    proc.provolatile = 'v' as is_volatile,
    -- What PostgreSQL and its extensions bring depends on settings, which are pinned, and reads no
    -- table; an implicit cast need not be one that is taken.
    proc.provolatile = 's' and reached.kind <> 'implicit cast' and own.is_own as reads_more,
    proc.provolatile = 'v' or reached.kind = 'function'
        or (proc.provolatile = 's' and namespace.nspname <> 'pg_catalog') as is_judged,
    -- As the transaction's snapshot has it: pg_get_functiondef prints what is there now, and locks
    -- what a body names.
    case when own.is_own then md5(concat(
        (to_jsonb(proc) - array['oid', 'proowner', 'proacl'])::text,
        (select to_jsonb(aggregate)::text from pg_aggregate as aggregate where aggfnoid = proc.oid)
    )) end as definition
from reached
inner join pg_proc as proc on proc.oid = reached.function
inner join pg_namespace as namespace on namespace.oid = proc.pronamespace
cross join lateral (
    select namespace.nspname <> 'pg_catalog' and not exists (
        select from pg_depend as member
        where member.classid = 'pg_proc'::regclass and member.objid = proc.oid
            and member.deptype = 'e'
    ) as is_own
) as own
where own.is_own or proc.provolatile = 'v' or reached.kind = 'function'
    or (proc.provolatile = 's' and proc.pronamespace <> 'pg_catalog'::regnamespace)
order by what
