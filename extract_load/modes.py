"""The three sync modes side by side: what each reads after its baseline, and what it saves.

Pure: takes settings, catalogs and a watermark, gives what to read.
"""

from dataclasses import dataclass
from typing import Protocol

from psycopg2 import sql

from extract_load.catalog import ServerCut, TableSchema
from extract_load.config import LateRows, SyncMode, TableSettings
from extract_load.cursor import cursor_of
from extract_load.watermark import Watermark, Window, xmin_predicate, xmin_window

NO_SNAPSHOT = "no snapshot is published yet"
WIDE_WINDOW = "the window spans 2^32 transactions or more"


@dataclass(frozen=True)
class Reading:
    """What a run reads of a table."""

    window: Window
    predicate: sql.Composable | None = None
    """None: the whole table."""
    baseline_reason: str | None = None
    """Why the whole table is read, for people; None for a delta."""
    finds_directly: bool = False
    """Whether rows are found without a look at every block; ranges would repeat the search."""


class Mode(Protocol):
    """What a sync mode decides."""

    proves_equality_by_count: bool
    """Whether equal counts prove that nothing was deleted: only where the delta holds every
    row that changed."""

    def saves_xid(self, table: TableSettings) -> bool:
        """Returns whether a publish makes the raw table complete up to the snapshot.

        Then the snapshot's xmin may become the watermark.
        """

    def baseline(self, cut: ServerCut, reason: str) -> Reading:
        """Returns the reading of the whole table."""

    def delta(
        self,
        table: TableSettings,
        schema: TableSchema,
        cut: ServerCut,
        watermark: Watermark,
        since: str | None,
    ) -> Reading:
        """Returns what to read after the watermark; `since` lowers the low bound of a cursor."""


class FullSync:
    """Makes the raw table the snapshot: reads everything, or proves what need not be read."""

    proves_equality_by_count = True

    def saves_xid(self, table: TableSettings) -> bool:  # noqa: ARG002 - the protocol's
        """Returns that it does: every row is read, or every one written since."""
        return True

    def baseline(self, cut: ServerCut, reason: str) -> Reading:
        """Returns the reading of the whole table, up to the snapshot's time."""
        return Reading(Window(None, cut.cut_at), baseline_reason=reason)

    def delta(
        self,
        table: TableSettings,  # noqa: ARG002 - the protocol's
        schema: TableSchema,  # noqa: ARG002
        cut: ServerCut,
        watermark: Watermark,
        since: str | None,  # noqa: ARG002
    ) -> Reading:
        """Returns the reading of the window between the two snapshots.

        The rest of the raw table is proved untouched when it is published.
        """
        if watermark.raw_mark is None:
            return self.baseline(cut, "full_sync reads the whole table")
        return _between(self, cut, watermark)


class IncrementalSync:
    """Reads rows whose cursor is at or above the watermark less the lookback."""

    proves_equality_by_count = False

    def saves_xid(self, table: TableSettings) -> bool:
        """Returns whether late rows are read by xmin: a cursor alone misses rows."""
        return table.late_rows is LateRows.XMIN

    def baseline(self, cut: ServerCut, reason: str) -> Reading:
        """Returns the reading of the whole table, up to the snapshot's time."""
        return Reading(Window(None, cut.cut_at), baseline_reason=reason)

    def delta(
        self,
        table: TableSettings,
        schema: TableSchema,
        cut: ServerCut,
        watermark: Watermark,
        since: str | None,
    ) -> Reading:
        """Returns the reading of the rows at or above the low bound, and of late ones."""
        cursor = cursor_of(table, schema)
        if watermark.cursor_value is None:
            return self.baseline(cut, "no cursor value is published yet")
        low = cursor.low(watermark)
        if low is None:
            return self.baseline(cut, "the watermark lies outside the calendar")
        if since is not None:
            low = cursor.lower_of(low, since)
        predicate = cursor.predicate(low)
        if table.late_rows is LateRows.LOOKBACK:
            finds_directly = cursor.is_served_by(schema)
            return Reading(Window(low, cut.cut_at), predicate, finds_directly=finds_directly)
        if watermark.xid is None:
            return self.baseline(cut, NO_SNAPSHOT)
        if xmin_window(watermark.xid, cut.xmax) is None:
            return self.baseline(cut, WIDE_WINDOW)
        late = xmin_predicate(watermark.xid, cut.xmax, cut.version)
        return Reading(Window(low, cut.cut_at), sql.SQL("({} OR {})").format(predicate, late))


class XminIncremental:
    """Reads rows written by transactions that the published snapshot did not see ended."""

    proves_equality_by_count = True

    def saves_xid(self, table: TableSettings) -> bool:  # noqa: ARG002 - the protocol's
        """Returns that it does: every row is read, or every one written since."""
        return True

    def baseline(self, cut: ServerCut, reason: str) -> Reading:
        """Returns the reading of the whole table: no bound on xmin, up to the snapshot's xmax."""
        return Reading(Window(None, str(cut.xmax)), baseline_reason=reason)

    def delta(
        self,
        table: TableSettings,  # noqa: ARG002 - the protocol's
        schema: TableSchema,  # noqa: ARG002
        cut: ServerCut,
        watermark: Watermark,
        since: str | None,  # noqa: ARG002
    ) -> Reading:
        """Returns the reading of the window between the two snapshots."""
        return _between(self, cut, watermark)


def _between(mode: Mode, cut: ServerCut, watermark: Watermark) -> Reading:
    """What was written by transactions that the published snapshot did not see ended."""
    if watermark.xid is None:
        return mode.baseline(cut, NO_SNAPSHOT)
    window = xmin_window(watermark.xid, cut.xmax)
    if window is None:
        return mode.baseline(cut, WIDE_WINDOW)
    if watermark.xid == cut.xmax:  # not one transaction began since
        return Reading(window, sql.SQL("false"), finds_directly=True)
    return Reading(window, xmin_predicate(watermark.xid, cut.xmax, cut.version))


MODES: dict[SyncMode, Mode] = {
    SyncMode.FULL_SYNC: FullSync(),
    SyncMode.INCREMENTAL_SYNC: IncrementalSync(),
    SyncMode.XMIN_INCREMENTAL: XminIncremental(),
}
