"""Settings, catalogs and ledger into a plan.

Pure: same inputs, same plan. No connection, no clock.
"""

import hashlib
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from psycopg2 import sql

from extract_load.catalog import ServerCut, TableSchema
from extract_load.chunking import TID_RANGE_VERSION, Chunk, WholeTable, plan_chunks
from extract_load.config import Deletes, SyncMode, TableSettings, Verify
from extract_load.errors import SchemaMismatch, TargetError
from extract_load.identifiers import TableName
from extract_load.ledger import SCHEMA, SCRATCH_SCHEMA
from extract_load.modes import MODES, Reading, cursor_of
from extract_load.schema_change import require_same_columns
from extract_load.type_contract import DELETED_AT, TypeContract, make_contract
from extract_load.watermark import Watermark, Window

_NO_RAW_TABLE = "there is no raw table yet"


class Publish(StrEnum):
    """How the rows become visible."""

    FIRST_LOAD = "first load"
    """The chunks make a new table, which gets the raw table's name."""
    REPLACE = "replace"
    """The difference to a whole snapshot is applied."""
    MERGE = "merge"
    """A delta is applied."""


@dataclass(frozen=True)
class TargetState:
    """What stands in the target before a run."""

    raw: TableSchema | None
    watermark: Watermark | None
    dependent_views: tuple[str, ...] = ()


@dataclass(frozen=True)
class TablePlan:
    """What a run does with one table on one target."""

    settings: TableSettings
    source: TableSchema
    cut: ServerCut
    contract: TypeContract
    key: tuple[str, ...]
    is_key_proved: bool
    """By the source's own unique index; otherwise the scratch table's key proves it."""
    publish: Publish
    baseline_reason: str | None
    """Why the whole table is read; None for a delta."""
    window: Window
    predicate: sql.Composable
    """Window and custom_where together; what belongs to a chunk comes on top."""
    chunks: tuple[Chunk, ...]
    fingerprint: dict[str, Any]
    target: TargetState
    scratch: TableName
    checkpoints: TableName
    """The table of checkpoints that stands and falls with the scratch table."""
    warnings: tuple[str, ...] = ()
    since_note: str | None = None
    """What became of the low bound a user asked for; None where nobody did."""

    @property
    def is_baseline(self) -> bool:
        """Whether the whole table is read."""
        return self.baseline_reason is not None

    @property
    def belongs(self) -> sql.Composable:
        """The condition for a row to belong to the table at all: custom_where."""
        return predicate_of(self.settings)

    @property
    def deletes(self) -> Deletes:
        """What becomes of rows that left the source."""
        return self.settings.follows_deletes

    @property
    def has_tombstones(self) -> bool:
        """Whether the raw table has, or gets, a `_deleted_at`."""
        raw = self.target.raw
        has_column = raw is not None and raw.column(DELETED_AT) is not None
        return self.deletes is Deletes.SOFT or has_column

    @property
    def verifies_counts(self) -> bool:
        """Whether counts are compared before COMMIT."""
        return self.settings.verify is not Verify.OFF

    @property
    def proves_equality_by_count(self) -> bool:
        """Whether equal counts prove that no row was deleted."""
        mode = MODES[self.settings.sync_mode]
        return mode.proves_equality_by_count and self.is_key_proved and not self.is_baseline


def plan_table(
    settings: TableSettings,
    source: TableSchema,
    cut: ServerCut,
    target: TargetState,
    *,
    full_refresh: bool = False,
    since: str | None = None,
) -> TablePlan:
    """Returns what a run does with a table.

    Args:
        settings: The table's.
        source: The source table in the snapshot.
        cut: The snapshot.
        target: What stands in the target.
        full_refresh: Whether the user asked for a baseline.
        since: The low bound a user asked for, in the source's own text form.

    Raises:
        SchemaMismatch: If key, cursor or columns do not fit.
        TargetError: If the raw table is somebody else's.
    """
    settings = settings.sized(source.estimated_rows)
    key = _key(settings, source)
    contract = make_contract(source, _landed(settings, source, key), key)
    fingerprint = _fingerprint(settings, source, contract, key)
    _require_ours(settings, target)
    if target.raw is not None:
        require_same_columns(settings, contract, target.raw, target.dependent_views)
    reason = _why_baseline(cut, target, fingerprint, full_refresh=full_refresh)
    reading = _reading(settings, source, cut, target.watermark, reason, since)
    publish = _publish(settings, reading, target)
    return TablePlan(
        settings=settings,
        source=source,
        cut=cut,
        contract=contract,
        key=key,
        is_key_proved=source.is_proved_key(key),
        publish=publish,
        baseline_reason=reading.baseline_reason,
        window=reading.window,
        predicate=_all_of(predicate_of(settings), reading.predicate),
        chunks=_chunks(settings, source, cut, reading),
        fingerprint=fingerprint,
        target=target,
        scratch=_scratch(settings.target, publish),
        checkpoints=TableName(
            SCHEMA if publish is Publish.FIRST_LOAD else SCRATCH_SCHEMA, "chunks"
        ),
        warnings=_warnings(settings, source, key),
        since_note=_since_note(settings, reading, since),
    )


