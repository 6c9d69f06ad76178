"""The least that roles need for a run of the configured tables, as SQL for their owners to run."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from extract_load import ledger
from extract_load.catalog import TableSchema, read_table
from extract_load.config import DEFAULT_SEARCH_PATH, Mask, TableSettings
from extract_load.connection import Session
from extract_load.connection_parameters import ConnectionParameters
from extract_load.errors import ExtractLoadError, SchemaMismatch
from extract_load.identifiers import TableName, quoted_name
from extract_load.predicate import names_in
from extract_load.readable import columns_read, grant_select
from extract_load.server_facts import (
    SchemaRights,
    WritableTable,
    looking,
    read_row_security,
    read_schemas,
    read_writable,
)
from extract_load.source_table import read_source_table

_WRITES = "SELECT, INSERT, UPDATE, DELETE"
_SYSTEM_COLUMNS = ("ctid", "xmin")
"""By which a table is read in chunks, and rows written since are told: no right on a table's own
columns covers them."""
_NOT_LOOKED = "the server could not be looked at, so this follows the settings alone: "


@dataclass(frozen=True)
class Grants:
    """What one role needs on one server."""

    conn_id: str
    side: str
    """`source` or `target`."""
    database: str
    role: str
    statements: tuple[str, ...]
    """SQL, without semicolons."""
    notes: tuple[str, ...] = ()
    """What they do not say."""


@dataclass(frozen=True)
class SourceSeen:
    """A source table as far as it could be looked at."""

    settings: TableSettings
    schema: TableSchema | None = None
    has_row_security: bool = False


def grants_for(
    tables: tuple[TableSettings, ...], connections: Mapping[str, ConnectionParameters]
) -> tuple[Grants, ...]:
    """Returns what the roles of the connections need, sources first.

    Args:
        tables: The selected tables; those that are not enabled are left out.
        connections: By connection id.
    """
    enabled = [table for table in tables if table.enabled]
    found = []
    for conn_id in dict.fromkeys(table.source_connection for table in enabled):
        of_source = [table for table in enabled if table.source_connection == conn_id]
        found.append(_look_at_source(connections[conn_id], of_source))
    for conn_id in dict.fromkeys(table.target_connection for table in enabled):
        of_target = [table for table in enabled if table.target_connection == conn_id]
        found.append(_look_at_target(connections[conn_id], of_target))
    return tuple(found)


def _look_at_source(where: ConnectionParameters, tables: list[TableSettings]) -> Grants:
    try:
        with (
            Session(where, "source", "extract-load doctor", attempts=1) as session,
            looking(session),
        ):
            seen = [_look_at_table(session, table) for table in tables]
    except ExtractLoadError as error:
        seen = [SourceSeen(table) for table in tables]
        return source_grants(where, seen, f"{_NOT_LOOKED}{error.primary}")
    return source_grants(where, seen)


def _look_at_table(session: Session, table: TableSettings) -> SourceSeen:
    if read_table(session, table.source) is None:
        return SourceSeen(table)
    schema = read_source_table(session, table.source)
    oids = [schema.oid, *(leaf.oid for leaf in schema.leaves)]
    return SourceSeen(table, schema, bool(read_row_security(session, oids)))


def source_grants(
    where: ConnectionParameters, tables: list[SourceSeen], problem: str | None = None
) -> Grants:
    """Returns what the role of a source needs.

    Args:
        where: The source.
        tables: What is read from it.
        problem: Why they could not be looked at, where they could not.
    """
    role = quoted_name(where.user)
    statements = [f"GRANT CONNECT ON DATABASE {quoted_name(where.database)} TO {role}"]
    relations = {
        relation: columns for table in tables for relation, columns in _relations(table, tables)
    }
    paths = [
        schema
        for table in tables
        if table.settings.custom_where is not None
        for schema in table.settings.search_path
        if schema not in DEFAULT_SEARCH_PATH
    ]
    schemas = dict.fromkeys([*(relation.schema for relation in relations), *paths])
    statements += [f"GRANT USAGE ON SCHEMA {quoted_name(schema)} TO {role}" for schema in schemas]
    statements += [
        grant_select(relation, columns, where.user) for relation, columns in relations.items()
    ]
    if any(table.has_row_security for table in tables):
        statements.append(f"ALTER ROLE {role} BYPASSRLS")
    notes = [problem] if problem else []
    notes += [note for table in tables for note in _source_notes(table, is_told=bool(problem))]
    if any(table.settings.incremental_field for table in tables):
        notes.append(
            "not needed, but lets cursors see open transactions: "
            f"GRANT pg_read_all_stats TO {role};"
        )
    return Grants(
        where.conn_id, "source", where.database, where.user, tuple(statements), tuple(notes)
    )


def _relations(
    table: SourceSeen, tables: list[SourceSeen]
) -> Iterator[tuple[TableName, tuple[str, ...]]]:
    """Yields what is read, with its columns; none: all of them.

    A table that is landed twice is granted once, with the columns of both.
    """
    same = [one for one in tables if one.settings.source == table.settings.source]
    wanted = [_columns(one) for one in same]
    columns = () if () in wanted else tuple(dict.fromkeys(c for part in wanted for c in part))
    names = [table.settings.source]
    if table.schema is not None:
        names += [leaf.name for leaf in table.schema.leaves if leaf.oid != table.schema.oid]
    has_versions = table.schema is None or all(
        leaf.has_row_versions for leaf in table.schema.leaves
    )
    hidden = _SYSTEM_COLUMNS if columns and has_versions else ()
    is_split = len(names) > 1
    for name in names:
        # A partitioned parent has no rows of its own, so neither ctid nor xmin.
        is_parent = is_split and name == table.settings.source
        yield name, columns if is_parent else (*columns, *hidden)


def _columns(table: SourceSeen) -> tuple[str, ...]:
    """The columns a run reads; none: all of them, now and later."""
    settings, schema = table.settings, table.schema
    masks_away = any(mask is Mask.NULL for _, mask in settings.mask)
    chooses = bool(settings.columns or settings.exclude_columns or masks_away)
    if not chooses:
        return ()
    in_predicate = names_in(settings.custom_where) - {"*"} if settings.custom_where else frozenset()
    if schema is None:
        known = (*settings.primary_key, settings.incremental_field, *settings.columns)
        listed = dict.fromkeys([*(name for name in known if name), *sorted(in_predicate)])
        return tuple(listed) if settings.columns else ()
    try:
        read = set(columns_read(settings, schema)) | in_predicate
    except SchemaMismatch:
        return ()
    return tuple(name for name in schema.column_names if name in read)


def _source_notes(table: SourceSeen, *, is_told: bool) -> Iterator[str]:
    settings = table.settings
    if settings.custom_where is not None and settings.custom_where.reads_tables:
        yield f"custom_where of {settings.source.said} reads other tables: grant SELECT on them too"
    if table.schema is None and not is_told:
        yield f"there is no table {settings.source.said} yet"
    if table.schema is None and settings.columns and not settings.primary_key:
        yield f"the primary key of {settings.source.said} comes on top: ask when it can be read"


def _look_at_target(where: ConnectionParameters, tables: list[TableSettings]) -> Grants:
    names = [ledger.SCHEMA, ledger.SCRATCH_SCHEMA, *(table.target.schema for table in tables)]
    names = list(dict.fromkeys(names))
    try:
        with (
            Session(where, "target", "extract-load doctor", attempts=1) as session,
            looking(session),
        ):
            schemas = read_schemas(session, names)
            writable = read_writable(session, [table.target for table in tables])
    except ExtractLoadError as error:
        missing = tuple(SchemaRights(name, False, False, False) for name in names)
        return target_grants(where, missing, (), f"{_NOT_LOOKED}{error.primary}")
    return target_grants(where, schemas, writable)


def target_grants(
    where: ConnectionParameters,
    schemas: tuple[SchemaRights, ...],
    tables: tuple[WritableTable, ...],
    problem: str | None = None,
) -> Grants:
    """Returns what the role of a target needs.

    Args:
        where: The target.
        schemas: Those of the ledger and of the raw tables.
        tables: Of the ledger, and raw tables, where they are.
        problem: Why the target could not be looked at, where it could not.
    """
    role, database = quoted_name(where.user), quoted_name(where.database)
    statements = [f"GRANT CONNECT ON DATABASE {database} TO {role}"]
    missing = [schema.name for schema in schemas if not schema.is_there]
    if missing:
        statements.append(f"GRANT CREATE ON DATABASE {database} TO {role}")
    has_ledger = any(table.schema == ledger.SCHEMA for table in tables)
    for schema in schemas:
        is_made = has_ledger and schema.name == ledger.SCHEMA
        rights = "USAGE" if is_made else "USAGE, CREATE"
        if schema.is_there:
            statements.append(f"GRANT {rights} ON SCHEMA {quoted_name(schema.name)} TO {role}")
    foreign = [table for table in tables if not table.is_owned]
    statements += [
        f"GRANT {_WRITES} ON {TableName(table.schema, table.name).regclass} TO {role}"
        for table in foreign
    ]
    notes = [problem] if problem else []
    if missing:
        notes.append(
            f"CREATE on the database is for the schemas {', '.join(missing)}: the first run makes "
            "them, and it may be revoked then"
        )
    notes += [
        f"{table.schema}.{table.name} is another role's: only its owner can alter it, as a changed "
        "source or a newer version of this program asks for"
        for table in foreign
    ]
    return Grants(
        where.conn_id, "target", where.database, where.user, tuple(statements), tuple(notes)
    )
