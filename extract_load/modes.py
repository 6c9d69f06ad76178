"""The three sync modes side by side: what each reads after its baseline, and what it saves.

Pure: takes settings, catalogs and a watermark, gives what to read.
"""

from dataclasses import dataclass
from typing import Protocol

from psycopg2 import sql

from extract_load.catalog import ServerCut, TableSchema
from extract_load.config import CursorType, SyncMode, TableSettings
from extract_load.errors import SchemaMismatch
from extract_load.watermark import (
    Watermark,
    Window,
    cursor_low,
    cursor_predicate,
    cursor_type_of,
    lower_of,
    xmin_predicate,
    xmin_window,
)


@dataclass(frozen=True)
class Reading:
    """What a run reads of a table."""

    window: Window
    predicate: sql.Composable | None = None
    """None: the whole table."""
    baseline_reason: str | None = None
    """Why the whole table is read, for people; None for a delta."""
    uses_index: bool = False
    """Whether an index leads to the rows; then block ranges would only repeat the search."""


class Mode(Protocol):
    """What a sync mode decides."""

    saves_xid: bool
    """Whether its publish makes the raw table complete up to the snapshot, so that the
    snapshot's xmin may become the watermark."""
    proves_equality_by_count: bool
    """Whether equal counts prove that nothing was deleted: only where the delta holds every
    row that changed."""

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
    """Reads everything, every time."""

    saves_xid = True
    proves_equality_by_count = False

    def baseline(self, cut: ServerCut, reason: str) -> Reading:
        """Returns the reading of the whole table, up to the snapshot's time."""
        return Reading(Window(None, cut.cut_at), baseline_reason=reason)

    def delta(
        self,
        table: TableSettings,  # noqa: ARG002 - the protocol's
        schema: TableSchema,  # noqa: ARG002
        cut: ServerCut,
        watermark: Watermark,  # noqa: ARG002
        since: str | None,  # noqa: ARG002
    ) -> Reading:
        """Returns a baseline."""
        return self.baseline(cut, "full_sync reads the whole table")


class IncrementalSync:
    """Reads rows whose cursor column is at or above the watermark less the lookback."""

    saves_xid = False
    proves_equality_by_count = False

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
        """Returns the reading of the rows at or above the low bound."""
        name, cursor_type = cursor_of(table, schema)
        if watermark.cursor_value is None:
            return self.baseline(cut, "no cursor value is published yet")
        low = cursor_low(watermark.cursor_value, cursor_type, table.lookback)
        if low is None:
            return self.baseline(cut, "the watermark lies outside the calendar")
        if since is not None:
            low = lower_of(low, since, cursor_type)
        column = schema.column(name)
        is_nullable = column is None or not column.is_not_null
        return Reading(
            window=Window(low, cut.cut_at),
            predicate=cursor_predicate(name, low, cursor_type.value, is_nullable=is_nullable),
            uses_index=name in schema.indexed_columns,
        )


class XminIncremental:
    """Reads rows written by transactions that the published snapshot did not see ended."""

    saves_xid = True
    proves_equality_by_count = True

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
        if watermark.xid is None:
            return self.baseline(cut, "no snapshot is published yet")
        window = xmin_window(watermark.xid, cut.xmax)
        if window is None:
            return self.baseline(cut, "the window spans 2^32 transactions or more")
        return Reading(window, xmin_predicate(watermark.xid, cut.xmax))


MODES: dict[SyncMode, Mode] = {
    SyncMode.FULL_SYNC: FullSync(),
    SyncMode.INCREMENTAL_SYNC: IncrementalSync(),
    SyncMode.XMIN_INCREMENTAL: XminIncremental(),
}


def cursor_of(table: TableSettings, schema: TableSchema) -> tuple[str, CursorType]:
    """Returns the cursor column and what it holds.

    Raises:
        SchemaMismatch: If the table has no such column, or its type cannot be a cursor.
    """
    name = table.incremental_field or ""
    column = schema.column(name)
    if column is None:
        raise SchemaMismatch(
            f'"{table.source}" has no column "{name}"',
            f"Its columns are {', '.join(schema.column_names)}.",
            'Mend "incremental_field".',
        )
    held = cursor_type_of(column.type_text)
    declared = table.incremental_field_type
    if held is None or (declared is not None and not _may_hold(declared, held)):
        wanted = declared.value if declared else ", ".join(CursorType)
        raise SchemaMismatch(
            f'column "{name}" of "{table.source}" cannot be the cursor',
            f"It is {column.type_text}; possible: {wanted}.",
            'Name another "incremental_field", mend "incremental_field_type", or use '
            "xmin_incremental.",
        )
    return name, held


def _may_hold(declared: CursorType, held: CursorType) -> bool:
    """Whether a declaration fits; the guide's users write timestamp for timestamptz too."""
    families = (
        {CursorType.TIMESTAMP, CursorType.TIMESTAMPTZ},
        {CursorType.INTEGER, CursorType.BIGINT},
    )
    return declared == held or any({declared, held} <= family for family in families)