def predicate_of(settings: TableSettings) -> sql.Composable:
    """Returns custom_where in parentheses, or true."""
    where = settings.custom_where
    return sql.SQL("true") if where is None else sql.SQL(where.sql)


def _all_of(first: sql.Composable, second: sql.Composable | None) -> sql.Composable:
    return first if second is None else sql.SQL("{} AND {}").format(second, first)


def _key(settings: TableSettings, source: TableSchema) -> tuple[str, ...]:
    key = settings.primary_key or source.primary_key
    if not key:
        raise SchemaMismatch(
            f'"{settings.source}" has no primary key',
            "Rows without a key cannot be told apart in this version.",
            'Name the columns that name a row with "primary_key".',
        )
    _require_columns(settings, source, "primary_key", key)
    return key


def _landed(settings: TableSettings, source: TableSchema, key: tuple[str, ...]) -> tuple[str, ...]:
    """The columns to land, in the table's order; key and cursor always among them."""
    _require_columns(settings, source, "columns", settings.columns)
    _require_columns(settings, source, "exclude_columns", settings.exclude_columns)
    kept = {*key, settings.incremental_field}
    wanted = set(settings.columns) or set(source.column_names) - set(settings.exclude_columns)
    return tuple(name for name in source.column_names if name in wanted | kept)


def _require_columns(
    settings: TableSettings, source: TableSchema, setting: str, names: tuple[str, ...]
) -> None:
    missing = [name for name in names if source.column(name) is None]
    if missing:
        raise SchemaMismatch(
            f'"{settings.source}" has no column "{missing[0]}"',
            f'"{setting}" names it. The columns are {", ".join(source.column_names)}.',
            f'Mend "{setting}".',
        )


def fingerprint_of(settings: TableSettings, source: TableSchema) -> dict[str, Any]:
    """Returns what the content of rows depends on beside their xmin.

    Raises:
        SchemaMismatch: If the table no longer has a column that the settings name.
    """
    key = _key(settings, source)
    contract = make_contract(source, _landed(settings, source, key), key)
    return _fingerprint(settings, source, contract, key)


def _fingerprint(
    settings: TableSettings, source: TableSchema, contract: TypeContract, key: tuple[str, ...]
) -> dict[str, Any]:
    """Everything that changes what is read without a new xmin on any row.

    A missing value (ADD COLUMN ... DEFAULT), a renamed enum label, a dropped and added column or
    another table under the same name change what is read without a new xmin on any row.
    """
    landed = [column for column in source.columns if column.name in contract.names]
    is_incremental = settings.sync_mode is SyncMode.INCREMENTAL_SYNC
    return {
        "table_oid": source.oid,
        "columns": [
            [
                column.number,
                column.name,
                column.type_text,
                column.missing_value,
                column.default_expression if column.is_generated else None,
            ]
            for column in landed
        ],
        "types": {
            f"{type_.schema}.{type_.name}": [*type_.labels, *type_.attributes]
            for type_ in source.types
            if type_.labels or type_.attributes
        },
        "raw_types": [column.target_type for column in contract.columns],
        "key": list(key),
        "custom_where": settings.custom_where.sql if settings.custom_where else None,
        "cursor": settings.incremental_field if is_incremental else None,
    }


def _require_ours(settings: TableSettings, target: TargetState) -> None:
    if target.raw is None:
        return
    if target.watermark is None or target.watermark.target_oid != target.raw.oid:
        raise TargetError(
            f'"{settings.target}" in target "{settings.target_connection}" is somebody else\'s',
            "The table is there, but the ledger does not know it, or knows one with another OID.",
            'Name another table with "target", or move this one away; this version adopts none.',
        )


def _reading(
    settings: TableSettings,
    source: TableSchema,
    cut: ServerCut,
    watermark: Watermark | None,
    baseline_reason: str | None,
    since: str | None,
) -> Reading:
    if settings.sync_mode is SyncMode.INCREMENTAL_SYNC:
        cursor_of(settings, source)  # a wrong cursor is told by the first run, not the second
    mode = MODES[settings.sync_mode]
    if baseline_reason is not None or watermark is None:
        return mode.baseline(cut, baseline_reason or _NO_RAW_TABLE)
    return mode.delta(settings, source, cut, watermark, since)


