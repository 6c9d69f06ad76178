-- What types a target has, beside those of its users.

-- name: types
-- Builtin types, and types of extensions with what they are made of and how their values are
-- compared: the schema and the name of the equality operator of their default index order.
select
    current_setting('server_version_num')::int,
    extension.extname::text,
    type.typname::text,
    format_type(type.oid, null),
    array(
        select enumlabel::text from pg_enum where enumtypid = type.oid order by enumsortorder
    ) || array(
        select attname || ' ' || format_type(atttypid, atttypmod)
        from pg_attribute
        where attrelid = type.typrelid and attnum > 0 and not attisdropped
        order by attnum
    ) as parts,
    equality.schema,
    equality.operator
from pg_type as type
inner join pg_namespace as namespace on namespace.oid = type.typnamespace
left join pg_depend as dependency
    on dependency.classid = 'pg_type'::regclass and dependency.objid = type.oid
    and dependency.refclassid = 'pg_extension'::regclass and dependency.deptype = 'e'
left join pg_extension as extension on extension.oid = dependency.refobjid
left join lateral (
    select place.nspname::text as schema, operator.oprname::text as operator
    from pg_opclass as class
    inner join pg_am as method on method.oid = class.opcmethod and method.amname = 'btree'
    inner join pg_amop as member
        on member.amopfamily = class.opcfamily and member.amopstrategy = 3
        and member.amoplefttype = type.oid and member.amoprighttype = type.oid
    inner join pg_operator as operator on operator.oid = member.amopopr
    inner join pg_namespace as place on place.oid = operator.oprnamespace
    where class.opcdefault and class.opcintype = type.oid
) as equality on true
where extension.oid is not null
    or (namespace.nspname = 'pg_catalog' and type.oid < 16384 and type.typtype in ('b', 'r', 'm'))
