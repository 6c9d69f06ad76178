"""What is published is one snapshot, whatever happens around the run."""

import time
from typing import Any

import pytest

from extract_load import lease
from tests.support.landing import assert_equal, land, land_one, prepared_run, settings
from tests.support.servers import Database
from tests.support.tables import MODES, RAW, XMIN, change_items, create_items, leftovers

EVERY_MODE = pytest.mark.parametrize("table", MODES.values(), ids=MODES)


@pytest.fixture
def items(source: Database) -> Database:
    create_items(source, 3_000)
    return source


def copy_of(database: Database, relation: str) -> list[tuple[Any, ...]]:
    return database.execute(f"SELECT id, body, amount, updated_at FROM {relation} ORDER BY id")


@EVERY_MODE
def test_writes_after_the_snapshot_are_not_in_it(
    items: Database, target: Database, table: dict[str, Any]
) -> None:
    """A row that moves between two chunks must be there once, as it was."""
    small = {**table, "batch_size": 300}
    expected = copy_of(items, "public.items")

    def write(chunks: int) -> None:
        if chunks == 2:
            change_items(items)

    report = land(items, target, small, after_chunk=write)

    assert report.status == "done"
    assert report.tables[0].chunks > 5
    assert copy_of(target, RAW) == expected
    land_one(items, target, table)
    assert_equal(items, target, table)


@EVERY_MODE
def test_writes_during_a_delta_are_found_by_the_next(
    items: Database, target: Database, table: dict[str, Any]
) -> None:
    land_one(items, target, table)
    change_items(items)
    expected = copy_of(items, "public.items")

    def write(chunks: int) -> None:
        if chunks == 1:
            items.execute("UPDATE public.items SET amount = 0, updated_at = now() WHERE id < 100")
            items.execute("DELETE FROM public.items WHERE id BETWEEN 100 AND 110")

    land(items, target, {**table, "batch_size": 300}, after_chunk=write)
    assert copy_of(target, RAW) == expected

    land_one(items, target, table)
    assert_equal(items, target, table)


@EVERY_MODE
def test_lost_connections_are_retried(
    items: Database, target: Database, table: dict[str, Any]
) -> None:
    """Readers of the source and writers of chunks may each be cut off once."""

    def cut(chunks: int) -> None:
        if chunks == 2:
            items.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE application_name LIKE 'extract-load%' AND query LIKE 'ROLLBACK TO%'"
            )
        if chunks == 4:
            target.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE application_name LIKE 'extract-load%' AND query = 'COMMIT' "
                "AND pid NOT IN (SELECT backend_pid FROM extract_load.leases)"
            )

    report = land(items, target, {**table, "batch_size": 300}, after_chunk=cut)

    assert report.status == "done", report.failed
    assert report.tables[0].retries >= 1
    assert_equal(items, target, table)


def test_a_lost_snapshot_is_followed_by_another(items: Database, target: Database) -> None:
    def cut(chunks: int) -> None:
        if chunks == 2:
            items.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE application_name LIKE 'extract-load%'"
            )

    started = time.monotonic()
    (result,) = land(
        items, target, {**XMIN, "batch_size": 300, "max_retries": 30}, after_chunk=cut
    ).tables

    assert result.error is None
    assert 0 < result.retries < 5, "a new snapshot is taken at once"
    assert time.monotonic() - started < 15
    assert_equal(items, target, XMIN)
    assert leftovers(target) == []


SCRATCH = "(SELECT relname FROM pg_class WHERE relname LIKE '\\_el\\_%' AND relkind = 'r' LIMIT 1)"


@pytest.mark.parametrize(
    ("tamper", "told"),
    [
        ("DELETE FROM {scratch} WHERE id = 5", "its chunks brought 3000"),
        (
            "DELETE FROM {scratch} WHERE ctid = '(0,1)'; "
            "UPDATE extract_load.chunks SET rows = rows - 1 WHERE chunk = 1",
            "the snapshot has 3000 rows, 2999 arrived",
        ),
    ],
    ids=["a lost row", "a lost row and its count"],
)
def test_what_does_not_add_up_is_not_published(
    items: Database, target: Database, tamper: str, told: str
) -> None:
    def break_it(chunks: int) -> None:
        if chunks == 8:
            name = target.execute(f"SELECT {SCRATCH}")[0][0]
            target.execute(tamper.format(scratch=f'raw_data."{name}"'))

    (result,) = land(
        items, target, {**MODES["full"], "batch_size": 300}, after_chunk=break_it
    ).tables

    assert result.error is not None
    assert type(result.error).__name__ == "VerificationFailed"
    assert told in result.error.detail.lower() or told in result.error.detail
    assert target.execute("SELECT to_regclass(%s)", (RAW,)) == [(None,)]


