"""A leaf held still while it is read: nobody rewrites it meanwhile, or did since the snapshot.

TRUNCATE and rewriting ALTER TABLE are not MVCC-safe (manual, 13.6): after one, a snapshot reads
nothing, or rows that came later.
"""

from psycopg2 import sql

from extract_load.catalog import Leaf
from extract_load.connection import Session
from extract_load.errors import SnapshotLost
from extract_load.identifiers import in_double_quotes


def hold_still(reader: Session, leaf: Leaf) -> None:
    """Locks a leaf until the reader's savepoint, or transaction, ends.

    Args:
        reader: In the snapshot that showed the leaf.
        leaf: What is about to be read.

    Raises:
        SnapshotLost: If it was truncated, rewritten or replaced since.
    """
    use_path(reader, leaf.search_path)  # where a view's functions look
    reader.execute(_lock(leaf), doing=f"lock {leaf.name.said} against DDL")
    if not _is_unchanged(reader, leaf):
        raise SnapshotLost(
            f"{leaf.name.said} was truncated or rewritten during the run",
            "The snapshot no longer shows what the table held. Nothing was published.",
            "Run again: it takes a new snapshot.",
        )


def use_path(reader: Session, search_path: tuple[str, ...]) -> None:
    """Sets where a custom_where finds its functions; undone with the savepoint it stands in.

    As a value of SET LOCAL the whole list would be taken for one name.
    """
    path = ", ".join(map(in_double_quotes, search_path))
    reader.execute("SELECT set_config('search_path', %(path)s, true)", {"path": path})


def _lock(leaf: Leaf) -> sql.Composable:
    """Takes ACCESS SHARE on a leaf, and on all that a view reads from.

    LOCK TABLE takes neither foreign tables nor materialized views, and wants rights on what a
    view reads and on every column; planning a query locks the same and runs nothing.
    """
    if leaf.has_row_versions and leaf.is_granted:
        return sql.SQL("LOCK TABLE ONLY {} IN ACCESS SHARE MODE").format(leaf.name.sql)
    only = sql.SQL("ONLY " if leaf.has_row_versions else "")
    return sql.SQL("EXPLAIN SELECT FROM {}{}").format(only, leaf.name.sql)


def _is_unchanged(reader: Session, leaf: Leaf) -> bool:
    """Whether the name still means this leaf, and its heaps are those the snapshot knows."""
    oid, file_nodes = reader.execute(
        "SELECT pg_catalog.to_regclass(%(name)s)::oid::bigint, array("
        "SELECT pg_catalog.pg_relation_filenode(oid)::bigint "
        "FROM pg_catalog.unnest(%(heaps)s::pg_catalog.oid[]) "
        "WITH ORDINALITY AS heap (oid, position) ORDER BY position)",
        {"name": leaf.name.regclass, "heaps": [heap.oid for heap in leaf.heaps]},
    )[0]
    return bool(oid == leaf.oid and file_nodes == [heap.file_node for heap in leaf.heaps])
