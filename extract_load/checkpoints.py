"""Checkpoints: which chunks stand beside a raw table, and where and when they were read.

A checkpoint commits with its chunk's rows, in a table that stands and falls with the scratch
table. Every function works inside the caller's transaction.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from psycopg2 import sql

from extract_load.connection import Row, Session
from extract_load.identifiers import TableName
from extract_load.ledger import SCHEMA, SCRATCH_SCHEMA
from extract_load.watermark import XID_SPAN

MISSING_ROWS_CHUNK = -1
"""The checkpoint of rows that the raw table lacked although no window held them."""
REPAIR_CHUNK = -2
"""The checkpoint of a repair: how many rows it added to those of the chunks, or took away."""


@dataclass(frozen=True)
class SnapshotMark:
    """A snapshot of the source, as far as a later one has to know it."""

    id: str
    """Ours: another one for each snapshot that was ever taken."""
    xmin: int
    """64-bit: every transaction below it had ended."""
    lsn: str
    """It shows nothing later."""


@dataclass(frozen=True)
class Part:
    """The part of a table that a chunk brought."""

    leaf: int
    """OID; 0 where rows of any leaf came."""
    file_node: int | None
    """The leaf's file; None where it has none of its own."""
    start: int
    """First heap block."""
    stop: int | None
    """The block after its last; None where it is open-ended."""
    reading: str
    """A digest of what was read of it."""


@dataclass(frozen=True)
class Checkpoint:
    """A chunk that is loaded."""

    chunk: int
    run_id: str
    """The run that loaded it."""
    part: Part
    snapshot: SnapshotMark
    rows: int
    bytes: int
    loaded_xid: int
    """64-bit: the target's transaction that wrote its rows."""


NO_PART = Part(0, None, 0, None, "")
_READ = (
    "chunk, run_id, leaf_oid, file_node, start_block, stop_block, reading, "
    "snapshot, snapshot_xmin, lsn::text, rows, bytes, loaded_xid"
)


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one raw table, for a run that reads in one snapshot."""

    table: TableName
    """Where they stand."""
    target: TableName
    """The raw table."""
    run_id: str
    snapshot: SnapshotMark

    def claim(self, session: Session, chunk: int, part: Part, covers: str) -> bool:
        """Returns whether the caller's transaction is the one that loads a chunk.

        The INSERT waits for another transaction that holds the same chunk, also for one whose
        COMMIT was sent but never answered: a look-up would find nothing while that COMMIT is still
        to come.

        Args:
            session: In the chunk's transaction.
            chunk: Its number.
            part: What it brings.
            covers: The same, for people.
        """
        facts = {
            "run_id": self.run_id,
            "target_schema": self.target.schema,
            "target_table": self.target.table,
            "chunk": chunk,
            "range": covers,
            "leaf_oid": part.leaf,
            "file_node": part.file_node,
            "start_block": part.start,
            "stop_block": part.stop,
            "reading": part.reading,
            "snapshot": self.snapshot.id,
            "snapshot_xmin": self.snapshot.xmin,
            "lsn": self.snapshot.lsn,
        }
        query = sql.SQL(
            "INSERT INTO {} ({}, loaded_xid) VALUES ({}, pg_current_xact_id()::text::numeric) "
            "ON CONFLICT DO NOTHING RETURNING chunk"
        ).format(
            self.table.sql,
            sql.SQL(", ").join(map(sql.Identifier, facts)),
            sql.SQL(", ").join(map(sql.Literal, facts.values())),
        )
        return bool(session.execute(query, doing=f"claim {covers} for {self.target.said}"))

    def complete(self, session: Session, chunk: int, *, rows: int, bytes_: int) -> None:
        """Writes what a claimed chunk brought, with the caller's next statement."""
        session.defer(
            sql.SQL(
                "UPDATE {} SET rows = {}, bytes = {}, loaded_at = clock_timestamp() WHERE {}"
            ).format(
                self.table.sql, sql.Literal(rows), sql.Literal(bytes_), _of(self.target, [chunk])
            )
        )

    def read(self, session: Session) -> list[Checkpoint]:
        """Returns the chunks that stand beside the raw table, whichever run loaded them."""
        rows = session.execute(
            sql.SQL("SELECT {} FROM {} WHERE {} ORDER BY chunk").format(
                sql.SQL(_READ), self.table.sql, _of(self.target)
            ),
            doing=f"read the checkpoints of {self.target.said}",
        )
        return [_checkpoint(row) for row in rows]

    def discard(self, session: Session, scratch: TableName, dropped: Sequence[Checkpoint]) -> None:
        """Deletes chunks with their rows, which are told by the transaction that wrote them."""
        if not dropped:
            return
        session.execute(
            sql.SQL("DELETE FROM {} WHERE xmin::text::bigint = ANY ({}::bigint[])").format(
                scratch.sql, sql.Literal([each.loaded_xid % XID_SPAN for each in dropped])
            ),
            doing="delete the rows of chunks that no longer count",
        )
        self.delete(session, [each.chunk for each in dropped])

    def delete(self, session: Session, chunks: Sequence[int]) -> None:
        """Deletes checkpoints, not their rows."""
        session.execute(
            sql.SQL("DELETE FROM {} WHERE {}").format(self.table.sql, _of(self.target, chunks)),
            doing=f"delete checkpoints of {self.target.said}",
        )

    def move_here(self, session: Session) -> None:
        """Writes that every chunk shows this run's snapshot now."""
        session.execute(
            sql.SQL("UPDATE {} SET snapshot = {}, snapshot_xmin = {}, lsn = {} WHERE {}").format(
                self.table.sql,
                sql.Literal(self.snapshot.id),
                sql.Literal(self.snapshot.xmin),
                sql.Literal(self.snapshot.lsn),
                _of(self.target),
            ),
            doing=f"move the checkpoints of {self.target.said}",
        )


def forget(session: Session, target: TableName) -> None:
    """Deletes the checkpoints of every run on a raw table, wherever they stand."""
    for schema in (SCHEMA, SCRATCH_SCHEMA):
        session.execute(
            sql.SQL("DELETE FROM {} WHERE {}").format(
                sql.Identifier(schema, "chunks"), _of(target)
            ),
            doing=f"forget the checkpoints of {target.said}",
        )


def _checkpoint(row: Row) -> Checkpoint:
    """One that an older version wrote tells nothing of its part, and so matches none."""
    chunk, run_id, leaf, file_node, start, stop, reading, snapshot, xmin, lsn, *brought = row
    rows, bytes_, xid = brought
    return Checkpoint(
        chunk,
        run_id,
        Part(leaf or 0, file_node, start or 0, stop, reading or ""),
        SnapshotMark(snapshot or "", int(xmin or 0), lsn or "0/0"),
        rows or 0,
        bytes_ or 0,
        int(xid or 0),
    )


def _of(target: TableName, chunks: Sequence[int] | None = None) -> sql.Composable:
    table = sql.SQL("target_schema = {} AND target_table = {}").format(
        sql.Literal(target.schema), sql.Literal(target.table)
    )
    if chunks is None:
        return table
    return sql.SQL("{} AND chunk = ANY ({}::int[])").format(table, sql.Literal(list(chunks)))
