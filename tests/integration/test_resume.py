"""A run that broke off is gone on from: what is kept, what is repaired, what starts over."""

import logging
from collections.abc import Callable
from typing import Any

import pytest

from extract_load import landing, resume
from extract_load.errors import TargetUnavailable, VerificationFailed
from extract_load.report import TableResult
from tests.support.interrupted import BrokenOffError, broken_off
from tests.support.landing import assert_equal, land, land_one
from tests.support.servers import Database
from tests.support.tables import (
    FULL,
    INCREMENTAL,
    MODES,
    RAW,
    XMIN,
    change_items,
    create_items,
    leftovers,
)

ROWS = 2_000
SMALL = {"batch_size": 200}
"""Ten chunks or more."""
EVERY_MODE = pytest.mark.parametrize("table", MODES.values(), ids=MODES)
BLOCK = "(ctid::text::point)[0]"
Logged = Callable[[], list[str]]


@pytest.fixture
def items(source: Database) -> Database:
    create_items(source, ROWS)
    return source


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Logged:
    """Returns message and reason of what was logged since."""
    caplog.set_level(logging.INFO, "extract_load")

    def told() -> list[str]:
        found = [f"{one.msg}: {getattr(one, 'why', '')}" for one in caplog.records]
        caplog.clear()
        return found

    return told


def gone_on(source: Database, target: Database, table: dict[str, Any]) -> TableResult:
    """The next run, which ends well and leaves nothing."""
    result = land_one(source, target, {**table, **SMALL})
    assert_equal(source, target, table)
    assert leftovers(target) == []
    return result


def insert_in_front(source: Database, target: Database, table: dict[str, Any]) -> None:
    """Rows of a delta that its first chunk finds: id 5001 to 5100."""
    source.execute("DELETE FROM public.items WHERE id <= 300")
    source.execute("VACUUM public.items")
    land_one(source, target, table)
    source.execute(
        "INSERT INTO public.items SELECT 5000 + i, 'new', i FROM generate_series(1, 100) AS i"
    )


def move_rows_into_earlier_chunks(source: Database) -> None:
    """Later rows go where earlier ones were: out of chunks to come, into chunks that are done."""
    source.execute("DELETE FROM public.items WHERE id <= 100")
    source.execute("VACUUM public.items")
    source.execute("UPDATE public.items SET body = 'moved' WHERE id > 1900")
    ((first,),) = source.execute(f"SELECT min({BLOCK}) FROM public.items WHERE id > 1900")
    assert first == 0, "the rows should have moved"


# ---------------------------------------------------------------- what is kept


@EVERY_MODE
def test_a_first_load_goes_on_after_its_last_chunk(
    items: Database, target: Database, table: dict[str, Any], logged: Logged
) -> None:
    kept = broken_off(items, target, {**table, **SMALL}, after=4)
    logged()

    result = gone_on(items, target, table)

    assert (result.chunks_resumed, result.rows_inserted) == (kept, ROWS)
    assert result.rows_read < ROWS * 0.7
    assert "goes on: " in logged()


@EVERY_MODE
def test_a_refresh_goes_on_after_its_last_chunk(
    items: Database, target: Database, table: dict[str, Any]
) -> None:
    land_one(items, target, table)
    items.execute("UPDATE public.items SET amount = amount + 1, updated_at = now()")
    kept = broken_off(items, target, {**table, **SMALL}, after=2)

    result = gone_on(items, target, table)

    assert (result.chunks_resumed, result.rows_updated) == (kept, ROWS)


@EVERY_MODE
def test_several_runs_that_broke_off_make_one_cut(
    items: Database, target: Database, table: dict[str, Any]
) -> None:
    for number in range(1, 4):
        kept = broken_off(items, target, {**table, **SMALL}, after=2)
        items.execute(
            f"UPDATE public.items SET amount = -{number}, updated_at = now()"
            f" WHERE id % 7 = {number};"
            f"DELETE FROM public.items WHERE id % 11 = {number};"
            f"INSERT INTO public.items SELECT {number * 10_000} + i, 'new', i"
            " FROM generate_series(1, 50) AS i"
        )

    assert gone_on(items, target, table).chunks_resumed == kept


