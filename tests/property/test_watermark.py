"""Windows lose nothing, whatever the transaction ids or the calendar do."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from psycopg2 import sql

from extract_load.config import CursorType
from extract_load.cursor_values import VALUES
from extract_load.watermark import XID_SPAN, xmin_predicate, xmin_window

XIDS = st.integers(3, 1 << 40)


def in_window(xmin: int, low: int, high: int) -> bool:
    """The predicate's arithmetic, as PostgreSQL does it on the raw 32-bit xmin."""
    return (xmin % XID_SPAN - low % XID_SPAN + XID_SPAN) % XID_SPAN < high - low


@given(low=XIDS, width=st.integers(0, XID_SPAN - 1), offset=st.integers(0, XID_SPAN))
def test_every_transaction_of_the_window_is_read(low: int, width: int, offset: int) -> None:
    """Also across the wrap of the 32-bit counter; only false positives are possible."""
    high = low + width
    assume(offset < width)

    assert xmin_window(low, high) is not None
    assert in_window(low + offset, low, high)


@given(low=XIDS, width=st.integers(0, XID_SPAN - 1), back=st.integers(1, 1 << 30))
def test_an_older_transaction_of_the_same_epoch_is_not_read(
    low: int, width: int, back: int
) -> None:
    assume(back < XID_SPAN - width)
    assert not in_window(low - back, low, low + width)


@given(low=XIDS, high=XIDS)
def test_a_window_is_told_only_where_it_is_one(low: int, high: int) -> None:
    assert (xmin_window(low, high) is not None) == (0 <= high - low < XID_SPAN)


def as_text(predicate: sql.Composable) -> str:
    """Returns a predicate without the schemas it names."""
    text = "".join(
        part.string if isinstance(part, sql.SQL) else str(part.wrapped)
        for part in predicate.seq  # type: ignore[attr-defined]
    )
    plain = text.replace("OPERATOR(pg_catalog.", "").replace("pg_catalog.", "")
    for sign in "+%<=":
        plain = plain.replace(f"{sign})", sign)
    return plain


@pytest.mark.parametrize(("width", "version"), [(1001, 180000), (10, 130000)])
def test_the_predicate_says_that_arithmetic(width: int, version: int) -> None:
    low = XID_SPAN + 7
    assert as_text(xmin_predicate(low, low + width, version)) == (
        f"(((xmin::text::bigint + 4294967289::bigint) % 4294967296::bigint) < {width}::bigint)"
    )


@given(low=XIDS, width=st.integers(0, 1000), xmin=st.integers(0, XID_SPAN - 1))
def test_a_small_window_names_the_same_transactions(low: int, width: int, xmin: int) -> None:
    text = as_text(xmin_predicate(low, low + width, 140000))
    assert text.startswith("(xmin = ANY ({")
    named = [int(xid) for xid in text[len("(xmin = ANY ({") :].split("}")[0].split(",") if xid]

    assert all(in_window(xid, low, low + width) for xid in named)
    assert (xmin in named) == in_window(xmin, low, low + width)
    assert len(named) == width


@given(
    at=st.datetimes(min_value=datetime(2, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
    minutes=st.integers(0, 60 * 24 * 300),
)
def test_the_low_bound_is_the_watermark_less_the_lookback(at: datetime, minutes: int) -> None:
    low = VALUES[CursorType.TIMESTAMPTZ].before(str(at), timedelta(minutes=minutes))

    assert datetime.fromisoformat(low) == at - timedelta(minutes=minutes)


@given(at=st.dates(min_value=date(1, 2, 1)), hours=st.integers(0, 100))
def test_a_day_is_never_cut(at: object, hours: int) -> None:
    """A lookback of half a day on a date reads that whole day again."""
    low = VALUES[CursorType.DATE].before(str(at), timedelta(hours=hours))

    gap = datetime.fromisoformat(str(at)) - datetime.fromisoformat(low)
    assert gap >= timedelta(hours=hours)


@given(value=st.decimals(allow_nan=False, allow_infinity=False, places=4))
def test_numbers_keep_their_digits(value: object) -> None:
    low = VALUES[CursorType.NUMERIC].before(str(value), Decimal(0))
    assert float(low) == float(str(value))