def _since_note(settings: TableSettings, reading: Reading, since: str | None) -> str | None:
    """What became of the low bound a user asked for, for people."""
    if since is None:
        return None
    if settings.sync_mode is not SyncMode.INCREMENTAL_SYNC:
        return f"since is not used: {settings.sync_mode} reads by no cursor"
    if reading.baseline_reason is not None:
        return "since is not used: the whole table is read"
    if reading.window.low != since:
        return f"since is not used: {since} is not below the low bound {reading.window.low}"
    return f"since lowers the low bound to {since}"


def _why_baseline(
    cut: ServerCut, target: TargetState, fingerprint: dict[str, Any], *, full_refresh: bool
) -> str | None:
    """Why the whole table is to be read, whatever the mode; None where it need not be."""
    if target.raw is None or target.watermark is None:
        return _NO_RAW_TABLE
    if full_refresh:
        return "asked for with --full-refresh"
    return _why_not_after(target.watermark, cut, fingerprint)


def _why_not_after(watermark: Watermark, cut: ServerCut, fingerprint: dict[str, Any]) -> str | None:
    """Why nothing may be read after a watermark; None where it may."""
    saved = watermark.fingerprint or {}
    parts = [part for part in fingerprint if saved.get(part) != fingerprint[part]]
    reasons = {
        "the watermark was reset": watermark.identity is None,
        "the source is another server, timeline or database": watermark.identity != cut.identity,
        "the source was restored to an earlier point": is_overtaken(cut, watermark),
        "the source's transaction ids went back": cut.xmax < (watermark.xid or 0),
        f"changed since the last publish: {', '.join(parts)}": watermark.fingerprint != fingerprint,
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def is_overtaken(cut: ServerCut, watermark: Watermark) -> bool:
    """Returns whether a later moment of the same server is published already."""
    if watermark.identity != cut.identity or watermark.lsn is None:
        return False
    return lsn_number(cut.earlier_lsn) < lsn_number(watermark.lsn)


def lsn_number(lsn: str) -> int:
    """Returns a WAL position as a number of bytes.

    Example:
        >>> lsn_number("1/10")
        4294967312
    """
    high, _, low = lsn.partition("/")
    return (int(high, 16) << 32) + int(low, 16)


def _publish(settings: TableSettings, reading: Reading, target: TargetState) -> Publish:
    if target.raw is None:
        return Publish.FIRST_LOAD
    follows_all = settings.follows_deletes is not Deletes.IGNORE
    is_baseline = reading.baseline_reason is not None
    return Publish.REPLACE if is_baseline and follows_all else Publish.MERGE


def _chunks(
    settings: TableSettings, source: TableSchema, cut: ServerCut, reading: Reading
) -> tuple[Chunk, ...]:
    if not settings.chunk_mode or reading.uses_index:
        return (Chunk(0, WholeTable()),)
    return plan_chunks(
        blocks=source.heap_bytes // source.block_bytes,
        rows=source.estimated_rows,
        table_bytes=source.table_bytes,
        batch_size=settings.batch_size,
        has_tid_ranges=cut.version >= TID_RANGE_VERSION,
    )


def _scratch(target: TableName, publish: Publish) -> TableName:
    """Where the chunks land: one name a raw table, so that a dead run's is found again.

    A first load lands in the target's schema, so that its default privileges apply.
    """
    digest = hashlib.sha256("\0".join(target.parts).encode()).hexdigest()[:24]
    schema = target.schema if publish is Publish.FIRST_LOAD else SCRATCH_SCHEMA
    return TableName(schema, f"_el_{digest}")


def _warnings(
    settings: TableSettings, source: TableSchema, key: tuple[str, ...]
) -> tuple[str, ...]:
    found = []
    if not source.is_proved_key(key):
        found.append(f"no unique index proves the key ({', '.join(key)}); scratch proves it")
    cursor = settings.incremental_field
    if settings.sync_mode is SyncMode.INCREMENTAL_SYNC:
        if cursor not in source.indexed_columns:
            found.append(f'no index begins with "{cursor}": each run scans the whole source table')
        column = source.column(cursor or "")
        if column is not None and not column.is_not_null:
            found.append(f'"{cursor}" may be NULL: such rows are read again in every run')
    if settings.follows_deletes is Deletes.IGNORE:
        found.append("deletes: not followed")
    return tuple(found)
