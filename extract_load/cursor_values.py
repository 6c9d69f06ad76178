"""What values of each cursor type mean: what lies before one, which of two is lower.

Pure: takes texts as PostgreSQL writes them under pinned settings, gives such texts.
"""

import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import ROUND_FLOOR, Context, Decimal
from typing import Any

from extract_load.config import CursorType

_EXACT = Context(prec=150_000)
"""More digits than PostgreSQL's numeric has: Python's usual 28 would round a watermark up."""

_DAY = timedelta(days=1)
_MILLISECOND = timedelta(milliseconds=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_BIGINT_MIN = -(1 << 63)
_PLAIN_UUID = re.compile(r"\{?[0-9a-f]{4}(-?[0-9a-f]{4}){7}\}?", re.IGNORECASE)


@dataclass(frozen=True)
class CursorValues:
    """What a cursor type's values mean."""

    sql_type: str
    """What a value is written as in our SQL, as every server knows it."""
    unit: str
    """What a lookback is: a duration, days, a number; "" where nothing can be taken off."""
    default_lookback: timedelta | Decimal
    before: Callable[[str, Any], str]
    """A value less a lookback; ValueError or OverflowError where no calendar has it."""
    rank: Callable[[str], Any]
    """Compares like the source does. ValueError for a text that cannot bound a cursor."""
    asked_as: str
    """The SQL type that the source reads a `--since` as."""
    from_asked: Callable[[str], str]
    """What the source read, as a value of the cursor."""
    example: str

    @property
    def is_temporal(self) -> bool:
        """Whether values tell when a row changed."""
        return self.unit in {DURATION, DAYS}


DURATION = "a duration"
DAYS = "days"
NUMBER = "a number"


def lookback_of(cursor_type: CursorType, written: timedelta | float | None) -> timedelta | Decimal:
    """Returns how far below a watermark to read again.

    Args:
        cursor_type: What the cursor holds.
        written: As the settings have it; None takes the type's default. A bare number means
            seconds for times, days for days.

    Raises:
        ValueError: If it is of the wrong kind for the type.

    Example:
        >>> lookback_of(CursorType.YYYYMMDD, 2.0), lookback_of(CursorType.BIGINT, 50.0)
        (datetime.timedelta(days=2), Decimal('50'))
    """
    values = VALUES[cursor_type]
    if written is None:
        return values.default_lookback
    if not written:
        return timedelta() if values.is_temporal else Decimal(0)
    if values.unit == DURATION:
        return (
            written if isinstance(written, timedelta) else _at_most(written, _DAY.total_seconds())
        )
    if values.unit == DAYS:
        return written if isinstance(written, timedelta) else _at_most(written, 1)
    if values.unit == NUMBER and not isinstance(written, timedelta):
        return Decimal(format(Decimal(str(written)).normalize(), "f"))  # 50, not 5E+1
    msg = f"{values.unit}, such as 1000" if values.unit else "0: nothing lies a span before a text"
    raise ValueError(msg)


def _at_most(count: float, a_day: float) -> timedelta:
    """So many of a unit, or the longest time there is: more is before every calendar, too."""
    return timedelta(days=min(count / a_day, timedelta.max.days))


def reaching(unit: str, lookback: timedelta, open_for: timedelta) -> timedelta:
    """Returns a lookback that reaches the begin of a transaction, too.

    Whole days need no sum: in `open_for` a day ends at most once more than it holds days.

    Example:
        >>> reaching(DAYS, timedelta(days=1), timedelta(hours=3)).days
        1
        >>> reaching(DURATION, timedelta(minutes=10), timedelta(hours=3))
        datetime.timedelta(seconds=11400)
    """
    if unit == DAYS:
        return max(lookback, timedelta(days=open_for // _DAY + 1))
    return lookback + open_for


def uuid_at(moment: str, *, is_last: bool) -> str:
    """Returns the first, or the last, uuid whose leading 48 bits are a moment's milliseconds.

    Raises:
        ValueError: If 48 bits do not hold the moment.

    Example:
        >>> uuid_at("1970-01-01 00:00:00.5+00", is_last=False)
        '00000000-01f4-0000-0000-000000000000'
    """
    milliseconds = (datetime.fromisoformat(moment) - _EPOCH) // _MILLISECOND
    if not 0 <= milliseconds < 1 << 48:
        raise ValueError(moment)
    return _uuid(milliseconds, is_last=is_last)


def _uuid(milliseconds: int, *, is_last: bool = False) -> str:
    rest = (1 << 80) - 1 if is_last else 0
    return str(uuid.UUID(int=(milliseconds << 80) + rest))


def _moment_before(value: str, back: timedelta) -> str:
    return str(datetime.fromisoformat(value) - back)


def _day_before(value: str, back: timedelta) -> str:
    # A day is the grain: part of one would read the same day again.
    return str(date.fromisoformat(value) - timedelta(days=-(-back // _DAY)))


def _written_day_before(value: str, back: timedelta) -> str:
    return _written_day(_day_before(_dashed(value), back))


def _integer_before(value: str, back: Decimal) -> str:
    low = _EXACT.subtract(Decimal(value), back).to_integral_value(ROUND_FLOOR)
    return format(max(low, Decimal(_BIGINT_MIN)), "f")


def _number_before(value: str, back: Decimal) -> str:
    return format(_EXACT.subtract(Decimal(value), back), "f")


def _uuid_before(value: str, back: timedelta) -> str:
    milliseconds = (uuid.UUID(value).int >> 80) - -(-back // _MILLISECOND)
    return _uuid(max(milliseconds, 0))


def _dashed(day: str) -> str:
    if not re.fullmatch("[0-9]{8}", day):
        raise ValueError(day)
    return f"{day[:4]}-{day[4:6]}-{day[6:]}"


def _written_day(day: str) -> str:
    return date.fromisoformat(day).isoformat().replace("-", "")


def _finite(value: str) -> Decimal:
    number = Decimal(value)
    if not number.is_finite():
        raise ValueError(value)
    return number


def _ascii(value: str) -> bytes:
    """In every encoding of a server ASCII comes first, so bytes of UTF-8 compare like its own."""
    return value.encode()


def _asked_text(value: str) -> str:
    if not value.isascii():
        raise ValueError(value)
    return value


def is_uuid(written: str) -> bool:
    """Returns whether a `--since` of a uuid cursor is a uuid; otherwise it is a time."""
    return bool(_PLAIN_UUID.fullmatch(written.strip()))


def _asked_uuid(read: str) -> str:
    return str(uuid.UUID(read)) if is_uuid(read) else uuid_at(read, is_last=False)


def _moments(sql_type: str, example: str) -> CursorValues:
    return CursorValues(
        sql_type,
        DURATION,
        timedelta(minutes=10),
        _moment_before,
        datetime.fromisoformat,
        sql_type,
        str,
        example,
    )


def _integers(asked_as: str) -> CursorValues:
    # Bounds are bigint also for an integer: its lowest value less a lookback is none.
    return CursorValues(
        "bigint", NUMBER, Decimal(0), _integer_before, _finite, asked_as, str, "1000"
    )


VALUES: dict[CursorType, CursorValues] = {
    CursorType.TIMESTAMP: _moments("timestamp", "2026-01-31 06:00"),
    CursorType.TIMESTAMPTZ: _moments("timestamptz", "2026-01-31 06:00+00"),
    CursorType.DATE: CursorValues(
        "date", DAYS, _DAY, _day_before, date.fromisoformat, "date", str, "2026-01-31"
    ),
    CursorType.INTEGER: _integers("integer"),
    CursorType.BIGINT: _integers("bigint"),
    CursorType.NUMERIC: CursorValues(
        "numeric", NUMBER, Decimal(0), _number_before, _finite, "numeric", str, "1000.5"
    ),
    CursorType.UUID: CursorValues(
        "uuid",
        DURATION,
        timedelta(minutes=10),
        _uuid_before,
        lambda value: uuid.UUID(value).int,
        "timestamptz",
        _asked_uuid,
        "2026-01-31 06:00+00, or a uuid",
    ),
    CursorType.TEXT: CursorValues(
        "text", "", Decimal(0), lambda value, _: value, _ascii, "text", _asked_text, "2026-A, ASCII"
    ),
    CursorType.YYYYMMDD: CursorValues(
        "text", DAYS, _DAY, _written_day_before, str, "date", _written_day, "20260131"
    ),
}
