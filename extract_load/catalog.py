"""What a server and a table are, read from the catalog in the caller's transaction."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from extract_load.config import DEFAULT_SEARCH_PATH
from extract_load.connection import Session
from extract_load.identifiers import TableName
from extract_load.sql import queries

KINDS = {
    "p": "a partitioned table",
    "v": "a view",
    "m": "a materialized view",
    "f": "a foreign table",
}
"""What a relation is that is no plain table, by pg_class.relkind, for people."""


@dataclass(frozen=True)
class ServerCut:
    """A server, and the snapshot of the transaction that asked."""

    version: int
    """As PostgreSQL counts it: 160004 is 16.4."""
    system_identifier: str
    timeline: int
    database_oid: int
    lsn: str
    """WAL insert position (replayed on a standby) just after the snapshot: it shows nothing
    later. What a publish waits for, and what its watermark keeps."""
    xmin: int
    """64-bit: every transaction below it had ended (manual, 9.28.6)."""
    xmax: int
    """64-bit: no transaction at or above it had ended."""
    cut_at: str
    """Start of the transaction, ISO 8601 in UTC."""
    is_standby: bool
    earlier_lsn: str
    """The same just before the snapshot: it shows everything earlier. A run that stalls between
    the two must not take an old snapshot for a young one."""
    encoding: str = "UTF8"
    """In whose bytes the server compares texts under collation "C"."""
    mask_salt_digest: str | None = None
    """Tells one salt of the connection from another, and not what it is."""
    open_for: timedelta | None = None
    """How long the oldest transaction that the snapshot may not see ended had run; None where
    that cannot be told."""
    open_unknown: str = ""
    """Why there may be older ones, for people."""

    @property
    def identity(self) -> dict[str, Any]:
        """What a watermark is bound to: another server, timeline or database has other xids."""
        return {
            "system_identifier": self.system_identifier,
            "timeline": self.timeline,
            "database_oid": self.database_oid,
        }


@dataclass(frozen=True)
class TypeDefinition:
    """A type of a column, or a part of one."""

    oid: int
    schema: str
    name: str
    kind: str
    """pg_type.typtype: b(ase), c(omposite), d(omain), e(num), m(ultirange), r(ange)."""
    element_oid: int
    """The element of an array, else 0."""
    base_oid: int
    """The base of a domain, else 0."""
    base_text: str | None
    """The base as SQL writes it, with its modifier."""
    labels: Sequence[str] = ()
    """Of an enum, in its order."""
    attributes: Sequence[str] = ()
    """Of a composite: name and type."""
    extension: str | None = None
    """The extension it belongs to."""
    plain_text: str = ""
    """As SQL writes it, without a modifier."""
    numbers: Sequence[int] = ()
    """Of a composite's attributes: one that was dropped and added again has another."""

    @property
    def is_builtin(self) -> bool:
        """Whether it comes with PostgreSQL itself."""
        return self.schema == "pg_catalog" and self.extension is None

    @property
    def shows_a_catalog(self) -> bool:
        """Whether its text tells names of other objects: a rename changes it, and no row's xmin."""
        return self.is_builtin and (self.name.startswith("reg") or self.name == "aclitem")


@dataclass(frozen=True)
class Column:
    """A column of a relation."""

    number: int
    name: str
    type_oid: int
    type_modifier: int
    type_text: str
    """As SQL writes it, with its modifier: numeric(12,2)."""
    is_not_null: bool
    is_generated: bool = False
    missing_value: str | None = None
    """What rows older than the column show (pg_attribute.attmissingval)."""
    default_expression: str | None = None
    comment: str | None = None
    is_readable: bool = True


@dataclass(frozen=True)
class Heap:
    """Where rows stand on the source's disk."""

    oid: int
    file_node: int
    """pg_class.relfilenode: another one means that the heap was rewritten or truncated."""


