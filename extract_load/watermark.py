"""Watermarks and windows: which rows a run reads.

Pure: takes numbers, gives numbers and predicates. No connection, no clock. What a cursor's
values mean stands in `cursor_values`.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from psycopg2 import sql

XID_SPAN = 1 << 32
"""Tuples carry the low 32 bits of the 64-bit transaction id."""

_NAMED_XIDS = 1000
_HASHED_LIST_VERSION = 140000
"""From 14 on a long list of constants is hashed; before, each row is compared with all of it."""


@dataclass(frozen=True)
class Window:
    """What a run reads from: values of the cursor as text, or 64-bit transaction ids."""

    low: str | None
    """Inclusive. None: from the beginning."""
    high: str
    """Fixed before the first row is read: the id that a window of transactions ends before. For a
    cursor, and in `full_sync`, the snapshot's time, which bounds nothing."""


@dataclass(frozen=True)
class RawMark:
    """What a publish left in a raw table: enough to see whether anybody wrote into it since."""

    xmin: int
    """64-bit xmin of the publishing transaction's snapshot, in the target."""
    writers: tuple[int, ...]
    """Transactions (32 bits) from it on whose rows were there, those of the publish among them."""
    rows: int
    """Soft-deleted ones too."""
    columns: str
    """A digest of the catalog's columns."""


@dataclass(frozen=True)
class Watermark:
    """What the ledger knows of a raw table that was published."""

    target_oid: int
    identity: dict[str, Any] | None
    """The server it was read from; None after a reset."""
    fingerprint: dict[str, Any] | None
    """What the source table was then."""
    lsn: str | None
    """WAL position of the published snapshot."""
    cursor_value: str | None
    xid: int | None
    """64-bit xmin of the published snapshot."""
    loaded_at: str
    """The `_loaded_at` of the last publish."""
    open_for: timedelta | None = None
    """How long the oldest transaction that the published snapshot did not see ended had run by
    then; None where nobody could tell, or nothing was read by a cursor."""
    snapshot_xid: int | None = None
    """64-bit xmin of the published snapshot, also where a cursor is the low bound."""
    run_id: str | None = None
    """The run that published it."""
    raw_mark: RawMark | None = None
    """What it left in the raw table; None where nobody needs to know."""


def xmin_window(low: int, high: int) -> Window | None:
    """Returns the window between two 64-bit transaction ids, or None when it cannot be told.

    A window of 2^32 or more transactions would let tuples of two epochs look alike, and one that
    ends before it begins belongs to a restored server: both need a baseline.

    Args:
        low: `pg_snapshot_xmin` of the snapshot that was published last.
        high: `pg_snapshot_xmax` of the snapshot that is read now.
    """
    if not 0 <= high - low < XID_SPAN:
        return None
    return Window(str(low), str(high))


def xmin_predicate(low: int, high: int, version: int) -> sql.Composable:
    """Returns the predicate for tuples written by transactions of a window.

    `xmin` wraps after 2^32 transactions (manual, 25.1.5), so the distance from `low` is taken
    modulo 2^32. Frozen tuples keep their raw xmin; some of an older epoch can look new, never
    the other way round.

    A transaction id becomes a number by way of its text only. So those of a small window are
    named instead: with them a scan costs the source less than half (92 ms a million narrow rows,
    so 40 ms).

    Args:
        low: The first transaction, in 64 bits.
        high: The first behind the window.
        version: The source's.
    """
    # Qualified, since it stands beside a custom_where and its search_path.
    if high - low <= _NAMED_XIDS and version >= _HASHED_LIST_VERSION:
        xids = ",".join(str(xid % XID_SPAN) for xid in range(low, high))
        return sql.SQL("(xmin OPERATOR(pg_catalog.=) ANY ({}::pg_catalog.xid[]))").format(
            sql.Literal(f"{{{xids}}}")
        )
    return sql.SQL(
        "(((xmin::pg_catalog.text::bigint OPERATOR(pg_catalog.+) {start}::bigint)"
        " OPERATOR(pg_catalog.%) {span}::bigint) OPERATOR(pg_catalog.<) {width}::bigint)"
    ).format(
        start=sql.Literal(XID_SPAN - low % XID_SPAN),
        span=sql.Literal(XID_SPAN),
        width=sql.Literal(high - low),
    )
