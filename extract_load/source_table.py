"""A source table as it can be landed: of which kind, and from which relations it is read."""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

from extract_load import log
from extract_load.catalog import (
    Heap,
    Leaf,
    TableSchema,
    about,
    read_by_oid,
    read_columns,
    read_row_versions,
    read_tables,
)
from extract_load.connection import Session, set_local
from extract_load.errors import SourceError
from extract_load.identifiers import TableName
from extract_load.sql import queries

_PLAIN = "r"
_PATIENCE = "1s"
"""How long all wait for a lock on one of them."""
_ALIKE = 0.8
"""How alike two tables' names are of which one is taken for a slip (difflib's ratio): `user`."""

logger = log.get_logger(__name__)


class SourceTables:
    """Tables as one transaction's catalog has them, asked for together, as far as expected."""

    def __init__(self, expected: Sequence[TableName] = ()) -> None:
        """Reads nothing yet.

        Args:
            expected: The names that will be asked for.
        """
        self._expected = expected
        self._found: dict[TableName, TableSchema] = {}

    def get(self, session: Session, name: TableName) -> TableSchema:
        """Returns a table with the leaves its rows are read from.

        Args:
            session: To the source, in the transaction whose snapshot counts.
            name: A plain, partitioned or foreign table, a view or a materialized view.

        Raises:
            SourceError: If there is none.
        """
        if name not in self._found and self._expected:
            self._read_expected(session)
        if name not in self._found:
            with _without_a_trace(session):
                self._found |= read_source_tables(session, [name])
        return _required(session, name, self._found)

    def _read_expected(self, session: Session) -> None:
        """Reads about all at once; where one of them is locked or in the way, each by itself.

        The size of a table is told to nobody while somebody rewrites it.
        """
        names, self._expected = tuple(dict.fromkeys(self._expected)), ()
        try:
            with _without_a_trace(session):
                session.execute(set_local({"lock_timeout": _PATIENCE}))
                self._found |= read_source_tables(session, names)
        except SourceError as error:
            logger.info("asks about each table by itself", extra={"why": error.detail})


@contextmanager
def _without_a_trace(session: Session) -> Iterator[None]:
    """Frees the locks a block takes, and lets the transaction go on where it fails.

    To print a view's query locks what it reads from, until the end.
    """
    session.execute("SAVEPOINT look")
    try:
        yield
    finally:
        session.execute("ROLLBACK TO SAVEPOINT look; RELEASE SAVEPOINT look")


def read_source_table(session: Session, name: TableName) -> TableSchema:
    """Returns one table. Arguments and errors as above."""
    return _required(session, name, read_source_tables(session, [name]))


def _required(
    session: Session, name: TableName, found: Mapping[TableName, TableSchema]
) -> TableSchema:
    if name in found:
        return found[name]
    where = session.parameters
    raise SourceError(
        f'there is no table {name.said} in source "{where.conn_id}"',
        f"Looked in {where.address}.{near_name(session, name)}",
        "Check the name: case is never folded. The role also needs USAGE on the schema.",
    )


def near_name(session: Session, name: TableName) -> str:
    """Returns a question, where the source has a table of almost the name that it lacks.

    It begins with a space: ' Did you mean "public.users"?'.
    """
    wanted = {"schema": name.schema, "table": name.table}
    near: dict[str, TableName] = {}
    for schema, table in session.execute(queries("catalog")["near_tables"], wanted, about([name])):
        near.setdefault(table.lower(), TableName(schema, table))
    alike = difflib.get_close_matches(name.table.lower(), near, n=1, cutoff=_ALIKE)
    return f" Did you mean {near[alike[0]].said}?" if alike else ""


def read_source_tables(
    session: Session, names: Sequence[TableName]
) -> dict[TableName, TableSchema]:
    """Returns tables with their leaves, of those that there are.

    Each question to the catalog is asked once for all of them.
    """
    doing = about(names)
    tables = read_tables(session, names)
    leaves = _leaves(session, list(tables.values()), doing)
    plain = [table for table in tables.values() if table.kind == _PLAIN]
    children = read_by_oid(session, "children", [table.oid for table in plain], doing)
    versions = read_row_versions(session, plain)
    return {
        name: replace(
            table,
            leaves=leaves[table.oid],
            children=tuple(
                f"{child} ({rows if rows >= 0 else '?'} rows)"
                for child, rows in children.get(table.oid, ())
            ),
            estimated_rows=_sum_known([leaf.estimated_rows for leaf in leaves[table.oid]]),
            heap_bytes=sum(leaf.heap_bytes for leaf in leaves[table.oid]),
            table_bytes=sum(leaf.table_bytes for leaf in leaves[table.oid]),
            row_versions=versions.get(table.oid),
        )
        for name, table in tables.items()
    }


def _leaves(
    session: Session, tables: Sequence[TableSchema], doing: str
) -> dict[int, tuple[Leaf, ...]]:
    """The leaves of tables, by the table's OID."""
    found = read_by_oid(session, "leaves", [table.oid for table in tables], doing)
    oids = [oid for of_one in found.values() for oid, *_ in of_one]
    heaps = read_by_oid(session, "heaps", oids, doing)
    columns = {table.oid: table.columns for table in tables}
    columns |= read_columns(session, [oid for oid in oids if oid not in columns], doing)
    names = {table.oid: table.name for table in tables}
    return {
        root: tuple(
            replace(
                Leaf(
                    names[root] if oid == root else TableName(schema, relation),
                    oid,
                    kind,
                    tuple(Heap(*heap) for heap in heaps[oid]),
                    columns[oid],
                    *facts,
                ),
                granted_system_columns=frozenset(system_columns),
            )
            for oid, schema, relation, kind, *facts, system_columns in of_one
        )
        for root, of_one in found.items()
    }


def _sum_known(rows: Sequence[int]) -> int:
    """The sum of estimates; -1 where nobody knows any."""
    known = [count for count in rows if count >= 0]
    return sum(known) if known or not rows else -1
