"""What others hold on a target: the backend of a connection that is lost, an analyst's lock."""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Any

import pytest

from extract_load import connection, lease, ledger
from extract_load.identifiers import TableName
from extract_load.report import TableResult
from extract_load.runner import run
from tests.support.landing import assert_equal, environment, land, land_one, session_on, settings
from tests.support.own_servers import wait_for
from tests.support.proxy import Wire, wire_to
from tests.support.servers import Database, guarded_directory
from tests.support.tables import FULL, MODES, RAW, XMIN, create_items, leftovers
from tests.support.ways import pgbouncer

HOLE_AFTER = 1_000_000
"""Bytes to the target: a chunk has more, and all else of a run less."""
IN_CHUNKS = {"batch_size": 1_000, "parallel_workers": 2}


@pytest.fixture
def wide_items(source: Database) -> Database:
    """Three chunks of 13 MB: more than the buffers between here and there take."""
    create_items(source, 3_000)
    source.execute("UPDATE public.items SET body = repeat(md5(id::text), 400)")
    source.execute("VACUUM FULL ANALYZE public.items")
    return source


@pytest.fixture(autouse=True)
def _is_impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(connection._LIMITS["target"], "lock_timeout", "2s")


def land_through(wire: Wire, source: Database, target: Database, table: Any) -> TableResult:
    """The result of landing a table over a wire; a stream that stalls is cut soon."""
    through = environment(source, replace(target, port=wire.port))
    return run(settings(table, stall_timeout="1s"), through).tables[0]


def assert_survives_a_hole(
    source: Database, target: Database, server: Database, table: dict[str, Any]
) -> None:
    """One worker's connection to a server becomes a black hole in the middle of a chunk."""
    with wire_to(server.port) as wire:
        wire.hole_after = HOLE_AFTER
        result = land_through(wire, source, server, table)

    assert wire.holes == 1
    assert (result.error, result.status) == (None, "done")
    assert result.retries == 1
    assert_equal(source, target, table)
    assert leftovers(target) == []


def test_a_first_load_survives_a_black_hole(wide_items: Database, target: Database) -> None:
    assert_survives_a_hole(wide_items, target, target, {**FULL, **IN_CHUNKS})


def test_a_run_that_gives_up_leaves_no_ghost_to_the_next(
    wide_items: Database, target: Database
) -> None:
    table = {**FULL, **IN_CHUNKS}
    with wire_to(target.port) as wire:
        wire.hole_after = HOLE_AFTER
        error = land_through(wire, wide_items, target, {**table, "max_retries": 0}).error

        assert error is not None
        assert "stalled" in error.primary
        assert land_one(wide_items, target, table).retries == 0
    assert_equal(wide_items, target, table)


def test_a_refresh_survives_a_black_hole(wide_items: Database, target: Database) -> None:
    table = {**XMIN, **IN_CHUNKS}
    land_one(wide_items, target, table)
    wide_items.execute("UPDATE public.items SET amount = -amount")

    assert_survives_a_hole(wide_items, target, target, table)


@pytest.mark.slow
def test_a_black_hole_before_a_pooler_is_survived(wide_items: Database, target: Database) -> None:
    """The backend that runs a chunk is not the one that a connection was told of."""
    with guarded_directory() as directory:
        directory.chmod(0o711)
        with pgbouncer(target, "transaction", directory) as pooled:
            assert_survives_a_hole(wide_items, target, pooled, {**FULL, **IN_CHUNKS})


def test_a_backend_that_has_gone_on_is_left_alone(target: Database) -> None:
    """Behind a pooler it may serve somebody else by now."""
    with session_on(target, "target") as one, session_on(target, "target") as other:
        ledger.migrate(other)
        held = lease.acquire(other, TableName("raw_data", "t"), "r1", 0)
        with one.transaction():
            lease.hold(one, held)
        ended = one.held_in
        assert ended is not None
        with one.transaction():
            lease.hold(one, held)
            lease.end_transaction(other, ended)
            assert one.execute("SELECT pg_sleep(0.2)::text") == [("",)]

        one.begin()
        lease.hold(one, held)
        assert one.held_in not in (None, ended)
        lease.end_transaction(other, one.held_in)
        wait_for(lambda: not one.is_alive(), "its end")


# ---------------------------------------------------------------- an analyst's lock


@contextmanager
def analyst(target: Database) -> Iterator[tuple[int, Callable[[], None]]]:
    """Yields a process, and how it takes the raw table for itself."""
    with closing(target.connect()) as session, session.cursor() as cursor:
        yield (
            int(session.info.backend_pid),
            lambda: cursor.execute(f"BEGIN; LOCK TABLE {RAW} IN ACCESS EXCLUSIVE MODE"),
        )


@pytest.mark.parametrize("begins_after", [0, 1], ids=["before-the-run", "after-its-rows"])
@pytest.mark.parametrize("table", MODES.values(), ids=MODES)
def test_a_raw_table_that_is_locked_is_named_with_who_holds_it(
    source: Database,
    target: Database,
    table: dict[str, Any],
    begins_after: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("extract_load.landing.PUBLISH_ATTEMPTS", 1)
    create_items(source, 1_000)
    land_one(source, target, table)
    source.execute("UPDATE public.items SET amount = -amount, updated_at = now()")
    with analyst(target) as (pid, lock):
        if not begins_after:
            lock()
        report = land(
            source, target, table, after_chunk=lambda chunks: lock() if chunks == 1 else None
        )

    error = report.tables[0].error
    assert error is not None
    assert error.sqlstate == "55P03"
    assert 'raw_data."digitalocean_items"' in error.primary
    assert f"(pid {pid}, user {target.user}, AccessExclusiveLock)" in error.detail
    assert land_one(source, target, table).rows_updated == 1_000
