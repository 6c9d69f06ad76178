"""One read of the source for several targets, and each target's own fate."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import pytest

from demo.embedded_server import EmbeddedServer, free_ports
from extract_load import spool
from extract_load.report import RunReport
from extract_load.runner import RunOptions, run
from extract_load.settings_file import settings_from_document
from tests.support.landing import assert_equal, each_once
from tests.support.proxy import Wire, wire_to
from tests.support.servers import Database, fresh_database
from tests.support.tables import change_items, create_items, leftovers

ROWS = 6_000
IDS = ("postgres_default", "fs2_postgres", "third")
RAW = {"source": "public.items", "target": "raw_data.items"}
QUICK = 2.0
"""stall_timeout in seconds."""
OTHER_SESSIONS = (
    "SELECT pid FROM pg_stat_activity WHERE datname = current_database() "
    "AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
)


@pytest.fixture
def targets(target_server: EmbeddedServer) -> Iterator[list[Database]]:
    with ExitStack() as stack:
        yield [stack.enter_context(fresh_database(target_server, "target")) for _ in IDS]


@pytest.fixture
def wire(targets: list[Database]) -> Iterator[Wire]:
    """In front of the last target."""
    with wire_to(targets[-1].port) as wire:
        yield wire


def land_in_all(
    source: Database,
    targets: list[Database],
    last_port: int | None = None,
    after_chunk: Callable[[int], None] = lambda _: None,
    only_last: dict[str, Any] | None = None,
    of_run: dict[str, Any] | None = None,
    **keys: Any,
) -> RunReport:
    """Returns the report of one run of a table into every target."""
    last = replace(targets[-1], port=last_port) if last_port else targets[-1]
    found = dict(zip(IDS, [*targets[:-1], last], strict=True))
    into: list[dict[str, Any]] = [{"conn_id": one, "table": "raw_data.items"} for one in found]
    into[-1] |= only_last or {}
    table = {"source": "public.items", "batch_size": 500, **keys, "targets": into}
    document = {
        "source_connection": "source",
        "stall_timeout": QUICK,
        "tables": [table],
        **(of_run or {}),
    }
    addresses = {f"AIRFLOW_CONN_{one.upper()}": d.uri for one, d in found.items()}
    return run(
        settings_from_document(document, "test settings"),
        {"AIRFLOW_CONN_SOURCE": source.uri, **addresses},
        RunOptions(progress=each_once(lambda _plan, chunks: after_chunk(chunks))),
    )


def rows_looked_at(source: Database) -> int:
    """How many rows of the table were read since it was made."""
    source.execute("SELECT pg_stat_force_next_flush()")
    (count,) = source.execute(
        "SELECT seq_tup_read FROM pg_stat_user_tables WHERE relname = 'items'"
    )[0]
    return int(count)


def rows_looked_at_by(source: Database, act: Callable[[], RunReport]) -> tuple[RunReport, int]:
    # Vacuumed, it would be counted in its index, which is another number.
    source.execute("ALTER TABLE public.items SET (autovacuum_enabled = false)")
    before = settled(source)
    report = act()
    return report, settled(source) - before


def settled(source: Database) -> int:
    """Returns how many rows were read, when nobody is left to tell more, and nobody did for long.

    A session tells its numbers when it ends, or once a second while it lives.
    """
    deadline = time.monotonic() + 60
    found, since = rows_looked_at(source), time.monotonic()
    while time.monotonic() < min(since + 2, deadline):
        time.sleep(0.2)
        now, is_watched = rows_looked_at(source), source.execute(OTHER_SESSIONS)
        if now != found or is_watched:
            found, since = now, time.monotonic()
    return found


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("mode", ["full_sync", "xmin_incremental"])
def test_equal_targets_read_the_source_once(
    source: Database, targets: list[Database], mode: str, workers: int
) -> None:
    create_items(source, ROWS)
    keys: dict[str, Any] = {"sync_mode": mode, "parallel_workers": workers}

    report, looked_at = rows_looked_at_by(source, lambda: land_in_all(source, targets, **keys))

    assert [table.error for table in report.tables] == [None] * 3
    assert [table.rows_read for table in report.tables] == [ROWS] * 3
    assert looked_at == 2 * ROWS, "once for the rows, once for their count"
    for target in targets:
        assert_equal(source, target, RAW)
        assert leftovers(target) == []

    change_items(source)
    again = land_in_all(source, targets, **keys)
    assert len({table.rows_read for table in again.tables}) == 1
    for target in targets:
        assert_equal(source, target, RAW)


def test_a_delta_of_equal_targets_looks_at_each_row_once(
    source: Database, targets: list[Database]
) -> None:
    """Its reads count the source, for all of them."""
    create_items(source, ROWS)
    keys: dict[str, Any] = {"sync_mode": "xmin_incremental", "batch_size": 100}
    land_in_all(source, targets, **keys)
    source.execute("UPDATE public.items SET body = 'changed' WHERE id % 50 = 0")

    report, looked_at = rows_looked_at_by(source, lambda: land_in_all(source, targets, **keys))

    assert [table.rows_updated for table in report.tables] == [ROWS // 50] * 3
    assert looked_at == ROWS
    for target in targets:
        assert_equal(source, target, RAW)


def test_targets_that_read_otherwise_read_by_themselves(
    source: Database, targets: list[Database]
) -> None:
    create_items(source, ROWS)
    first = land_in_all(source, targets)
    assert first.status == "done"
    change_items(source)
    other = {"sync_mode": "incremental_sync", "incremental_field": "updated_at", "deletes": "hard"}

    report = land_in_all(source, targets, only_last=other)

    assert report.status == "done"
    for target in targets:
        assert_equal(source, target, RAW)


def test_a_throttle_holds_for_what_is_read_once(source: Database, targets: list[Database]) -> None:
    """Nobody is slow for it."""
    create_items(source, ROWS)
    source.execute("UPDATE public.items SET body = repeat(md5(id::text), 16)")

    report = land_in_all(source, targets, of_run={"throttle_mb_per_second": 1})

    assert [table.error for table in report.tables] == [None] * 3
    megabytes = max(table.bytes_read for table in report.tables) / (1 << 20)
    assert megabytes > 3
    assert min(table.seconds for table in report.tables) > megabytes - 1.5, "one is in the bucket"


def test_a_target_that_is_down_holds_nobody(source: Database, targets: list[Database]) -> None:
    create_items(source, ROWS)
    (closed,) = free_ports(1)

    report = land_in_all(source, targets, last_port=closed)

    assert [table.status for table in report.tables] == ["done", "done", "failed"]
    for target in targets[:-1]:
        assert_equal(source, target, RAW)
    land_in_all(source, targets)
    assert_equal(source, targets[-1], RAW)


def test_a_target_that_is_cut_off_in_the_middle_catches_up(
    source: Database, targets: list[Database], wire: Wire
) -> None:
    """Its chunk is tried again by itself; the others go on with theirs."""
    create_items(source, ROWS)
    times = iter(range(2))

    def cut(_: int) -> None:
        if next(times, None) is not None:
            wire.cut()

    report = land_in_all(source, targets, last_port=wire.port, after_chunk=cut)

    assert [table.error for table in report.tables] == [None] * 3
    assert [table.retries for table in report.tables[:-1]] == [0, 0]
    for target in targets:
        assert_equal(source, target, RAW)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_target_that_is_much_slower_holds_up_nobody(
    source: Database, targets: list[Database], wire: Wire, workers: int
) -> None:
    """Also without any retry allowed: to be slow is no fault. And nothing is read twice."""
    create_items(source, ROWS)
    wire.to_server_per_second = 150_000.0

    report, looked_at = rows_looked_at_by(
        source,
        lambda: land_in_all(
            source, targets, last_port=wire.port, max_retries=0, parallel_workers=workers
        ),
    )

    assert [table.error for table in report.tables] == [None] * 3
    *healthy, slow = report.tables
    assert max(table.seconds for table in healthy) < slow.seconds / 2
    assert looked_at == 2 * ROWS
    for target in targets:
        assert_equal(source, target, RAW)
        assert leftovers(target) == []


def test_where_the_disk_has_no_room_a_slow_target_reads_by_itself(
    source: Database, targets: list[Database], wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool, "MOST_BYTES", 200_000)
    create_items(source, ROWS)
    wire.to_server_per_second = 150_000.0

    report, looked_at = rows_looked_at_by(
        source, lambda: land_in_all(source, targets, last_port=wire.port, max_retries=0)
    )

    assert [table.error for table in report.tables] == [None] * 3
    *healthy, slow = report.tables
    assert max(table.seconds for table in healthy) < slow.seconds / 2
    assert 2 * ROWS < looked_at < 3 * ROWS, "the part it is behind with is read twice"
    for target in targets:
        assert_equal(source, target, RAW)
        assert leftovers(target) == []


@pytest.mark.slow
def test_a_target_that_takes_nothing_is_cut_off_and_the_others_end(
    source: Database, targets: list[Database], wire: Wire
) -> None:
    create_items(source, ROWS)

    def fall_silent(chunks: int) -> None:
        if chunks == 3:
            wire.silent.set()

    report = land_in_all(
        source, targets, last_port=wire.port, after_chunk=fall_silent, max_retries=0
    )

    assert [table.status for table in report.tables] == ["done", "done", "failed"]
    assert max(table.seconds for table in report.tables[:-1]) < 30
    for target in targets[:-1]:
        assert_equal(source, target, RAW)
    wire.silent.clear()
    wire.cut()
    caught_up = land_in_all(source, targets)
    assert caught_up.status == "done"
    for target in targets:
        assert_equal(source, target, RAW)


def test_a_source_that_breaks_off_breaks_off_for_all_and_all_go_on(
    source: Database, targets: list[Database]
) -> None:
    create_items(source, ROWS)
    with wire_to(source.port) as wire:
        wire.cut_after = 400_000
        report = land_in_all(replace(source, port=wire.port), targets)
    assert [table.error for table in report.tables] == [None] * 3
    assert all(table.retries for table in report.tables)
    for target in targets:
        assert_equal(source, target, RAW)
        assert leftovers(target) == []