@dataclass(frozen=True)
class Leaf:
    """A relation whose rows are read by themselves: the table, or a partition that holds rows."""

    name: TableName
    oid: int
    kind: str
    """pg_class.relkind, never `p`."""
    heaps: tuple[Heap, ...]
    """Its own, or those a view reads from; none for a foreign table."""
    columns: tuple[Column, ...]
    """A partition numbers its columns by itself."""
    definition: str | None
    """Hash of a view's query."""
    estimated_rows: int
    """-1 where it was never analyzed."""
    heap_bytes: int
    table_bytes: int
    """Heap and TOAST."""
    toast_bytes: int = 0
    """What values too large for the heap take, compressed as they are."""
    is_granted: bool = True
    """Whether the role may SELECT from all of it, and so lock it too."""
    granted_system_columns: frozenset[str] = frozenset({"ctid", "xmin"})
    """Those of ctid and xmin that the role may read; meaningless where rows have none."""
    search_path: tuple[str, ...] = DEFAULT_SEARCH_PATH
    """Where a custom_where over it finds its functions and operators."""
    is_filtered_by_others: bool = False
    """Whether a custom_where over it may read other tables, or ask for the time."""

    @property
    def has_row_versions(self) -> bool:
        """Whether its rows have a ctid and an xmin that mean something."""
        return self.kind == "r"

    @property
    def reads_others(self) -> bool:
        """Whether reading it may read tables that are not its heaps, as a view's functions do.

        Or ask for the time: then one session reads all of it. A materialized view does neither.
        """
        return self.is_filtered_by_others or self.kind in "vf"

    @property
    def shows_xmin(self) -> bool:
        """Whether rows tell which transaction wrote them, and the role may read it."""
        return self.has_row_versions and "xmin" in self.granted_system_columns


@dataclass(frozen=True)
class TableSchema:
    """A table as its catalog describes it."""

    name: TableName
    oid: int
    kind: str
    """pg_class.relkind."""
    columns: tuple[Column, ...]
    types: tuple[TypeDefinition, ...]
    unique_keys: tuple[tuple[str, ...], ...]
    """Proved by a valid, immediate, whole-table unique index; the primary key first."""
    primary_key: tuple[str, ...]
    indexed_columns: frozenset[str]
    """Columns that an index begins with."""
    estimated_rows: int
    """-1 where the table was never analyzed."""
    heap_bytes: int
    table_bytes: int
    """Heap and TOAST."""
    block_bytes: int = 8192
    leaves: tuple[Leaf, ...] = ()
    """What a source table is read from; a raw table is not read so."""
    byte_ordered_columns: frozenset[str] = frozenset()
    """Columns that an index begins with: the texts it keeps under collation "C"."""
    children: tuple[str, ...] = ()
    """Tables that inherit from it and are landed by themselves, with their rows, for people."""
    row_versions: str | None = None
    """Of its catalog rows, a digest: the same for as long as nobody altered the table. None where
    it is not a plain source table."""

    @property
    def column_names(self) -> tuple[str, ...]:
        """Names in the table's order."""
        return tuple(column.name for column in self.columns)

    def column(self, name: str) -> Column | None:
        """Returns a column by name, or None."""
        return next((column for column in self.columns if column.name == name), None)

    @property
    def shows_a_catalog(self) -> bool:
        """Whether values tell names of other objects, which change without a new xmin."""
        return any(type_.shows_a_catalog for type_ in self.types)

    def is_proved_key(self, names: tuple[str, ...]) -> bool:
        """Returns whether the server proves these columns unique and not null."""
        is_unique = any(set(key) == set(names) for key in self.unique_keys)
        return is_unique and all(
            column.is_not_null for column in self.columns if column.name in names
        )


def read_lsn(session: Session) -> str:
    """Returns the WAL position of a server now: inserted, or replayed on a standby."""
    return str(session.execute(queries("catalog")["lsn"], doing="read the WAL position")[0][0])


def read_server_cut(session: Session, earlier_lsn: str) -> ServerCut:
    """Returns the server and the present transaction's snapshot.

    Args:
        session: In a transaction that has its snapshot.
        earlier_lsn: The WAL position before that transaction began.
    """
    row = session.execute(queries("catalog")["server"], doing="read the server's identity")[0]
    *facts, encoding = row
    return replace(
        ServerCut(*(*facts, earlier_lsn)),
        encoding=encoding,
        mask_salt_digest=session.parameters.mask_salt_digest,
    )


