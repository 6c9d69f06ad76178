"""What facts about a table mean for a run of it: findings about one table.

Pure: takes what was read, gives findings.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from extract_load.catalog import KINDS, TableSchema, TypeDefinition
from extract_load.config import LateRows, SyncMode, TableSettings
from extract_load.connection_parameters import ConnectionParameters
from extract_load.cursor import cursor_of
from extract_load.errors import ExtractLoadError
from extract_load.findings import Code, Finding, Severity
from extract_load.identifiers import quoted_name
from extract_load.readable import hidden_columns, unreadable
from extract_load.server_facts import SchemaRights, WritableTable
from extract_load.table_plan import TablePlan


@dataclass(frozen=True)
class SourceTableFacts:
    """What was read about one source table."""

    schema: TableSchema | None
    """None where there is none."""
    rights: tuple[SchemaRights, ...]
    """On its schema, and on those of its partitions."""
    row_security: tuple[str, ...] = ()
    """Relations of it of which policies hide rows from the role."""
    near_name: str = ""
    """A question about a table of almost its name, where there is none of this."""


@dataclass(frozen=True)
class KeyCheck:
    """What the rows say about a key that no index proves."""

    duplicate: tuple[str, ...] | None = None
    """A key that stands twice; None where none does."""
    has_null: bool = False
    is_known: bool = True
    """Whether there was time to look at all rows."""


def source_findings(
    settings: TableSettings, facts: SourceTableFacts, where: ConnectionParameters
) -> Iterator[Finding]:
    """Yields what stands in the way of reading a table.

    Raises:
        SchemaMismatch: If the table lacks a column that the settings name, or a key.
    """
    for rights in facts.rights:
        if rights.is_there and not rights.may_use:
            schema = quoted_name(rights.name)
            yield Finding(
                Severity.ERROR,
                Code.NO_USAGE,
                f'the role may not enter schema "{rights.name}"',
                f"USAGE on it is missing; {settings.source.said} is read from it.",
                f"Run on the source: GRANT USAGE ON SCHEMA {schema} TO {quoted_name(where.user)}.",
            )
    if facts.schema is None:
        yield Finding(
            Severity.ERROR,
            Code.NO_SUCH_TABLE,
            f"there is no table {settings.source.said}",
            f"Looked in {where.address}.{facts.near_name}",
            'Mend "source"; case is never folded, and every capital counts.',
        )
        return
    yield from _row_security(settings, facts, where)
    yield from _no_xmin(settings, facts.schema)
    for relation, hidden in hidden_columns(settings, facts.schema):
        error = unreadable(facts.schema, relation, hidden, where)
        yield Finding(
            Severity.ERROR,
            Code.NO_SELECT,
            f'the role may not read {", ".join(hidden)} of "{relation}"',
            error.detail,
            error.hint,
        )
    yield from _cursor(settings, facts.schema)


def _row_security(
    settings: TableSettings, facts: SourceTableFacts, where: ConnectionParameters
) -> Iterator[Finding]:
    if facts.row_security:
        yield Finding(
            Severity.ERROR,
            Code.ROW_SECURITY,
            f"row security hides rows of {settings.source.said} from the role",
            f"Policies apply to {', '.join(facts.row_security)}. A run reads all rows or none: it "
            "never lands what a policy leaves.",
            f"Run on the source: ALTER ROLE {quoted_name(where.user)} BYPASSRLS; or connect as the "
            "table's owner.",
        )


def _no_xmin(settings: TableSettings, schema: TableSchema) -> Iterator[Finding]:
    without = [leaf for leaf in schema.leaves if not leaf.has_row_versions]
    if settings.reads_xmin and without:
        is_cursor = settings.sync_mode is SyncMode.INCREMENTAL_SYNC
        yield Finding(
            Severity.ERROR,
            Code.NO_XMIN,
            f'{settings.source.said} cannot be read by xmin: "{without[0].name}" is '
            f"{KINDS[without[0].kind]}",
            "Its rows do not say which transaction wrote them.",
            'Set "late_rows" to lookback, or "sync_mode" to full_sync.'
            if is_cursor
            else 'Set "sync_mode" to full_sync, or to incremental_sync with a cursor column.',
        )


def _cursor(settings: TableSettings, schema: TableSchema) -> Iterator[Finding]:
    reads_by_cursor = (
        settings.sync_mode is SyncMode.INCREMENTAL_SYNC and settings.late_rows is LateRows.LOOKBACK
    )
    if not reads_by_cursor or not all(leaf.has_row_versions for leaf in schema.leaves):
        return
    cursor = cursor_of(settings, schema)
    if cursor.is_served_by(schema):
        return
    column = quoted_name(cursor.name)
    is_collated = cursor.name in schema.indexed_columns
    as_compared = f'{column} COLLATE "C"' if is_collated else column
    yield Finding(
        Severity.WARNING,
        Code.CURSOR_NOT_INDEXED,
        f'no index serves cursor "{cursor.name}": each run scans the whole table',
        (
            'An index begins with it, but not under COLLATE "C", in which texts are compared; '
            if is_collated
            else "No index begins with it; "
        )
        + f"{settings.source.said} has {_rows(schema.estimated_rows)}.",
        f"{_index(schema, as_compared)}; or use xmin_incremental.",
    )


def _index(schema: TableSchema, columns: str, kind: str = "INDEX") -> str:
    """What makes an index; a partitioned table's cannot be built beside its writers in one go."""
    place = f"{schema.name.regclass} ({columns})"
    if schema.kind == "p":
        return f"Run on the source, when writers may wait: CREATE {kind} ON {place}"
    return f"Run on the source: CREATE {kind} CONCURRENTLY ON {place}"


