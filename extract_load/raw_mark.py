"""Whether a raw table is as the last publish left it, told by its row versions.

A row that somebody inserts or updates is written by a transaction that the publish did not see;
one that somebody deletes is missing in the count. Where neither is so, the very row versions of
the publish stand there. Freezing and rewriting by VACUUM FULL or CLUSTER keep a row's xmin, and
what rewrites rows otherwise writes them anew.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from psycopg2 import sql

from extract_load.checkpoints import Checkpoint
from extract_load.connection import Session
from extract_load.difference import is_live
from extract_load.table_plan import TablePlan
from extract_load.watermark import XID_SPAN, RawMark

_MAX_WRITERS = 1000
"""A mark with more transactions than these is not kept: the next full_sync reads every row."""


@dataclass(frozen=True)
class RawRows:
    """The rows of a raw table, as one transaction sees them."""

    by_writer: dict[int, int]
    """How many rows by the transaction (32 bits) that wrote them."""
    live: int
    """How many are not soft-deleted."""
    columns: str
    """A digest of the catalog's columns."""
    xmin: int
    """64-bit: every transaction below it had ended."""
    own: int
    """64-bit: the transaction that looks."""
    own_writers: frozenset[int] = frozenset()
    """32 bits: itself and its subtransactions."""

    @property
    def total(self) -> int:
        """Rows, soft-deleted ones too."""
        return sum(self.by_writer.values())

    def mark(self) -> RawMark | None:
        """Returns what tells these rows from others later; None where that is too much."""
        width = self.own - self.xmin
        writers = tuple(
            xid
            for xid in self.by_writer
            if xid in self.own_writers or (xid - self.xmin) % XID_SPAN < width
        )
        if len(writers) > _MAX_WRITERS:
            return None
        return RawMark(self.xmin, tuple(sorted(writers)), self.total, self.columns)


def read_rows(session: Session, plan: TablePlan) -> RawRows:
    """Returns the rows of the raw table; one scan.

    Args:
        session: In a `REPEATABLE READ` transaction that has an id.
        plan: The table's.
    """
    raw = plan.settings.target
    counts: list[tuple[int, int, int]] = session.execute(
        sql.SQL(
            "SELECT xmin::pg_catalog.text::bigint, pg_catalog.count(*), "
            "pg_catalog.count(*) FILTER (WHERE {live}) FROM {raw} AS t GROUP BY xmin"
        ).format(live=is_live(plan, "t"), raw=raw.sql),
        doing=f"count the rows of {raw.said}",
    )
    by_writer = {writer: rows for writer, rows, _ in counts}
    return _raw_rows(session, plan, by_writer, live=sum(live for *_, live in counts))


def rows_of_chunks(session: Session, plan: TablePlan, loaded: Sequence[Checkpoint]) -> RawRows:
    """Returns the rows of a raw table that holds its chunks and nothing else; no scan.

    Args:
        session: As above.
        plan: The table's.
        loaded: Its chunks; counting proved that they brought all of it.
    """
    by_writer = {each.loaded_xid % XID_SPAN: each.rows for each in loaded}
    return _raw_rows(session, plan, by_writer, live=sum(each.rows for each in loaded))


def _raw_rows(session: Session, plan: TablePlan, by_writer: dict[int, int], live: int) -> RawRows:
    ((columns, xmin, own, own_writers),) = session.execute(
        "SELECT pg_catalog.md5(pg_catalog.string_agg(pg_catalog.format("
        "'%%s %%s %%s %%s %%s', attnum, attname, atttypid, atttypmod, attgenerated), ',' "
        "ORDER BY attnum)), pg_catalog.pg_snapshot_xmin(pg_catalog.pg_current_snapshot())::text, "
        "pg_catalog.pg_current_xact_id()::text, "
        # A subtransaction that was not released holds a lock on its id, like its parent.
        "array(SELECT transactionid::text::bigint FROM pg_catalog.pg_locks "
        "WHERE locktype = 'transactionid' AND mode = 'ExclusiveLock' "
        "AND pid = pg_catalog.pg_backend_pid()) FROM pg_catalog.pg_attribute "
        "WHERE attrelid = pg_catalog.to_regclass(%(name)s) AND attnum > 0 AND NOT attisdropped",
        {"name": plan.settings.target.regclass},
    )
    return RawRows(by_writer, live, columns, int(xmin), int(own), frozenset(own_writers))


def why_touched(mark: RawMark, rows: RawRows) -> str | None:
    """Returns what shows that somebody changed a raw table since a publish; None where nobody did.

    Args:
        mark: What the publish left.
        rows: What stands there now.
    """
    width = rows.own - mark.xmin
    if not 0 <= width < XID_SPAN:
        return "its last publish is 2^32 transactions ago"
    if rows.columns != mark.columns:
        return "its columns were altered"
    foreign = sum(
        count
        for writer, count in rows.by_writer.items()
        if (writer - mark.xmin) % XID_SPAN < width and writer not in mark.writers
    )
    if foreign:
        return f"{foreign} of its rows were written by somebody else"
    if rows.total != mark.rows:
        return f"it has {rows.total} rows, and had {mark.rows}"
    return None
