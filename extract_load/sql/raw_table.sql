-- What a target's catalog says about a raw table beyond its columns: who reads it, what holds it.

-- name: facts
-- What decides whether a table may be adopted, and what its key is called.
select
    class.relpersistence::text as persistence,
    exists (
        select from pg_inherits where inhrelid = class.oid or inhparent = class.oid
    ) as is_in_tree,
    exists (select from pg_inherits where inhparent = class.oid) as has_children,
    class.relforcerowsecurity as forces_row_security,
    array(
        select trigger.tgname::text
        from pg_trigger as trigger
        where trigger.tgrelid = class.oid and not trigger.tgisinternal
            and trigger.tgenabled in ('O', 'A')
            and trigger.tgtype & 1 = 1
        order by 1
    ) as row_triggers,
    exists (
        select from pg_trigger as trigger
        where trigger.tgrelid = class.oid and not trigger.tgisinternal
            and trigger.tgenabled <> 'D'
    ) as has_triggers,
    array(
        select rule.rulename::text
        from pg_rewrite as rule
        where rule.ev_class = class.oid and rule.rulename <> '_RETURN'
        order by 1
    ) as rules,
    array(
        select attribute.attname::text
        from pg_attribute as attribute
        where attribute.attrelid = class.oid and attribute.attnum > 0
            and not attribute.attisdropped and attribute.attidentity = 'a'
        order by attribute.attnum
    ) as always_identity,
    array(
        select attribute.attname::text
        from pg_attribute as attribute
        where attribute.attrelid = class.oid and attribute.attnum > 0
            and not attribute.attisdropped
            and (attribute.atthasdef or attribute.attidentity <> '')
        order by attribute.attnum
    ) as filled_by_default,
    (
        select conname::text from pg_constraint where conrelid = class.oid and contype = 'p'
    ) as key_constraint,
    array(
        select unnest(conkey)::int from pg_constraint where conrelid = class.oid and contype = 'c'
        union
        select dependency.refobjsubid
        from pg_index as index
        inner join pg_depend as dependency
            on dependency.classid = 'pg_class'::regclass
            and dependency.objid = index.indexrelid
            and dependency.refclassid = 'pg_class'::regclass
            and dependency.refobjid = index.indrelid
        where index.indrelid = class.oid
            and (index.indpred is not null or index.indexprs is not null)
        order by 1
    ) as proved_anew
from pg_class as class
where class.oid = %(oid)s

-- name: column_readers
-- By column number (0: the row as a whole), what PostgreSQL would not alter the column under:
-- views with all that stands on them, and what else holds an expression over it.
with recursive reader as (
    select dependency.refobjsubid as number, rule.ev_class as oid
    from pg_depend as dependency
    inner join pg_rewrite as rule on rule.oid = dependency.objid
    where dependency.classid = 'pg_rewrite'::regclass
        and dependency.refclassid = 'pg_class'::regclass
        and dependency.refobjid = %(oid)s and rule.ev_class <> dependency.refobjid
    union
    select reader.number, rule.ev_class
    from reader
    inner join pg_depend as dependency
        on dependency.refclassid = 'pg_class'::regclass and dependency.refobjid = reader.oid
    inner join pg_rewrite as rule
        on rule.oid = dependency.objid and dependency.classid = 'pg_rewrite'::regclass
    where rule.ev_class <> reader.oid
)

select
    reader.number::int,
    true as is_view,
    array_agg(distinct namespace.nspname || '.' || class.relname) as names
from reader
inner join pg_class as class on class.oid = reader.oid
inner join pg_namespace as namespace on namespace.oid = class.relnamespace
group by reader.number
union all
select
    dependency.refobjsubid::int,
    false,
    array_agg(distinct pg_describe_object(dependency.classid, dependency.objid, 0))
from pg_depend as dependency
left join pg_rewrite as rule
    on dependency.classid = 'pg_rewrite'::regclass and rule.oid = dependency.objid
left join pg_attrdef as definition
    on dependency.classid = 'pg_attrdef'::regclass and definition.oid = dependency.objid
where dependency.refclassid = 'pg_class'::regclass
    and dependency.refobjid = %(oid)s
    and dependency.refobjsubid > 0
    and (
        rule.ev_class = dependency.refobjid
        or (definition.adrelid = dependency.refobjid
            and definition.adnum <> dependency.refobjsubid)
        or dependency.classid = any (array[
            'pg_policy'::regclass, 'pg_trigger'::regclass, 'pg_proc'::regclass,
            'pg_publication_rel'::regclass
        ]::oid[])
    )
group by dependency.refobjsubid
order by 1, 2

-- name: key_holders
-- What would not let the primary key go: foreign keys, views that group by it, and replication
-- that tells rows apart by it.
select pg_describe_object(dependency.classid, dependency.objid, 0)
from pg_constraint as constraint_
inner join pg_depend as dependency
    on dependency.refclassid = 'pg_constraint'::regclass
    and dependency.refobjid = constraint_.oid and dependency.deptype = 'n'
where constraint_.conrelid = %(oid)s and constraint_.contype = 'p'
union
select pg_describe_object('pg_constraint'::regclass, referring.oid, 0)
from pg_constraint as constraint_
inner join pg_constraint as referring
    on referring.contype = 'f' and referring.conindid = constraint_.conindid
where constraint_.conrelid = %(oid)s and constraint_.contype = 'p'
union
select 'replica identity of ' || pg_describe_object('pg_class'::regclass, index.indexrelid, 0)
from pg_index as index
where index.indrelid = %(oid)s and index.indisprimary and index.indisreplident
union
select 'publication ' || published.pubname
from pg_publication_tables as published
inner join pg_publication as publication on publication.pubname = published.pubname
inner join pg_class as class on class.oid = %(oid)s
inner join pg_namespace as namespace on namespace.oid = class.relnamespace
where published.schemaname = namespace.nspname and published.tablename = class.relname
    and (publication.pubupdate or publication.pubdelete) and class.relreplident = 'd'
order by 1

-- name: foreign_keys
-- Foreign keys that refer to a table, and what they do when a row of it is deleted or changed.
with action (letter, name) as (
    values
    ('a', 'NO ACTION'), ('r', 'RESTRICT'), ('c', 'CASCADE'), ('n', 'SET NULL'), ('d', 'SET DEFAULT')
)

select
    constraint_.conname::text,
    constraint_.conrelid::regclass::text,
    (select name from action where letter = constraint_.confdeltype::text),
    (select name from action where letter = constraint_.confupdtype::text),
    array(
        select attribute.attname::text
        from pg_attribute as attribute
        where attribute.attrelid = constraint_.confrelid
            and attribute.attnum = any (constraint_.confkey)
        order by attribute.attnum
    ),
    constraint_.conrelid = constraint_.confrelid as is_own
from pg_constraint as constraint_
where constraint_.confrelid = to_regclass(%(name)s) and constraint_.contype = 'f'
order by constraint_.conrelid::regclass::text, constraint_.conname

-- name: lock_holders
-- Sessions that hold a lock on a table, for people.
select coalesce(nullif(activity.application_name, ''), activity.backend_type, 'a session')
    || ' (pid ' || held.pid || coalesce(', user ' || activity.usename, '') || ', '
    || string_agg(distinct held.mode, ', ') || ')'
from pg_locks as held
left join pg_stat_activity as activity on activity.pid = held.pid
where held.locktype = 'relation' and held.granted
    and held.database = (select oid from pg_database where datname = current_database())
    and held.relation = to_regclass(%(name)s)
    and held.pid <> pg_backend_pid()
group by held.pid, activity.usename, activity.application_name, activity.backend_type
order by 1
