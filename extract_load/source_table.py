"""A source table as it can be landed: of which kind, and from which relations it is read."""

from collections.abc import Sequence
from dataclasses import replace

from extract_load.catalog import (
    Heap,
    Leaf,
    TableSchema,
    read_columns,
    read_row_versions,
    read_table,
)
from extract_load.connection import Session
from extract_load.errors import SourceError
from extract_load.identifiers import TableName
from extract_load.sql import queries

_PLAIN = "r"


def read_source_table(session: Session, name: TableName) -> TableSchema:
    """Returns a table with the leaves its rows are read from.

    Args:
        session: To the source, in the transaction whose snapshot counts.
        name: A plain, partitioned or foreign table, a view or a materialized view.

    Raises:
        SourceError: If there is none.
    """
    table = read_table(session, name)
    if table is None:
        where = session.parameters
        raise SourceError(
            f'there is no table {name.said} in source "{where.conn_id}"',
            f"Looked in {where.address}.",
            "Check the name: case is never folded. The role also needs USAGE on the schema.",
        )
    leaves = _leaves(session, table)
    return replace(
        table,
        leaves=leaves,
        children=_children(session, table),
        estimated_rows=_sum_known([leaf.estimated_rows for leaf in leaves]),
        heap_bytes=sum(leaf.heap_bytes for leaf in leaves),
        table_bytes=sum(leaf.table_bytes for leaf in leaves),
        row_versions=read_row_versions(session, table) if table.kind == _PLAIN else None,
    )


def _leaves(session: Session, table: TableSchema) -> tuple[Leaf, ...]:
    doing = f"read the catalog about {table.name.said}"
    found = session.execute(queries("catalog")["leaves"], {"oid": table.oid}, doing)
    oids = [row[0] for row in found]
    heaps: dict[int, list[Heap]] = {oid: [] for oid in oids}
    for leaf_oid, *heap in session.execute(queries("catalog")["heaps"], {"oids": oids}, doing):
        heaps[leaf_oid].append(Heap(*heap))
    columns = read_columns(session, oids, doing)
    return tuple(
        Leaf(
            name=table.name if oid == table.oid else TableName(schema, relation),
            oid=oid,
            kind=kind,
            heaps=tuple(heaps[oid]),
            columns=columns[oid],
            definition=definition,
            estimated_rows=rows,
            heap_bytes=heap_bytes,
            table_bytes=table_bytes,
            toast_bytes=toast_bytes,
            is_granted=is_granted,
            granted_system_columns=frozenset(system_columns),
        )
        for (
            *(oid, schema, relation, kind, definition, rows, heap_bytes, table_bytes, toast_bytes),
            is_granted,
            system_columns,
        ) in found
    )


def _children(session: Session, table: TableSchema) -> tuple[str, ...]:
    if table.kind != _PLAIN:
        return ()
    found = session.execute(queries("catalog")["children"], {"oid": table.oid})
    return tuple(f"{name} ({rows if rows >= 0 else '?'} rows)" for name, rows in found)


def _sum_known(rows: Sequence[int]) -> int:
    """The sum of estimates; -1 where nobody knows any."""
    known = [count for count in rows if count >= 0]
    return sum(known) if known or not rows else -1
