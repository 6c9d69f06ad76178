"""Settings, catalogs and ledger into a plan.

Pure: same inputs, same plan. No connection, no clock.
"""

import hashlib
from dataclasses import replace

from psycopg2 import sql

from extract_load.adoption import require_adoptable
from extract_load.baseline import NO_RAW_TABLE, why_all_rows, why_baseline
from extract_load.catalog import KINDS, Leaf, ServerCut, TableSchema
from extract_load.chosen_columns import key_of
from extract_load.chunking import (
    TID_RANGE_VERSION,
    Chunk,
    Range,
    WholeTable,
    blocks_per_chunk,
    split_blocks,
)
from extract_load.config import Deletes, LateRows, SyncMode, TableSettings
from extract_load.cursor import cursor_of
from extract_load.cursor_notes import cursor_notes
from extract_load.ddl import SchemaChange
from extract_load.errors import SourceError, TargetError
from extract_load.fingerprint import altered_leaves, contract_of, make_fingerprint
from extract_load.identifiers import TableName
from extract_load.ledger import SCHEMA, SCRATCH_SCHEMA
from extract_load.modes import MODES, Reading
from extract_load.schema_change import plan_schema_change
from extract_load.schema_difference import Sides
from extract_load.table_plan import (
    NOTHING_ASKED,
    PlanOptions,
    Publish,
    TablePlan,
    TargetState,
    predicate_of,
    servers_of,
)
from extract_load.watermark import Watermark

_WINDOW_BATCHES = 4
"""How many times `batch_size` rows a chunk covers of which a window chooses few."""


def plan_table(
    settings: TableSettings,
    source: TableSchema,
    cut: ServerCut,
    target: TargetState,
    asked: PlanOptions = NOTHING_ASKED,
) -> TablePlan:
    """Returns what a run does with a table.

    Args:
        settings: The table's.
        source: The source table in the snapshot.
        cut: The snapshot.
        target: What stands in the target.
        asked: What the user asked for.

    Raises:
        SchemaMismatch: If key, cursor or columns do not fit.
        SourceError: If the mode reads by xmin, and rows have none.
        TargetError: If the raw table is somebody else's.
    """
    settings = settings.sized(source.estimated_rows)
    key = key_of(settings, source)
    servers = servers_of(cut, target)
    contract = contract_of(settings, source, key, servers)
    fingerprint = make_fingerprint(settings, source, contract, key, servers)
    _require_row_versions(settings, source)
    target = _as_known(settings, target)
    sides = Sides(settings, contract, key, source, target)
    if target.raw is not None and target.watermark is None:
        require_adoptable(sides)
    change = plan_schema_change(sides, allow_rewrite=asked.allow_rewrite)
    needs_all = why_all_rows(settings, source, key, target)
    reason = why_baseline(cut, target, fingerprint, asked) or change.baseline_reason
    reason = reason or _why_no_delta(settings, source, change, needs_all)
    reading = _reading(settings, source, cut, target.watermark, reason, asked.since)
    is_delta = reading.baseline_reason is None and target.watermark is not None
    saved = target.watermark.fingerprint if is_delta and target.watermark else None
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
        chunks=_chunks(settings, source, cut, reading, altered_leaves(saved, fingerprint)),
        fingerprint=fingerprint,
        target=target,
        scratch=_scratch(settings.target, publish),
        checkpoints=_checkpoints(publish),
        schema_change=change,
        warnings=(*_warnings(settings, source, cut, key), *_hooks(target)),
        since_note=_since_note(settings, reading, asked.since),
        keeps_mark=settings.sync_mode is SyncMode.FULL_SYNC and needs_all is None,
    )


def _all_of(first: sql.Composable, second: sql.Composable | None) -> sql.Composable:
    return first if second is None else sql.SQL("{} AND {}").format(second, first)


def _require_row_versions(settings: TableSettings, source: TableSchema) -> None:
    """Refuses a mode that reads by xmin where rows have none."""
    without = [leaf for leaf in source.leaves if not leaf.has_row_versions]
    is_cursor = settings.sync_mode is SyncMode.INCREMENTAL_SYNC
    reads_xmin = settings.sync_mode is SyncMode.XMIN_INCREMENTAL or (
        is_cursor and settings.late_rows is LateRows.XMIN
    )
    if not reads_xmin or not without:
        return
    raise SourceError(
        f"{settings.source.said} cannot be read by xmin: {without[0].name.said} is "
        f"{KINDS[without[0].kind]}",
        "Its rows do not say which transaction wrote them.",
        'Set "late_rows" to lookback, or "sync_mode" to full_sync.'
        if is_cursor
        else 'Set "sync_mode" to full_sync, or to incremental_sync with a cursor column.',
    )


