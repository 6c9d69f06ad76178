"""What a run never does to its source: hold a snapshot, a lock or its bandwidth too long."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from extract_load.config import RunSettings
from extract_load.errors import SourceBusy, SourceError, SourceUnavailable, TargetUnavailable
from extract_load.governor import Fares, Governor
from extract_load.memory import MemoryBudget
from extract_load.report import RunReport
from extract_load.runner import RunOptions, run
from tests.integration.test_crash import loaded_chunks, start, wait_until
from tests.support.command import write_settings
from tests.support.landing import assert_equal, environment, land_one, settings
from tests.support.own_servers import wait_for
from tests.support.proxy import wire_to
from tests.support.servers import Database
from tests.support.tables import FULL, MODES, RAW, XMIN, create_items, leftovers

ROWS = 6_000
SLOW = "public.slow(id)"
"""True after half a millisecond."""
OURS = (
    "SELECT count(*)::int, coalesce(max(extract(epoch FROM clock_timestamp() - xact_start)), 0)"
    " FROM pg_stat_activity"
    " WHERE application_name LIKE 'extract-load%' AND backend_xmin IS NOT NULL"
)

LOCKS = (
    "SELECT count(*) FROM pg_locks WHERE relation = 'items'::regclass"
    " AND mode = 'AccessShareLock' AND pid <> pg_backend_pid()"
)
"""Of those who read the table."""
WAITING_COPIES = (
    "SELECT pid FROM pg_stat_activity WHERE state = 'active' AND wait_event = 'ClientRead'"
    " AND query LIKE 'COPY % FROM STDIN%' AND pid <> pg_backend_pid()"
)


@pytest.fixture
def items(source: Database) -> Database:
    create_items(source, ROWS)
    source.execute(
        "CREATE FUNCTION public.slow(int) RETURNS boolean LANGUAGE sql IMMUTABLE "
        "AS 'SELECT pg_sleep(0.0005) IS NOT NULL'"
    )
    return source


def land_with(
    source: Database, target: Database, table: dict[str, Any], **run_keys: Any
) -> RunReport:
    return run(settings(table, **run_keys), environment(source, target), RunOptions())


@contextmanager
def sampled(source: Database) -> Iterator[list[float]]:
    """Yields the ages of our snapshots, in seconds, as they are seen all the time."""
    ages: list[float] = []
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(0.1):
            ages.append(float(source.execute(OURS)[0][1]))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield ages
    finally:
        ended.set()
        thread.join(10)


# ---------------------------------------------------------------- the age of a snapshot


@pytest.mark.parametrize("table", MODES.values(), ids=MODES)
def test_no_snapshot_is_older_than_its_age(
    items: Database, target: Database, table: dict[str, Any]
) -> None:
    """The run goes on under another one, and repairs."""
    small = {**table, "batch_size": 300}
    limits = {"snapshot_max_age": "2s", "throttle_mb_per_second": 0.15}
    with sampled(items) as ages:
        done = threading.Event()
        writer = threading.Thread(target=_write, args=(items, done))
        writer.start()
        try:
            report = land_with(items, target, small, **limits)
        finally:
            done.set()
            writer.join(10)

    (result,) = report.tables
    assert result.error is None
    assert result.retries > 0
    assert 1 < max(ages) < 2.5
    land_one(items, target, table)
    assert_equal(items, target, table)
    assert leftovers(target) == []


def _write(source: Database, done: threading.Event) -> None:
    number = 0
    while not done.wait(0.1):
        number += 1
        source.execute(
            f"UPDATE public.items SET amount = -{number}, updated_at = now()"
            f" WHERE id % 997 = {number % 997};"
            f"DELETE FROM public.items WHERE id = {number};"
            f"INSERT INTO public.items SELECT 100000 + {number}, 'new', 1"
        )


def test_an_age_that_is_too_short_is_told(items: Database, target: Database) -> None:
    one_chunk = {**FULL, "custom_where": SLOW, "chunk_mode": False}

    (result,) = land_with(items, target, one_chunk, snapshot_max_age="1s").tables

    assert isinstance(result.error, SourceError)
    assert result.error.primary == '"public.items" needs a snapshot older than snapshot_max_age'
    assert "One of its chunks was not done within 1 second, twice" in result.error.detail
    assert result.error.hint.startswith("Set snapshot_max_age to 2 seconds or more")
    assert not result.error.retryable


def test_a_table_that_cannot_be_repaired_has_to_fit_into_one_snapshot(
    items: Database, target: Database
) -> None:
    items.execute("ALTER TABLE public.items DROP CONSTRAINT items_pkey")
    limits = {"snapshot_max_age": "2s", "throttle_mb_per_second": 0.15}

    (result,) = land_with(items, target, {**FULL, "batch_size": 300}, **limits).tables

    assert isinstance(result.error, SourceError)
    assert result.error.primary == '"public.items" needs a snapshot older than snapshot_max_age'
    assert result.error.detail.startswith(
        "All of it (without a key the rows of another snapshot cannot be repaired) was not done"
    )
    assert result.retries == 1


def test_a_stopped_client_keeps_no_snapshot(
    items: Database, target: Database, tmp_path: Path
) -> None:
    """It cannot end it: the server does."""
    path = write_settings(tmp_path / "t.yml", {**XMIN, "batch_size": 200, "target": RAW})
    document = yaml.safe_load(path.read_text())
    limits = {"snapshot_max_age": "4s", "throttle_mb_per_second": 0.15}
    path.write_text(yaml.safe_dump({**document, **limits}))
    process = start(items, target, path)
    wait_until(process, lambda: loaded_chunks(target) >= 3)

    process.send_signal(signal.SIGSTOP)
    stopped = time.monotonic()
    try:
        while items.execute(OURS)[0][0]:
            assert time.monotonic() < stopped + 6
            time.sleep(0.1)
    finally:
        process.send_signal(signal.SIGCONT)
    assert time.monotonic() - stopped < 5
    assert process.wait(60) == 0
    assert_equal(items, target, XMIN)


# ---------------------------------------------------------------- locks


@contextmanager
def altered_while_read(
    items: Database, target: Database, what: str, loaded: int
) -> Iterator[list[float]]:
    """Alters the table once so many chunks are loaded and a read of ours holds its lock.

    Yields how long that took, in seconds; it is there after the block.
    """
    waits: list[float] = []

    def alter() -> None:
        while loaded_chunks(target) < loaded or not items.execute(LOCKS)[0][0]:
            time.sleep(0.01)
        time.sleep(0.3)
        started = time.monotonic()
        items.execute(f"ALTER TABLE public.items {what}")
        waits.append(time.monotonic() - started)

    thread = threading.Thread(target=alter)
    thread.start()
    try:
        yield waits
    finally:
        thread.join(60)


def test_ddl_of_others_does_not_wait_for_a_limit_of_ours(items: Database, target: Database) -> None:
    """All of the chunk was sent, more than a pipe holds: there is no statement to end."""
    items.execute("UPDATE public.items SET body = repeat('x', 800)")
    items.execute("VACUUM FULL public.items")
    table = {**FULL, "batch_size": 3_000, "parallel_workers": 1}
    with altered_while_read(items, target, "ADD CHECK (id > -1) NOT VALID", loaded=1) as waits:
        (result,) = land_with(items, target, table, throttle_mb_per_second=0.25).tables

    assert result.error is None
    assert len(waits) == 1
    assert waits[0] < 3
    assert_equal(items, target, FULL)


def test_a_lock_is_given_back_before_the_target_has_all(items: Database, target: Database) -> None:
    """What the system has taken for the target needs none."""
    freed = threading.Event()

    def look() -> None:
        wait_for(lambda: bool(target.execute(WAITING_COPIES)), "a COPY that waits for rows")
        ((pid,),) = target.execute(WAITING_COPIES)
        os.kill(pid, signal.SIGSTOP)
        try:
            wait_for(lambda: not items.execute(LOCKS)[0][0], "the lock to be freed")
            freed.set()
        finally:
            os.kill(pid, signal.SIGCONT)

    thread = threading.Thread(target=look)
    thread.start()
    (result,) = land_with(items, target, FULL, throttle_mb_per_second=0.1).tables
    thread.join(60)

    assert result.error is None
    assert freed.is_set(), "the lock was held until the target had all"
    assert_equal(items, target, FULL)


@pytest.mark.parametrize("loaded", [0, 1], ids=["a chunk", "the closing pass"])
def test_ddl_of_others_hardly_waits(items: Database, target: Database, loaded: int) -> None:
    """The read that holds the lock is ended, and tried again without counting."""
    table = {**FULL, "custom_where": SLOW, "chunk_mode": False, "max_retries": 1}
    with altered_while_read(items, target, "ADD COLUMN more int", loaded) as waits:
        (result,) = land_with(items, target, table).tables

    assert (result.error, result.retries) == (None, 1), "another pass, with the new column"
    assert len(waits) == 1
    assert waits[0] < 3
    land_one(items, target, FULL)
    assert_equal(items, target, FULL)


# ---------------------------------------------------------------- bandwidth and calm


def test_a_throttled_source_is_read_no_faster(items: Database, target: Database) -> None:
    items.execute("UPDATE public.items SET body = repeat('x', 1000)")
    started = time.monotonic()

    (result,) = land_with(
        items, target, {**FULL, "batch_size": 500}, throttle_mb_per_second=2
    ).tables

    seconds = time.monotonic() - started
    assert result.error is None
    assert result.bytes_read > 6 * 10**6
    assert seconds > result.bytes_read / (2 * 2**20) - 1.5, "one second's worth may come at once"


def test_a_busy_source_is_waited_for(
    items: Database, target: Database, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "extract_load")
    busy = threading.Thread(target=items.execute, args=("SELECT pg_sleep(3)",))
    busy.start()
    asleep = "SELECT pid FROM pg_stat_activity WHERE query LIKE '%sleep(3)'"
    wait_for(lambda: bool(items.execute(asleep)), "the busy session")
    started = time.monotonic()

    (result,) = land_with(items, target, FULL, max_active_sessions=0).tables

    busy.join(10)
    assert result.error is None
    assert time.monotonic() - started > 1.5
    (told,) = [record for record in caplog.records if record.msg == "waits for the source"]
    assert told.why == "1 sessions are active, max_active_sessions is 0"  # type: ignore[attr-defined]


def test_a_role_that_sees_no_sessions_is_told_once(
    items: Database, target: Database, caplog: pytest.LogCaptureFixture
) -> None:
    items.execute(
        "DROP ROLE IF EXISTS blind; CREATE ROLE blind LOGIN PASSWORD 'throw-away';"
        "GRANT USAGE ON SCHEMA public TO blind; GRANT SELECT ON public.items TO blind"
    )
    table = {**FULL, "batch_size": 500}
    blind = replace(items, user="blind")

    limits = {"max_active_sessions": 0, "max_replica_lag": "0s"}
    (result,) = land_with(blind, target, table, **limits).tables

    assert result.error is None
    told = [record for record in caplog.records if record.msg == "a limit cannot be kept"]
    assert [record.key for record in told] == list(limits)  # type: ignore[attr-defined]
    items.execute("DROP OWNED BY blind; DROP ROLE blind")


@pytest.mark.parametrize(
    ("fares", "strain"),
    [
        (Fares(timedelta(seconds=9), 1), None),
        (Fares(None, None), None),
        (
            Fares(timedelta(seconds=90), 1),
            "a standby lags 90 seconds behind, max_replica_lag is 1 minute",
        ),
        (Fares(None, 6), "6 sessions are active, max_active_sessions is 5"),
    ],
)
def test_what_strains_a_source(fares: Fares, strain: str | None) -> None:
    limits = RunSettings(max_replica_lag=timedelta(minutes=1), max_active_sessions=5)
    assert fares.strain(limits) == strain


def test_a_source_that_is_never_calm_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("extract_load.governor.WAIT_LIMIT_SECONDS", 1.0)
    governor = Governor("shop", RunSettings(max_active_sessions=0), MemoryBudget())

    with pytest.raises(SourceBusy, match='source "shop" did not become calm') as caught:
        governor.wait_until_calm(lambda: Fares(None, 7))

    assert "7 sessions are active, max_active_sessions is 0" in caught.value.detail
    assert "raise the limit" in caught.value.hint


def nobody_begins(fares: Callable[[], Fares], release: Callable[[], None], seconds: float) -> None:
    """Proves that a worker, and two that come once it asks, wait for so long, and then begin."""
    governor = Governor("shop", RunSettings(max_active_sessions=0), MemoryBudget())
    asked = threading.Event()

    def ask() -> Fares:
        asked.set()
        return fares()

    with futures.ThreadPoolExecutor(3) as pool:
        waiting = [pool.submit(governor.wait_until_calm, ask)]
        assert asked.wait(5)
        waiting += [pool.submit(governor.wait_until_calm, ask) for _ in range(2)]
        ended, _ = futures.wait(waiting, seconds, futures.FIRST_COMPLETED)
        release()
        assert ended == set()
        for one in waiting:
            one.result(5)


def test_a_busy_source_holds_back_everybody() -> None:
    """It is asked once a second: who comes in between hears what the last one was told."""
    is_calm = threading.Event()
    nobody_begins(lambda: Fares(None, 0 if is_calm.is_set() else 7), is_calm.set, 2.5)


def test_nobody_begins_before_the_first_answer() -> None:
    """The workers of a run come at once: all wait for the one that asks."""
    may_answer = threading.Event()

    def fares() -> Fares:
        assert may_answer.wait(10)
        return Fares(None, 0)

    nobody_begins(fares, may_answer.set, 0.5)


def test_a_source_that_stays_busy_ends_the_table_once(
    items: Database, target: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who has waited for ten minutes does not wait for three times ten more."""
    monkeypatch.setattr("extract_load.governor.WAIT_LIMIT_SECONDS", 1.0)
    with futures.ThreadPoolExecutor(1) as pool:
        busy = pool.submit(items.execute, "SELECT pg_sleep(60)")
        asleep = "FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(60)'"
        wait_for(lambda: bool(items.execute(f"SELECT pid {asleep}")), "the busy session")
        (result,) = land_with(items, target, FULL, max_active_sessions=0).tables
        items.execute(f"SELECT pg_cancel_backend(pid) {asleep}")
        assert busy.exception(10) is not None

    assert isinstance(result.error, SourceBusy)
    assert result.error.retryable
    assert result.retries == 0


