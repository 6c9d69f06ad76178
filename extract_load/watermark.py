"""Watermarks and windows: which rows a run reads.

Pure: takes numbers and texts, gives numbers, texts and predicates. No connection, no clock.
"""

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import ROUND_FLOOR, Context, Decimal
from typing import Any

from psycopg2 import sql

from extract_load.config import CursorType

XID_SPAN = 1 << 32
"""Tuples carry the low 32 bits of the 64-bit transaction id."""

DEFAULT_LOOKBACK: dict[CursorType, timedelta | float] = {
    CursorType.TIMESTAMP: timedelta(minutes=10),
    CursorType.TIMESTAMPTZ: timedelta(minutes=10),
    CursorType.DATE: timedelta(days=1),
    CursorType.INTEGER: 0.0,
    CursorType.BIGINT: 0.0,
    CursorType.NUMERIC: 0.0,
}

TEMPORAL = frozenset({CursorType.TIMESTAMP, CursorType.TIMESTAMPTZ, CursorType.DATE})

_EXACT = Context(prec=150_000)
"""More digits than PostgreSQL's numeric has: Python's usual 28 would round a watermark up."""

_CURSOR_TYPES = {
    "timestamp without time zone": CursorType.TIMESTAMP,
    "timestamp with time zone": CursorType.TIMESTAMPTZ,
    "date": CursorType.DATE,
    "smallint": CursorType.INTEGER,
    "integer": CursorType.INTEGER,
    "bigint": CursorType.BIGINT,
    "numeric": CursorType.NUMERIC,
}


@dataclass(frozen=True)
class Window:
    """The part of a table a run reads, from `low` (inclusive) to `high`."""

    low: str | None
    """None: from the beginning."""
    high: str
    """Fixed before the first row is read."""


@dataclass(frozen=True)
class Watermark:
    """What the ledger knows of a raw table that this project created."""

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
    snapshot_xid: int | None = None
    """64-bit xmin of the published snapshot, also where a cursor is the low bound."""


def cursor_type_of(type_text: str) -> CursorType | None:
    """Returns what a column of a type can be as a cursor, or None.

    Example:
        >>> cursor_type_of("timestamp(3) with time zone"), cursor_type_of("jsonb")
        (<CursorType.TIMESTAMPTZ: 'timestamptz'>, None)
    """
    head, _, rest = type_text.partition("(")
    return _CURSOR_TYPES.get(head.strip() + rest.partition(")")[2])


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


def xmin_predicate(low: int, high: int) -> sql.Composable:
    """Returns the predicate for tuples written by transactions of a window.

    `xmin` wraps after 2^32 transactions (manual, 25.1.5), so the distance from `low` is taken
    modulo 2^32. Frozen tuples keep their raw xmin; some of an older epoch can look new, never
    the other way round.
    """
    return sql.SQL("((xmin::text::bigint - {low} + {span}) % {span}) < {width}").format(
        low=sql.Literal(low % XID_SPAN), span=sql.Literal(XID_SPAN), width=sql.Literal(high - low)
    )


def cursor_low(
    watermark: str, cursor_type: CursorType, lookback: timedelta | float | None
) -> str | None:
    """Returns the low bound of a cursor window: the watermark less the lookback.

    Args:
        watermark: The last published cursor value, as PostgreSQL's ISO text in UTC.
        cursor_type: What the cursor column holds.
        lookback: A duration or a number; None takes the default of the type.

    Returns:
        The bound as text, or None when Python's calendar cannot express it (years before 1 or
        beyond 9999): such a table needs a baseline.

    Example:
        >>> cursor_low("2026-01-02 00:05:00+00", CursorType.TIMESTAMPTZ, None)
        '2026-01-01 23:55:00+00:00'
        >>> cursor_low("1000", CursorType.BIGINT, 50.0)
        '950'
    """
    back = DEFAULT_LOOKBACK[cursor_type] if lookback is None else lookback
    if cursor_type not in TEMPORAL:
        number = back.total_seconds() if isinstance(back, timedelta) else back
        low = _EXACT.subtract(Decimal(watermark), Decimal(str(number)).normalize())
        if cursor_type is not CursorType.NUMERIC:
            low = low.to_integral_value(ROUND_FLOOR)
        return format(low, "f")
    span = back if isinstance(back, timedelta) else timedelta(seconds=back)
    try:
        if cursor_type is CursorType.DATE:
            # A day is the grain: part of one would read the same day again.
            return str(
                date.fromisoformat(watermark) - timedelta(days=-(-span // timedelta(days=1)))
            )
        return str(datetime.fromisoformat(watermark) - span)
    except (ValueError, OverflowError):
        return None


def lower_of(low: str, since: str, cursor_type: CursorType) -> str:
    """Returns the lower of a low bound and the one a user asked for.

    Args:
        low: The bound that the watermark gives.
        since: What the user asked for, in the source's own text form, in UTC.
        cursor_type: What both are.

    Raises:
        ValueError: If `since` is no number, or no day of the years 1 to 9999.

    Example:
        >>> lower_of("950", "1000", CursorType.BIGINT), lower_of("950", "90", CursorType.BIGINT)
        ('950', '90')
    """
    if cursor_type is CursorType.DATE:
        is_lower = date.fromisoformat(since) < date.fromisoformat(low)
    elif cursor_type in TEMPORAL:
        is_lower = datetime.fromisoformat(since) < datetime.fromisoformat(low)
    else:
        asked = Decimal(since)
        if not asked.is_finite():
            raise ValueError(since)
        is_lower = asked < Decimal(low)
    return since if is_lower else low


def cursor_predicate(column: str, low: str, type_text: str, *, is_nullable: bool) -> sql.Composable:
    """Returns the predicate for rows at or above a low bound.

    The bound is inclusive: ties are merged, gaps cannot be. Rows without a cursor value are read
    every time, because nothing says when they changed.
    """
    name = sql.Identifier(column)
    predicate = sql.SQL("{} >= {}::{}").format(name, sql.Literal(low), sql.SQL(type_text))
    if not is_nullable:
        return predicate
    return sql.SQL("({} OR {} IS NULL)").format(predicate, name)


def cursor_watermark(
    column: str, cursor_type: CursorType, cut_at: str, last: str | None
) -> sql.Composable:
    """Returns the aggregate over landed rows that becomes the next watermark.

    A temporal watermark never lies after the snapshot, so infinite and future values do not hide
    the rows that come before them; NaN and infinity never become a numeric one.

    Args:
        column: The cursor column.
        cursor_type: What it holds.
        cut_at: When the snapshot was taken.
        last: The watermark that a delta came after: the next one is never below it, also where
            the delta holds no row, or only old ones. None for a baseline.
    """
    landed = _largest(column, cursor_type, cut_at)
    if last is None:
        return landed
    return sql.SQL("greatest({}, {}::{})").format(
        landed, sql.Literal(last), sql.SQL(cursor_type.value)
    )


def _largest(column: str, cursor_type: CursorType, cut_at: str) -> sql.Composable:
    name = sql.Identifier(column)
    if cursor_type in TEMPORAL:
        # least() skips NULLs: without the CASE an empty delta would move the watermark.
        return sql.SQL(
            "CASE WHEN count({0}) > 0 THEN least(max({0}), {1}::timestamptz::{2}) END"
        ).format(name, sql.Literal(cut_at), sql.SQL(cursor_type.value))
    if cursor_type is CursorType.NUMERIC:
        return sql.SQL(
            "max({0}) FILTER (WHERE {0}::text NOT IN ('NaN', 'Infinity', '-Infinity'))"
        ).format(name)
    return sql.SQL("max({})").format(name)