@pytest.mark.parametrize("max_retries", [0, 3])
def test_lost_checkpoints_are_a_crash_of_the_target(
    items: Database, target: Database, max_retries: int
) -> None:
    """An immediate stop empties unlogged tables while everything else says done."""
    land_one(items, target, MODES["full"])
    items.execute("UPDATE public.items SET amount = 0")

    def crash(chunks: int) -> None:
        if chunks == 8:
            target.execute("TRUNCATE extract_load_scratch.chunks")

    table = {**MODES["full"], "batch_size": 75, "max_retries": max_retries}
    (result,) = land(items, target, table, after_chunk=crash).tables

    if not max_retries:
        assert result.error is not None
        assert "are not in target" in result.error.primary
        assert result.error.retryable
        assert target.execute(f"SELECT count(*) FROM {RAW} WHERE amount = 0") == [(0,)]
        result = land_one(items, target, table)
    assert (result.error, result.chunks_resumed) == (None, 0)
    assert_equal(items, target, MODES["full"])


def test_a_raw_table_somebody_wrote_into_is_not_published_over_silently(
    items: Database, target: Database
) -> None:
    """An extra row with a key of its own is gone after the next key comparison."""
    land_one(items, target, XMIN)
    target.execute(
        f"INSERT INTO {RAW} SELECT -5, body, amount, updated_at, _loaded_at FROM {RAW} WHERE id = 1"
    )

    result = land_one(items, target, XMIN)

    assert result.rows_deleted == 1
    assert_equal(items, target, XMIN)


@EVERY_MODE
@pytest.mark.parametrize(
    "ddl",
    [
        "TRUNCATE public.items",
        "BEGIN; CREATE TEMP TABLE kept AS SELECT * FROM public.items; TRUNCATE public.items;"
        "INSERT INTO public.items SELECT * FROM kept WHERE id % 2 = 0; COMMIT",
        "ALTER TABLE public.items ALTER COLUMN id TYPE bigint",
        # Frozen at once: every snapshot sees these rows (manual, COPY, FREEZE).
        "COPY public.items TO PROGRAM 'cat > frozen.copy'; BEGIN; TRUNCATE public.items;"
        "COPY public.items FROM PROGRAM 'cat frozen.copy' (FREEZE); COMMIT",
        "ALTER TABLE public.items RENAME TO old;"
        "CREATE TABLE public.items (LIKE public.old INCLUDING ALL)",
    ],
    ids=["truncate", "truncate and refill", "rewrite", "frozen refill", "another table"],
)
@pytest.mark.parametrize("max_retries", [0, 3])
def test_ddl_that_ignores_snapshots_needs_another_one(
    items: Database, target: Database, table: dict[str, Any], ddl: str, max_retries: int
) -> None:
    """After it the snapshot shows no rows, or later ones: neither may be published."""
    table = {**table, "max_retries": max_retries}

    def run_ddl(chunks: int) -> None:
        if chunks == 2:
            items.execute("SET lock_timeout = '2s';" + ddl)

    (result,) = land(items, target, {**table, "batch_size": 300}, after_chunk=run_ddl).tables

    if max_retries:
        assert (result.error, result.retries) == (None, 1)
        assert_equal(items, target, table)
        return
    assert result.error is not None
    assert (
        result.error.primary == '"public.items" was truncated, rewritten or replaced during the run'
    )
    assert result.error.retryable
    assert target.execute("SELECT to_regclass(%s)", (RAW,)) == [(None,)]


@EVERY_MODE
def test_a_run_that_waited_does_not_take_the_raw_table_back_in_time(
    items: Database, target: Database, table: dict[str, Any]
) -> None:
    """Its snapshot is older than what another run published while it waited for the lease."""
    waited = prepared_run(items, target, table)
    change_items(items)
    land_one(items, target, table)
    assert_equal(items, target, table)

    report = waited.execute()

    assert report.status == "done"
    assert report.tables[0].rows_deleted == 0
    assert_equal(items, target, table)


@EVERY_MODE
def test_a_run_that_waited_takes_no_other_old_snapshot(
    items: Database,
    target: Database,
    table: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Another table of the run replaced its snapshot before that other run published, too."""
    waited = prepared_run(items, target, table)
    declared = settings(table).tables[0]
    acquire, left = lease.acquire, [waited]

    def wait(*arguments: Any) -> lease.Lease:
        if left:
            run = left.pop()
            run._newer_source(declared, run._source(declared))
            change_items(items)
            land_one(items, target, table)
        return acquire(*arguments)

    land_one(items, target, table)
    monkeypatch.setattr(lease, "acquire", wait)

    report = waited.execute()

    assert report.status == "done"
    assert report.tables[0].rows_deleted == 0
    assert_equal(items, target, table)


def test_nobody_waits_for_us_between_chunks(items: Database, target: Database) -> None:
    """ACCESS EXCLUSIVE is free to take while the run goes on."""
    taken: list[int] = []

    def lock(chunks: int) -> None:
        items.execute(
            "SET lock_timeout = '1s'; BEGIN;"
            "LOCK TABLE public.items IN ACCESS EXCLUSIVE MODE; COMMIT"
        )
        taken.append(chunks)

    report = land(items, target, {**XMIN, "batch_size": 300}, after_chunk=lock)

    assert report.status == "done"
    assert len(taken) == report.tables[0].chunks