# ---------------------------------------------------------------- stalls


@pytest.mark.parametrize("side", ["source", pytest.param("target", marks=pytest.mark.slow)])
def test_a_stream_that_stalls_is_cut(
    items: Database, target: Database, side: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wire goes silent in the middle of a COPY: nobody closes it, nobody sends."""
    items.execute("UPDATE public.items SET body = repeat(md5(id::text), 200)")
    kind = SourceUnavailable if side == "source" else TargetUnavailable
    monkeypatch.setattr("extract_load.lease.EXPIRY_SECONDS", 3.0)
    table = {**FULL, "chunk_mode": False, "max_retries": 0}
    with wire_to((items if side == "source" else target).port) as wire:
        sides = {"source": items, "target": target}
        sides[side] = replace(sides[side], port=wire.port)
        if side == "source":
            wire.quiet_after = 5_000_000
        else:
            threading.Thread(target=_silence, args=(wire, items), daemon=True).start()
        started = time.monotonic()
        (result,) = land_with(sides["source"], sides["target"], table, stall_timeout="1s").tables

    assert isinstance(result.error, kind)
    assert time.monotonic() - started < (20 if side == "source" else 50)
    if "stalled" in result.error.primary:
        assert "no byte for 1 s (stall_timeout)" in result.error.detail
    land_one(items, target, FULL)
    assert_equal(items, target, FULL)


def _silence(wire: Any, source: Database) -> None:
    copying = "SELECT count(*)::int FROM pg_stat_activity WHERE query LIKE 'COPY%items%'"
    while not source.execute(copying)[0][0]:
        time.sleep(0.002)
    wire.silent.set()


def test_a_source_that_looks_for_rows_has_not_stalled(items: Database, target: Database) -> None:
    """No row passes the condition for longer than the limit; the server works."""
    table = {**FULL, "custom_where": f"{SLOW} IS NOT TRUE", "chunk_mode": False}

    (result,) = land_with(items, target, table, stall_timeout="1s").tables

    assert (result.error, result.rows_read) == (None, 0)
    assert result.seconds > 2
