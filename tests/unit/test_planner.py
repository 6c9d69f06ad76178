"""When a run reads everything, and when a delta: each reason for a baseline, by itself."""

from dataclasses import replace
from typing import Any

import pytest

from extract_load.baseline import is_overtaken
from extract_load.catalog import Column, Heap, Leaf, ServerCut, TableSchema, TypeDefinition
from extract_load.config import TableSettings
from extract_load.fingerprint import fingerprint_of
from extract_load.identifiers import TableName
from extract_load.planner import plan_table
from extract_load.settings_file import settings_from_document
from extract_load.table_plan import PlanOptions, Publish, TargetState, servers_of
from extract_load.watermark import Watermark

INT = TypeDefinition(23, "pg_catalog", "int4", "b", 0, 0, None)
MOOD = TypeDefinition(900, "public", "mood", "e", 0, 0, None, ("sad", "ok"))
COLUMNS = (
    Column(1, "id", 23, -1, "integer", is_not_null=True),
    Column(2, "mood", 900, -1, "public.mood", is_not_null=False),
    Column(3, "version", 23, -1, "integer", is_not_null=True),
)
LEAF = Leaf(
    name=TableName("public", "items"),
    oid=1,
    kind="r",
    heaps=(Heap(1, 11),),
    columns=COLUMNS,
    definition=None,
    estimated_rows=1000,
    heap_bytes=80 * 8192,
    table_bytes=80 * 8192,
)
SCHEMA = TableSchema(
    name=TableName("public", "items"),
    oid=1,
    kind="r",
    columns=COLUMNS,
    types=(INT, MOOD),
    unique_keys=(("id",),),
    primary_key=("id",),
    indexed_columns=frozenset({"id"}),
    estimated_rows=1000,
    heap_bytes=80 * 8192,
    table_bytes=80 * 8192,
    leaves=(LEAF,),
)
RAW = replace(
    SCHEMA,
    name=TableName("raw_data", "items"),
    oid=2,
    columns=(
        Column(1, "id", 23, -1, "integer", is_not_null=True),
        Column(2, "mood", 25, -1, "text", is_not_null=False),
        Column(3, "version", 23, -1, "integer", is_not_null=True),
        Column(4, "_loaded_at", 1184, -1, "timestamp with time zone", is_not_null=True),
    ),
)
CUT = ServerCut(160000, "sys", 1, 5, "1/10", 200, 205, "2026-01-01", False, "1/0")
XMIN = {"sync_mode": "xmin_incremental"}
CURSOR = {"sync_mode": "incremental_sync", "incremental_field": "version"}


def settings(**keys: Any) -> TableSettings:
    table = {"source": "public.items", "target": "raw_data.items", **keys}
    return settings_from_document(
        {"source_connection": "a", "target_connection": "b", "tables": [table]}, "test"
    ).tables[0]


def saved(table: TableSettings, **changed: Any) -> Watermark:
    facts = {
        "target_oid": 2,
        "identity": CUT.identity,
        "fingerprint": fingerprint_of(table, SCHEMA, servers_of(CUT, TargetState(RAW, None))),
        "lsn": "0/FF",
        "cursor_value": "7",
        "xid": 150,
        "loaded_at": "2025-12-31",
    }
    return Watermark(**{**facts, **changed})


def reason(
    table: TableSettings,
    watermark: Watermark,
    schema: TableSchema = SCHEMA,
    cut: ServerCut = CUT,
) -> str | None:
    return plan_table(table, schema, cut, TargetState(RAW, watermark)).baseline_reason


def test_nothing_published_is_a_first_load() -> None:
    plan = plan_table(settings(**XMIN), SCHEMA, CUT, TargetState(None, None))
    assert (plan.publish, plan.baseline_reason) == (
        Publish.FIRST_LOAD,
        "there is no raw table yet",
    )


@pytest.mark.parametrize("keys", [XMIN, CURSOR], ids=["xmin", "cursor"])
def test_a_watermark_that_holds_is_a_delta(keys: dict[str, Any]) -> None:
    table = settings(**keys)
    plan = plan_table(table, SCHEMA, CUT, TargetState(RAW, saved(table)))

    assert (plan.publish, plan.baseline_reason) == (Publish.MERGE, None)
    assert plan.window.low in {"150", "7"}


def test_full_sync_always_reads_everything() -> None:
    table = settings()
    assert reason(table, saved(table)) == "full_sync reads the whole table"