def _rows(estimated: int) -> str:
    return f"about {estimated:,} rows" if estimated >= 0 else "never been analyzed"


def key_findings(plan: TablePlan, check: KeyCheck) -> Iterator[Finding]:
    """Yields what is wrong with a key that no index proves."""
    name, key = plan.settings.source, ", ".join(plan.key)
    columns = ", ".join(map(quoted_name, plan.key))
    remedy = f"{_index(plan.source, columns, 'UNIQUE INDEX')}; and set its columns NOT NULL."
    if plan.source.kind not in {"r", "p"}:
        remedy = f"Nothing can prove it of {KINDS[plan.source.kind]}; land the tables behind it."
    if check.duplicate is not None or check.has_null:
        facts = [
            *([f"({', '.join(check.duplicate)}) stands twice."] if check.duplicate else []),
            *(["A column of it is NULL in some rows."] if check.has_null else []),
        ]
        yield Finding(
            Severity.ERROR,
            Code.KEY_NOT_UNIQUE,
            f"the key ({key}) does not name the rows of {name.said}",
            " ".join(facts),
            'Name other columns with "primary_key", mend the rows, or leave some out with '
            '"custom_where".',
        )
        return
    yield Finding(
        Severity.NOTE if check.is_known else Severity.WARNING,
        Code.KEY_NOT_PROVED,
        f"no unique index proves the key ({key}) of {name.said}",
        "It names every row now; nothing keeps it so. Each run proves it again."
        if check.is_known
        else "There was no time to look at all rows: a run fails if it stands twice.",
        remedy,
    )


def extension_findings(plan: TablePlan) -> Iterator[Finding]:
    """Yields the types that land as text since the target lacks their extension."""
    types = {type_.oid: type_ for type_ in plan.source.types}
    known = {extension for extension, _ in plan.servers.target.of_extensions}
    missing: dict[str, list[str]] = {}
    for column in plan.source.columns:
        if column.name not in plan.contract.names or plan.contract.column(column.name).mask:
            continue
        extension = _extension_of(types, column.type_oid)
        if extension is not None and extension not in known:
            missing.setdefault(extension, []).append(column.name)
    for extension, names in missing.items():
        yield Finding(
            Severity.WARNING,
            Code.EXTENSION_MISSING,
            f'the target has no extension "{extension}": {", ".join(names)} of '
            f"{plan.settings.source.said} land as text",
            "Their types belong to it on the source.",
            f"Run on the target: CREATE EXTENSION {quoted_name(extension)}; or leave it at text. "
            "Installed after the first load, it changes the raw columns' types: see plan.",
        )


def _extension_of(types: dict[int, TypeDefinition], oid: int) -> str | None:
    """The extension that a type, its base or its element belongs to."""
    type_ = types.get(oid)
    while type_ is not None:
        if type_.extension is not None:
            return type_.extension
        type_ = types.get(type_.base_oid or type_.element_oid)
    return None


def raw_table_findings(
    settings: TableSettings, tables: tuple[WritableTable, ...], role: str
) -> Iterator[Finding]:
    """Yields what the role lacks on a raw table that is there."""
    name = settings.target
    for table in tables:
        if (table.schema, table.name) != name.parts:
            continue
        if table.missing:
            lacking = ", ".join(table.missing)
            yield Finding(
                Severity.ERROR,
                Code.NOT_WRITABLE,
                f"the role may not write {name.said}",
                f"{lacking} is missing on it.",
                f"Run on the target: GRANT {lacking} ON {name.regclass} TO {quoted_name(role)}.",
            )
        if not table.is_owned:
            yield Finding(
                Severity.WARNING,
                Code.NOT_OWNED,
                f"{name.said} belongs to another role",
                "Rows can be landed; the table cannot follow its source's columns.",
                f"Run on the target: ALTER TABLE {name.regclass} OWNER TO {quoted_name(role)}.",
            )


def refused_plan(error: ExtractLoadError) -> Finding:
    """Returns the finding for a table that cannot be planned."""
    return Finding(Severity.ERROR, Code.CANNOT_BE_PLANNED, error.primary, error.detail, error.hint)


def placed(finding: Finding, settings: TableSettings, connection: str) -> Finding:
    """Returns a finding with its table and the connection it is about."""
    return replace(
        finding,
        connection=connection,
        table=settings.source.written,
        target=settings.target.written,
    )