def test_parallel_workers_go_on_too(items: Database, target: Database) -> None:
    table = {**XMIN, "parallel_workers": 3}
    kept = broken_off(items, target, {**table, **SMALL}, after=4)
    items.execute("UPDATE public.items SET body = 'new' WHERE id % 3 = 0")

    assert gone_on(items, target, table).chunks_resumed == kept


# ---------------------------------------------------------------- the repair


def test_rows_that_moved_between_chunks_are_there_once(items: Database, target: Database) -> None:
    kept = broken_off(items, target, {**XMIN, **SMALL}, after=3)
    move_rows_into_earlier_chunks(items)
    assert gone_on(items, target, XMIN).chunks_resumed == kept


def test_rows_that_moved_behind_are_there_once(items: Database, target: Database) -> None:
    kept = broken_off(items, target, {**XMIN, **SMALL}, after=3)
    items.execute("UPDATE public.items SET body = repeat('x', 200) WHERE id < 200")
    ((first,),) = items.execute(f"SELECT min({BLOCK}) FROM public.items WHERE id < 200")
    assert first > 10
    assert gone_on(items, target, XMIN).chunks_resumed == kept


@EVERY_MODE
def test_the_repair_begins_where_the_oldest_snapshot_saw_transactions_run(
    items: Database, target: Database, table: dict[str, Any]
) -> None:
    """From that snapshot's xmax on, what they wrote would be lost."""
    with items.connect() as writer, writer.cursor() as cursor:
        cursor.execute("BEGIN; UPDATE public.items SET body = 'late' WHERE id < 50")
        items.execute("UPDATE public.items SET body = 'other' WHERE id BETWEEN 60 AND 70")
        kept = broken_off(items, target, {**table, **SMALL}, after=3)
        cursor.execute("COMMIT")
    assert gone_on(items, target, table).chunks_resumed == kept


def test_rows_deleted_and_rows_inserted_again_follow(items: Database, target: Database) -> None:
    kept = broken_off(items, target, {**XMIN, **SMALL}, after=5)
    items.execute(
        "DELETE FROM public.items WHERE id < 300;"
        "INSERT INTO public.items SELECT i, 'again', i FROM generate_series(100, 150) AS i;"
        "UPDATE public.items SET id = -id WHERE id BETWEEN 400 AND 420"
    )
    result = gone_on(items, target, XMIN)
    assert (result.chunks_resumed, result.rows_inserted) == (kept, ROWS - 299 + 51)


@pytest.mark.parametrize("deletes", ["ignore", "hard", "soft"])
def test_rows_of_a_delta_that_were_deleted_since_do_not_arrive(
    items: Database, target: Database, deletes: str
) -> None:
    table = {**XMIN, "deletes": deletes}
    insert_in_front(items, target, table)
    broken_off(items, target, {**table, **SMALL}, after=3)
    items.execute("DELETE FROM public.items WHERE id > 5000")

    gone_on(items, target, table)

    assert target.execute(f"SELECT count(*) FROM {RAW} WHERE id > 5000") == [(0,)]


def test_a_row_whose_cursor_went_back_is_repaired(items: Database, target: Database) -> None:
    """It changed since it was loaded, and the cursor alone would not find it again."""
    table = {**INCREMENTAL, "deletes": "ignore", "lookback": 0}
    insert_in_front(items, target, table)
    kept = broken_off(items, target, {**table, **SMALL}, after=3)
    items.execute(
        "UPDATE public.items SET body = 'back', updated_at = '2020-01-01' WHERE id > 5000"
    )

    result = land_one(items, target, {**table, **SMALL})

    assert result.chunks_resumed == kept
    assert target.execute(f"SELECT body, count(*) FROM {RAW} WHERE id > 5000 GROUP BY 1") == [
        ("back", 100)
    ]


def test_rows_that_left_custom_where_are_gone(items: Database, target: Database) -> None:
    table = {**FULL, "custom_where": "amount > 0"}
    kept = broken_off(items, target, {**table, **SMALL}, after=5)
    items.execute("UPDATE public.items SET amount = -1 WHERE id < 300")

    assert gone_on(items, target, table).chunks_resumed == kept