SERVER = "the source is another server, timeline or database"
CHANGED = "changed since the last publish: "


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"identity": None}, "the watermark was reset"),
        ({"fingerprint": None}, "the raw table was altered, and not published since"),
        ({"identity": {**CUT.identity, "system_identifier": "other"}}, SERVER),
        ({"identity": {**CUT.identity, "timeline": 2}}, SERVER),
        ({"identity": {**CUT.identity, "database_oid": 6}}, SERVER),
        ({"lsn": "1/1"}, "the source was restored to an earlier point"),
        ({"xid": 206}, "the source's transaction ids went back"),
        ({"xid": None}, "no snapshot is published yet"),
        ({"fingerprint": {}}, CHANGED),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_a_watermark_that_does_not_hold(changed: dict[str, Any], told: str) -> None:
    table = settings(**XMIN)
    assert (reason(table, saved(table, **changed)) or "").startswith(told)


def test_a_window_of_all_transaction_ids_is_no_window() -> None:
    table = settings(**XMIN)
    far = replace(CUT, xmin=150 + (1 << 32), xmax=150 + (1 << 32))
    near = replace(far, xmax=149 + (1 << 32))

    assert reason(table, saved(table), cut=far) == "the window spans 2^32 transactions or more"
    assert reason(table, saved(table), cut=near) is None


def columns(**changes: Any) -> TableSchema:
    """The table with its last column changed."""
    return replace(SCHEMA, columns=(*SCHEMA.columns[:2], replace(SCHEMA.columns[2], **changes)))


@pytest.mark.parametrize(
    "schema",
    [
        replace(SCHEMA, oid=9),
        columns(number=4),
        columns(missing_value="{1}"),
        columns(is_generated=True, default_expression="id + 1"),
        replace(SCHEMA, types=(INT, replace(MOOD, labels=("blue", "ok")))),
    ],
    ids=["another table", "dropped and added", "added default", "generated", "renamed label"],
)
def test_what_changes_content_without_a_new_xmin_is_a_baseline(schema: TableSchema) -> None:
    table = settings(**XMIN)
    assert (reason(table, saved(table), schema) or "").startswith(CHANGED)


def test_settings_that_change_what_belongs_are_a_baseline() -> None:
    before = saved(settings(**XMIN))
    assert reason(settings(**XMIN, custom_where="id > 1"), before) == CHANGED + "custom_where"


def test_another_key_is_a_baseline() -> None:
    table = settings(**XMIN, primary_key=["id", "version"])
    target = TargetState(RAW, saved(settings(**XMIN)))
    plan = plan_table(table, SCHEMA, CUT, target, PlanOptions(allow_rewrite=True))
    assert plan.baseline_reason == CHANGED + "key"


def test_settings_that_do_not_are_none() -> None:
    before = saved(settings(**XMIN))
    assert (
        reason(settings(**XMIN, batch_size=1, deletes="soft", parallel_workers=3), before) is None
    )


@pytest.mark.parametrize(
    ("rows", "batch_size", "chunks"),
    [(999, 50_000, 1), (1000, 50_000, 1), (1001, 100, 12), (-1, 50_000, 1)],
    ids=["small", "still small", "not small", "nobody knows"],
)
def test_a_tables_size_decides_how_it_is_cut(rows: int, batch_size: int, chunks: int) -> None:
    sizes = [{"max_rows": 1000, "chunk_mode": False}, {"batch_size": 100, "max_retries": 9}]
    table = settings(by_size=sizes)
    leaf = replace(LEAF, estimated_rows=rows)
    source = replace(SCHEMA, estimated_rows=rows, leaves=(leaf,))
    plan = plan_table(table, source, CUT, TargetState(None, None))
    assert plan.settings.batch_size == batch_size
    assert plan.settings.max_retries == (9 if rows > 1000 else 3)
    assert len(plan.chunks) == chunks


def test_another_cursor_is_a_baseline() -> None:
    before = saved(settings(**CURSOR))
    assert reason(settings(**{**CURSOR, "incremental_field": "id"}), before) == CHANGED + "cursor"


def test_a_snapshot_is_overtaken_by_what_was_published_after_it_began() -> None:
    """Judged by the WAL position before the snapshot, not by the one read after it."""
    table = settings(**XMIN)
    assert is_overtaken(CUT, saved(table, lsn="1/5"))
    assert not is_overtaken(CUT, saved(table, lsn="1/0"))
    assert not is_overtaken(CUT, saved(table, lsn="1/5", identity={}))
