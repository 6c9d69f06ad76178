"""A leaf held still while it is read: nobody rewrites it meanwhile, or did since the snapshot.

TRUNCATE and rewriting ALTER TABLE are not MVCC-safe (manual, 13.6): after one, a snapshot reads
nothing, or rows that came later.
"""

from psycopg2 import sql

from extract_load.catalog import Leaf
from extract_load.connection import Session
from extract_load.errors import SnapshotLost, SourceError
from extract_load.identifiers import quoted_name
from extract_load.sql import queries

_GONE = ("42P01", "3F000")
"""No table, or no schema, has that name: a partition was dropped, renamed, moved or split."""
NO_COLUMN = "42703"
"""A column was renamed or dropped; or a function of somebody's says so of its own."""


def hold_still(reader: Session, leaf: Leaf) -> None:
    """Locks a leaf until the reader's savepoint, or transaction, ends.

    Args:
        reader: In the snapshot that showed the leaf.
        leaf: What is about to be read.

    Raises:
        SnapshotLost: If it was truncated, rewritten or replaced since.
    """
    # One round trip, for each chunk; the path is where a view's functions look.
    steps = [_path(leaf.search_path), _lock(leaf), _stands_at(leaf)]
    if leaf.reads_others:  # in this very process, whose locks tell afterwards what was read
        steps.insert(0, sql.SQL("SET LOCAL max_parallel_workers_per_gather = 0"))
    try:
        oid, file_nodes = reader.execute(
            sql.SQL("; ").join(steps),
            doing=f"lock {leaf.name.said} against DDL",
        )[0]
    except SourceError as error:
        if error.sqlstate not in _GONE:
            raise
        raise _lost(leaf) from error
    if oid != leaf.oid or file_nodes != [heap.file_node for heap in leaf.heaps]:
        raise _lost(leaf)


def _lost(leaf: Leaf) -> SnapshotLost:
    return SnapshotLost(
        f"{leaf.name.said} was truncated, rewritten or replaced during the run",
        "The snapshot no longer shows what the table held. Nothing was published.",
        "Run again: it takes a new snapshot.",
    )


def altered(leaf: Leaf, error: SourceError) -> SnapshotLost:
    """Returns what it means that a column of a leaf is not there (`NO_COLUMN`) when it is read.

    A query names the columns that the snapshot's catalog has, and the server looks for them in
    the present one.
    """
    return SnapshotLost(
        f"{leaf.name.said} was altered during the run",
        f"{error.detail}. Nothing was published.",
        "Run again: it takes a new snapshot.",
    )


def require_unrewritten(reader: Session) -> None:
    """Asks, after leaves were read, what else was read from: a sub-query's table, a function's.

    Raises:
        SnapshotLost: If any of it was truncated, rewritten or replaced since the snapshot.
    """
    found = reader.execute(queries("catalog")["rewritten"], doing="ask what was read from")
    if found:
        raise SnapshotLost(
            f'"{found[0][0]}" was truncated or rewritten during the run',
            "What was read asks it, and the snapshot no longer shows what it held. "
            "Nothing was published.",
            "Run again: it takes a new snapshot.",
        )


def use_path(reader: Session, search_path: tuple[str, ...]) -> None:
    """Sets where a custom_where finds its functions; undone with the savepoint it stands in."""
    reader.execute(_path(search_path))


def _path(search_path: tuple[str, ...]) -> sql.Composable:
    """As a value of SET LOCAL the whole list would be taken for one name."""
    path = ", ".join(map(quoted_name, search_path))
    return sql.SQL("SELECT set_config('search_path', {}, true)").format(sql.Literal(path))


def _lock(leaf: Leaf) -> sql.Composable:
    """Takes ACCESS SHARE on a leaf, and on all that a view reads from.

    LOCK TABLE takes neither foreign tables nor materialized views, and wants rights on what a
    view reads and on every column; planning a query locks the same and runs nothing.
    """
    if leaf.has_row_versions and leaf.is_granted:
        return sql.SQL("LOCK TABLE ONLY {} IN ACCESS SHARE MODE").format(leaf.name.sql)
    only = sql.SQL("ONLY " if leaf.has_row_versions else "")
    return sql.SQL("EXPLAIN SELECT FROM {}{}").format(only, leaf.name.sql)


def _stands_at(leaf: Leaf) -> sql.Composable:
    """Asks what a leaf's name means now, and which files its heaps are in."""
    return sql.SQL(
        "SELECT pg_catalog.to_regclass({name})::oid::bigint, array("
        "SELECT pg_catalog.pg_relation_filenode(oid)::bigint "
        "FROM pg_catalog.unnest({heaps}::pg_catalog.oid[]) "
        "WITH ORDINALITY AS heap (oid, position) ORDER BY position)"
    ).format(
        name=sql.Literal(leaf.name.regclass), heaps=sql.Literal([heap.oid for heap in leaf.heaps])
    )