def test_a_run_may_break_off_after_its_repair(
    items: Database, target: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken_off(items, target, {**XMIN, **SMALL}, after=3)
    items.execute("UPDATE public.items SET body = 'second' WHERE id % 5 = 0")
    for number in range(2):
        with monkeypatch.context() as patched:
            patched.setattr(landing, "close_reading", _break_off)
            assert land(items, target, {**XMIN, **SMALL}).tables[0].error is not None
        items.execute(
            f"UPDATE public.items SET body = 'third' WHERE id % 5 = {number};"
            f"DELETE FROM public.items WHERE id % 90 = {number}"
        )

    result = gone_on(items, target, XMIN)

    assert result.chunks == 0, "all were loaded"
    assert result.rows_read < ROWS


def _break_off(*_: object) -> None:
    raise BrokenOffError


def test_a_repair_that_misses_rows_publishes_nothing_and_starts_over(
    items: Database, target: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = {**XMIN, **SMALL, "max_retries": 0}
    broken_off(items, target, table, after=3)
    with monkeypatch.context() as patched:
        patched.setattr("extract_load.repair.count_leaf", lambda *_: 3)
        (result,) = land(items, target, table).tables

    assert isinstance(result.error, TargetUnavailable)
    assert result.error.primary == '"public.items" could not be brought to one snapshot'
    assert "The source has 3 rows" in result.error.detail
    assert target.execute("SELECT to_regclass(%s)", (RAW,)) == [(None,)]
    assert land_one(items, target, table).chunks_resumed == 0
    assert_equal(items, target, table)


def test_chunks_that_were_not_repaired_are_not_published(
    items: Database, target: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken_off(items, target, {**XMIN, **SMALL}, after=3)
    monkeypatch.setattr(resume.Resumed, "needs_repair", lambda *_: False)

    (result,) = land(items, target, {**XMIN, **SMALL}).tables

    assert isinstance(result.error, VerificationFailed)
    assert "Chunks of another snapshot were not repaired" in result.error.detail


# ---------------------------------------------------------------- what starts over


@EVERY_MODE
@pytest.mark.parametrize(
    "ddl",
    [
        "VACUUM FULL public.items",
        "TRUNCATE public.items",
        "CREATE TEMP TABLE kept AS SELECT * FROM public.items; TRUNCATE public.items;"
        "INSERT INTO public.items SELECT * FROM kept ORDER BY id DESC",
        "ALTER TABLE public.items ALTER COLUMN id TYPE bigint",
        "ALTER TABLE public.items ADD COLUMN more int DEFAULT 7",
    ],
    ids=["vacuum full", "truncate", "refill", "rewrite", "default"],
)
def test_chunks_of_a_table_that_was_rewritten_do_not_count(
    items: Database, target: Database, table: dict[str, Any], ddl: str, logged: Logged
) -> None:
    """VACUUM FULL moves rows and keeps their xmin: block ranges mean something else then."""
    items.execute("DELETE FROM public.items WHERE id % 2 = 0")
    broken_off(items, target, {**table, **SMALL}, after=3)
    items.execute(ddl)
    logged()

    assert gone_on(items, target, table).chunks_resumed == 0
    assert f"starts over: {resume._STALE}" in logged()


def test_only_the_leaves_that_were_rewritten_are_read_again(
    source: Database, target: Database, logged: Logged
) -> None:
    source.execute(
        "CREATE TABLE public.items (id int PRIMARY KEY, body text) PARTITION BY RANGE (id);"
        "CREATE TABLE public.items_1 PARTITION OF public.items FOR VALUES FROM (0) TO (1000);"
        "CREATE TABLE public.items_2 PARTITION OF public.items FOR VALUES FROM (1000) TO (2000);"
        "CREATE TABLE public.items_3 PARTITION OF public.items FOR VALUES FROM (2000) TO (3000);"
        "INSERT INTO public.items SELECT i, md5(i::text) FROM generate_series(0, 2999) AS i;"
        "ANALYZE public.items"
    )
    kept = broken_off(source, target, {**XMIN, **SMALL}, after=22)
    source.execute("VACUUM FULL public.items_1")
    source.execute("ALTER TABLE public.items DETACH PARTITION public.items_2")
    logged()

    result = land_one(source, target, {**XMIN, **SMALL})

    rows = "SELECT md5(string_agg(id || body, ',' ORDER BY id)) FROM "
    assert source.execute(rows + "public.items") == target.execute(rows + RAW)
    assert leftovers(target) == []
    assert 0 < result.chunks_resumed < kept
    assert result.rows_inserted == 2000
    assert f"reads again: {resume._STALE}" in logged()


@pytest.mark.parametrize(
    ("ddl", "table", "why"),
    [
        (
            "ALTER TABLE public.items DROP CONSTRAINT items_pkey",
            FULL,
            "without a key the rows of another snapshot cannot be repaired",
        ),
        (
            "CREATE TABLE public.chosen AS SELECT id AS chosen FROM public.items",
            {**FULL, "custom_where": "id IN (SELECT chosen FROM public.chosen)"},
            "rows may enter custom_where without a new xmin",
        ),
        ("SELECT 1", {**FULL, "enable_checkpoint": False}, "enable_checkpoint is false"),
    ],
    ids=["no key", "sub-query", "enable_checkpoint"],
)
def test_what_cannot_be_repaired_starts_over_and_says_so(
    items: Database, target: Database, ddl: str, table: dict[str, Any], why: str, logged: Logged
) -> None:
    items.execute(ddl)
    broken_off(items, target, {**table, **SMALL}, after=3)
    items.execute("DELETE FROM public.items WHERE id < 10")
    logged()

    result = land_one(items, target, {**table, **SMALL})

    assert (result.chunks_resumed, result.rows_inserted) == (0, ROWS - 9)
    assert f"starts over: {why}" in logged()


def test_a_predicate_that_asks_for_the_time_starts_over(
    items: Database, target: Database, logged: Logged
) -> None:
    """Another cut is another predicate."""
    table = {**FULL, "custom_where": "updated_at < now()"}
    broken_off(items, target, {**table, **SMALL}, after=3)
    logged()

    assert land_one(items, target, {**table, **SMALL}).chunks_resumed == 0
    assert "starts over: rows may enter custom_where without a new xmin" in logged()


@pytest.mark.parametrize(
    "changed",
    [{"exclude_columns": ["amount"]}, {"custom_where": "id > 0"}, {"mask": {"amount": "null"}}],
    ids=["columns", "custom_where", "mask"],
)
def test_chunks_read_for_other_settings_do_not_count(
    items: Database, target: Database, changed: dict[str, Any]
) -> None:
    broken_off(items, target, {**FULL, **SMALL}, after=3)
    result = land_one(items, target, {**FULL, **SMALL, **changed})
    assert (result.chunks_resumed, result.rows_inserted) == (0, ROWS)


def test_a_crash_of_the_target_empties_a_refresh(
    items: Database, target: Database, logged: Logged
) -> None:
    """As recovery does it: unlogged tables are empty, scratch and checkpoints together."""
    land_one(items, target, FULL)
    change_items(items)
    broken_off(items, target, {**FULL, **SMALL}, after=3)
    ((scratch,),) = target.execute("SELECT relname FROM pg_class WHERE relname LIKE '\\_el\\_%'")
    target.execute(f"TRUNCATE extract_load_scratch.{scratch}; TRUNCATE extract_load_scratch.chunks")
    logged()

    assert gone_on(items, target, FULL).chunks_resumed == 0
    told = "starts over: none was done, or a crash of the target emptied unlogged tables"
    assert told in logged()


def test_a_scratch_table_that_somebody_changed_does_not_count(
    items: Database, target: Database, logged: Logged
) -> None:
    broken_off(items, target, {**FULL, **SMALL}, after=3)
    ((scratch,),) = target.execute("SELECT relname FROM pg_class WHERE relname LIKE '\\_el\\_%'")
    target.execute(f"DELETE FROM raw_data.{scratch} WHERE id = 7")
    logged()

    assert gone_on(items, target, FULL).chunks_resumed == 0
    assert "starts over: the scratch table does not hold the rows that they brought" in logged()


def test_checkpoints_without_their_scratch_table_do_not_count(
    items: Database, target: Database
) -> None:
    broken_off(items, target, {**FULL, **SMALL}, after=3)
    ((scratch,),) = target.execute(
        "SELECT oid::regclass::text FROM pg_class WHERE relname LIKE '\\_el\\_%' AND relkind = 'r'"
    )
    target.execute(f"DROP TABLE {scratch}")

    assert gone_on(items, target, FULL).chunks_resumed == 0


def test_reset_forgets_what_was_loaded(items: Database, target: Database) -> None:
    broken_off(items, target, {**FULL, **SMALL}, after=3)
    target.execute("DELETE FROM extract_load.chunks")
    assert gone_on(items, target, FULL).chunks_resumed == 0