def read_table(session: Session, name: TableName) -> TableSchema | None:
    """Returns what the catalog says about a table, or None where there is none."""
    return read_tables(session, [name]).get(name)


def read_tables(session: Session, names: Sequence[TableName]) -> dict[TableName, TableSchema]:
    """Returns what the catalog says about tables, of those that there are.

    Each question is asked once for all of them.
    """
    doing = about(names)
    wanted = {"schemas": [one.schema for one in names], "tables": [one.table for one in names]}
    found = session.execute(queries("catalog")["relations"], wanted, doing)
    oids = [row[1] for row in found]
    columns = read_columns(session, oids, doing)
    types = _types(session, columns, doing)
    keys = read_by_oid(session, "unique_keys", oids, doing)
    leading = read_by_oid(session, "leading_index_columns", oids, doing)
    return {
        names[position - 1]: TableSchema(
            name=names[position - 1],
            oid=oid,
            kind=kind,
            columns=columns[oid],
            types=types[oid],
            unique_keys=tuple(tuple(key) for _, is_immediate, key in keys[oid] if is_immediate),
            primary_key=next((tuple(key) for is_primary, _, key in keys[oid] if is_primary), ()),
            indexed_columns=frozenset(column for column, _ in leading[oid]),
            byte_ordered_columns=frozenset(column for column, is_c in leading[oid] if is_c),
            estimated_rows=rows,
            heap_bytes=heap_bytes,
            table_bytes=table_bytes,
            block_bytes=block_bytes,
        )
        for position, oid, kind, rows, heap_bytes, table_bytes, block_bytes in found
    }


def about(names: Sequence[TableName]) -> str:
    """Returns what is done with the catalog, for an error."""
    what = names[0].said if len(names) == 1 else f"{len(names)} tables"
    return f"read the catalog about {what}"


def read_row_versions(session: Session, tables: Sequence[TableSchema]) -> dict[int, str]:
    """Returns what tells whether somebody wrote into the catalog about plain tables, by OID."""
    pairs = [(table.oid, type_.oid) for table in tables for type_ in table.types]
    wanted = {
        "oids": [table.oid for table in tables],
        "schemas": [table.name.schema for table in tables],
        "tables": [table.name.table for table in tables],
        "owners": [owner for owner, _ in pairs],
        "types": [type_ for _, type_ in pairs],
    }
    if not tables:
        return {}
    return dict(session.execute(queries("catalog")["row_versions"], wanted))


def read_columns(
    session: Session, oids: Sequence[int], doing: str
) -> dict[int, tuple[Column, ...]]:
    """Returns the columns of relations, by the relation's OID."""
    found = read_by_oid(session, "columns", oids, doing)
    return {oid: tuple(Column(*facts) for facts in of_one) for oid, of_one in found.items()}


def read_by_oid(
    session: Session, query: str, oids: Sequence[int], doing: str
) -> dict[int, list[tuple[Any, ...]]]:
    """Returns the rows of a query about relations, by the OID in its first column."""
    found: dict[int, list[tuple[Any, ...]]] = {oid: [] for oid in oids}
    if found:
        for oid, *facts in session.execute(queries("catalog")[query], {"oids": list(found)}, doing):
            found[oid].append(tuple(facts))
    return found


def _types(
    session: Session, columns: Mapping[int, Sequence[Column]], doing: str
) -> dict[int, tuple[TypeDefinition, ...]]:
    """What the columns of relations are made of, by the relation's OID."""
    of_root = read_by_oid(
        session,
        "types",
        sorted({column.type_oid for of_one in columns.values() for column in of_one}),
        doing,
    )
    return {
        oid: _distinct(facts for column in of_one for facts in of_root[column.type_oid])
        for oid, of_one in columns.items()
    }


def _distinct(found: Iterable[tuple[Any, ...]]) -> tuple[TypeDefinition, ...]:
    used = {facts[0]: facts for facts in found}
    return tuple(TypeDefinition(*used[oid]) for oid in sorted(used))
