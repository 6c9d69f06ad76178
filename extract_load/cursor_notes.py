"""What `plan` says about a cursor: which low bound holds and why, and what it costs and misses.

Pure: takes settings, a catalog and a snapshot, gives sentences.
"""

from collections.abc import Iterator
from datetime import timedelta

from extract_load.catalog import ServerCut, TableSchema
from extract_load.config import CursorType, LateRows, SyncMode, TableSettings, duration_text
from extract_load.cursor import Cursor, cursor_of
from extract_load.cursor_values import lookback_of

_HOUR = timedelta(hours=1)
_SECOND = timedelta(seconds=1)


def cursor_notes(settings: TableSettings, source: TableSchema, cut: ServerCut) -> Iterator[str]:
    """Yields what is to be known of a table's cursor; nothing where the mode uses none."""
    if settings.sync_mode is not SyncMode.INCREMENTAL_SYNC:
        return
    cursor = cursor_of(settings, source)
    if settings.late_rows is LateRows.XMIN:
        yield "late rows are found by xmin: each run scans the whole source table"
    else:
        yield from _index_notes(cursor, source)
        yield _low_bound(cursor, cut)
    if cursor.is_nullable:
        yield f'"{cursor.name}" may be NULL: such rows are read again in every run'
    if settings.late_rows is LateRows.XMIN:
        return
    if cursor.type is CursorType.UUID:
        yield (
            f'only version 7 of a uuid holds a time: rows whose "{cursor.name}" is of another '
            "version and below the low bound are not seen"
        )
    back = lookback_of(cursor.type, cursor.lookback)
    if cursor.type is CursorType.TIMESTAMP and isinstance(back, timedelta) and back < _HOUR:
        yield (
            f'"{cursor.name}" has no time zone: where the source writes local time with daylight '
            'saving, set "lookback" above the hour that is repeated in autumn'
        )


def _index_notes(cursor: Cursor, source: TableSchema) -> Iterator[str]:
    if cursor.is_served_by(source):
        return
    if cursor.name in source.indexed_columns:
        yield (
            f'no index keeps "{cursor.name}" under COLLATE "C", in which texts are compared: '
            "each run scans the whole source table"
        )
        return
    yield f'no index begins with "{cursor.name}": each run scans the whole source table'


def _low_bound(cursor: Cursor, cut: ServerCut) -> str:
    """Which of the low bounds holds, and why."""
    back = lookback_of(cursor.type, cursor.lookback)
    text = duration_text(back) if isinstance(back, timedelta) else f"{back:g}"
    less = f"low bound: the watermark less a lookback of {text}"
    missed = 'rows that are committed later are missed, unless "late_rows" is xmin'
    if not cursor.values.is_temporal:
        return f"{less}: {missed}"
    if cut.open_for is None:
        return f"{less} alone, since {cut.open_unknown}: {missed}"
    known = f"{less} and less the age of the oldest transaction that was open when it was published"
    if cut.open_for >= _SECOND:
        known += f" (now {duration_text(timedelta(seconds=round(cut.open_for.total_seconds())))})"
    return f"{known}, but {cut.open_unknown}: {missed}" if cut.open_unknown else known