def _why_no_delta(
    settings: TableSettings, source: TableSchema, change: SchemaChange, needs_all: str | None
) -> str | None:
    """Why a mode reads the whole table although its watermark stands; None where it need not."""
    if settings.sync_mode is SyncMode.FULL_SYNC:
        return needs_all or ("the raw table is altered first" if change.before else None)
    if settings.sync_mode is SyncMode.XMIN_INCREMENTAL and source.shows_a_catalog:
        return "its values name objects of the catalog, which are renamed without a new xmin"
    return None


def _as_known(settings: TableSettings, target: TargetState) -> TargetState:
    """The target, without a watermark that was saved for another table of this name."""
    if target.raw is None:
        return target
    if target.watermark is not None and target.watermark.target_oid == target.raw.oid:
        if not target.facts.has_children:
            return target
        raise TargetError(
            f'{settings.target.said} in target "{settings.target_connection}" has child tables',
            "Their rows would be changed and deleted as if they had been landed.",
            "Take them out with ALTER TABLE ... NO INHERIT; a view may show both.",
        )
    if not settings.adopt:
        raise TargetError(
            f'{settings.target.said} in target "{settings.target_connection}" is somebody else\'s',
            "The table is there, but the ledger does not know it, or knows one with another OID.",
            'Name another table with "target", move this one away, or write "adopt: true" to '
            "take it over.",
        )
    return replace(target, watermark=None)


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
        return mode.baseline(cut, baseline_reason or NO_RAW_TABLE)
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


def _publish(settings: TableSettings, reading: Reading, target: TargetState) -> Publish:
    if target.raw is None:
        return Publish.FIRST_LOAD
    follows_all = settings.follows_deletes is not Deletes.IGNORE
    is_baseline = reading.baseline_reason is not None
    return Publish.REPLACE if is_baseline and follows_all else Publish.MERGE


def _chunks(
    settings: TableSettings,
    source: TableSchema,
    cut: ServerCut,
    reading: Reading,
    altered: frozenset[int],
) -> tuple[Chunk, ...]:
    """Every leaf in ranges; one that was altered is read whole, whatever the window says."""
    parts = [
        (leaf, range_, leaf.oid in altered)
        for leaf in source.leaves
        for range_ in _ranges(settings, source, leaf, cut, reading, is_whole=leaf.oid in altered)
    ]
    return tuple(Chunk(number, *part) for number, part in enumerate(parts))


def _ranges(
    settings: TableSettings,
    source: TableSchema,
    leaf: Leaf,
    cut: ServerCut,
    reading: Reading,
    *,
    is_whole: bool,
) -> tuple[Range, ...]:
    finds_by_index = reading.finds_directly and not is_whole
    has_ranges = leaf.has_row_versions and cut.version >= TID_RANGE_VERSION
    if not settings.chunk_mode or finds_by_index or not has_ranges:
        return (WholeTable(),)
    blocks = leaf.heap_bytes // source.block_bytes
    reads_all = is_whole or reading.baseline_reason is not None
    rows = settings.batch_size * (1 if reads_all else _WINDOW_BATCHES)
    size = blocks_per_chunk(blocks, leaf.estimated_rows, leaf.table_bytes, rows)
    return tuple(split_blocks(blocks, size))


def _scratch(target: TableName, publish: Publish) -> TableName:
    """Where the chunks land: one name a raw table, so that a dead run's is found again.

    A first load lands in the target's schema, so that its default privileges apply.
    """
    digest = hashlib.sha256("\0".join(target.parts).encode()).hexdigest()[:24]
    schema = target.schema if publish is Publish.FIRST_LOAD else SCRATCH_SCHEMA
    return TableName(schema, f"_el_{digest}")


def _checkpoints(publish: Publish) -> TableName:
    """Unlogged where scratch is: a crash of the target empties both, or neither."""
    return TableName(SCHEMA if publish is Publish.FIRST_LOAD else SCRATCH_SCHEMA, "chunks")


def _hooks(target: TargetState) -> list[str]:
    """What of somebody else's runs with every change of the raw table."""
    found = []
    if target.facts.row_triggers:
        names = ", ".join(target.facts.row_triggers)
        found.append(f"row triggers of the raw table see every change, and may alter it: {names}")
    if target.facts.rules:
        found.append(
            f"rules of the raw table may alter every change: {', '.join(target.facts.rules)}"
        )
    return found


def _warnings(
    settings: TableSettings, source: TableSchema, cut: ServerCut, key: tuple[str, ...]
) -> tuple[str, ...]:
    found = []
    if not key:
        found.append("no key names a row: whole rows are compared, and no row is updated")
    elif not source.is_proved_key(key):
        found.append(f"no unique index proves the key ({', '.join(key)}); scratch proves it")
    found += cursor_notes(settings, source, cut)
    if settings.follows_deletes is Deletes.IGNORE:
        found.append("deletes: not followed")
    if settings.chunk_mode and any(leaf.is_filtered_by_others for leaf in source.leaves):
        found.append("custom_where may ask for the time: chunks are read one after the other")
    if source.children:
        found.append(f"not its rows, but tables of their own: {', '.join(source.children)}")
    return tuple(found)
