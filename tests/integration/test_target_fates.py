"""Three targets in one run, the second killed, stuck or full: the others finish, and it catches up.

The second target has a server of its own, so that what befalls it befalls no other.
"""

import resource
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from demo.embedded_server import EmbeddedServer, free_ports
from extract_load import already_published
from extract_load.config import Settings
from extract_load.connection import Session
from extract_load.connection_parameters import resolve_connection
from extract_load.errors import ExtractLoadError, TargetError
from extract_load.report import RunReport
from extract_load.runner import RunOptions, run
from tests.support.landing import assert_equal, each_once, loaded_at
from tests.support.servers import PASSWORD, SETTINGS, Database, fresh_database
from tests.support.tables import change_items, create_items
from tests.support.targets import TARGET_IDS, connection_variables, raw_table, three_targets

ROWS = 20_000
TASK = {"dag_id": "a_dag", "run_id": "manual__1", "task_id": "load"}
TABLE_RUNS = "SELECT run_id, status, rows_read, published_at FROM extract_load.table_runs"
Targets = dict[str, Database]


@pytest.fixture(scope="module")
def second_server(servers_directory: Path) -> Iterator[EmbeddedServer]:
    (port,) = free_ports(1)
    server = EmbeddedServer(18, servers_directory / "second", port, SETTINGS)
    server.create(PASSWORD)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def targets(
    source_server: EmbeddedServer, second_server: EmbeddedServer, target_server: EmbeddedServer
) -> Iterator[Targets]:
    with (
        fresh_database(target_server, "one") as one,
        fresh_database(second_server, "two") as two,
        fresh_database(source_server, "three") as three,
    ):
        yield {"one": one, "two": two, "three": three}
        second_server.start()  # where a test failed before it did


def land(
    settings: Settings,
    source: Database,
    targets: Targets,
    after_chunk: Callable[[str, int], None] = lambda _target, _chunks: None,
) -> RunReport:
    """One run of a task; `after_chunk` is told the target and its chunks so far."""
    names = connection_variables(source, targets)
    progress = each_once(lambda plan, chunks: after_chunk(plan.settings.target_connection, chunks))
    return run(settings, names, RunOptions(invoked_by=TASK, progress=progress))


def statuses(report: RunReport) -> dict[str, str]:
    return {result.target_connection: result.status for result in report.tables}


def only_failure(report: RunReport) -> ExtractLoadError:
    assert statuses(report) == {"one": "done", "two": "failed", "three": "done"}
    error = report.failed[0].error
    assert error is not None
    return error


def missing(settings: Settings, source: Database, targets: Targets) -> Settings:
    """What the next try of the task has to do."""
    done = already_published(settings, connection_variables(source, targets), TASK)
    tables = (t for t in settings.tables if (t.target_connection, t.target.written) not in done)
    return replace(settings, tables=tuple(tables))


def assert_all_equal(source: Database, targets: Targets, *names: str) -> None:
    for name in names:
        table = {"source": "public.items", "target": raw_table(name)}
        assert_equal(source, targets[name], table)


def kill(server: EmbeddedServer) -> None:
    """Kill -9 of a server and all its backends: what a power cut does to it."""
    assert server.pid is not None
    postmaster = psutil.Process(server.pid)
    processes = [postmaster, *postmaster.children(recursive=True)]
    for process in processes:
        process.kill()
    gone, alive = psutil.wait_procs(processes, timeout=10)
    assert (len(gone), alive) == (len(processes), [])


@pytest.mark.parametrize(
    ("sync_mode", "is_refresh"),
    [("full_sync", False), ("incremental_sync", True), ("xmin_incremental", True)],
    ids=["full first load", "incremental refresh", "xmin refresh"],
)
def test_the_second_of_three_is_killed_while_its_chunks_load(
    source: Database,
    targets: Targets,
    second_server: EmbeddedServer,
    sync_mode: str,
    is_refresh: bool,
) -> None:
    cursor: dict[str, Any] = {"incremental_field": "updated_at", "deletes": "hard"}
    settings = three_targets(
        sync_mode=sync_mode,
        batch_size=500,
        parallel_workers=2,
        max_retries=1,
        **(cursor if sync_mode == "incremental_sync" else {}),
    )
    create_items(source, ROWS)
    if is_refresh:
        land(settings, source, targets)
        change_items(source)

    def kill_in_the_middle(target: str, chunks: int) -> None:
        if (target, chunks) == ("two", 5):
            # A commit that waits for the disk, and so for the begin of the run before it.
            targets["two"].execute("CREATE TABLE public.flushed ()")
            kill(second_server)

    report = land(settings, source, targets, kill_in_the_middle)

    assert only_failure(report).primary == 'could not connect to target "two"'
    assert '"two"' in report.as_text()
    assert 5 <= report.tables[1].chunks < 20
    assert_all_equal(source, targets, "one", "three")
    before = {name: targets[name].execute(TABLE_RUNS) for name in ("one", "three")}
    rows = {name: loaded_at(targets[name], raw_table(name)) for name in ("one", "three")}
    second_server.start()
    newest = f"{TABLE_RUNS} WHERE run_id = %s"
    ((_, status, *_),) = targets["two"].execute(newest, [report.run_id])
    assert status == "running", "nobody was there to write its end"

    retry = land(missing(settings, source, targets), source, targets)

    assert statuses(retry) == {"two": "done"}
    assert_all_equal(source, targets, *TARGET_IDS)
    ((_, status, rows_read, published_at),) = targets["two"].execute(newest, [retry.run_id])
    assert (status, rows_read) == ("done", retry.tables[0].rows_read)
    assert published_at is not None
    for name in ("one", "three"):
        assert targets[name].execute(TABLE_RUNS) == before[name]
        assert loaded_at(targets[name], raw_table(name)) == rows[name]
    assert missing(settings, source, targets) == settings


def test_the_second_of_three_is_stuck(source: Database, targets: Targets) -> None:
    """A table locked by somebody holds up the run's end, not the other targets."""
    settings = three_targets()
    create_items(source, 2_000)
    land(settings, source, targets)
    change_items(source)
    locker = targets["two"].connect()
    with ThreadPoolExecutor(1) as pool, locker.cursor() as cursor:
        cursor.execute(f"BEGIN; LOCK TABLE {raw_table('two')} IN ACCESS EXCLUSIVE MODE")
        try:
            future = pool.submit(land, settings, source, targets)
            for name in ("one", "three"):
                wait_for_done(targets[name], runs=2)
            stuck = targets["two"].execute(f"{TABLE_RUNS} ORDER BY started_at")
            assert [status for _, status, *_ in stuck] == ["done", "running"]
            assert_all_equal(source, targets, "one", "three")
        finally:
            locker.close()
        report = future.result(timeout=60)

    assert statuses(report) == dict.fromkeys(TARGET_IDS, "done")
    assert_all_equal(source, targets, *TARGET_IDS)


def wait_for_done(database: Database, runs: int) -> None:
    deadline = time.monotonic() + 20
    done = "SELECT count(*) FROM extract_load.table_runs WHERE status = 'done'"
    while database.execute(done) != [(runs,)]:
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture
def _full_disk(second_server: EmbeddedServer) -> Iterator[None]:
    """The second server cannot make a file longer than 16 MiB.

    The system itself refuses the write, as on a full disk; it says EFBIG where a disk says ENOSPC,
    and PostgreSQL gives up the statement for both. A small tmpfs would be a disk, but only root
    may mount one, and with its WAL there the server would go down: a story of its own, above.
    16 MiB leave the WAL alone.
    """
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    second_server.stop()
    resource.setrlimit(resource.RLIMIT_FSIZE, (16 << 20, limits[1]))
    try:
        second_server.start()  # and inherits the limit
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    yield
    second_server.stop()
    second_server.start()


@pytest.fixture
def wide_items(source: Database) -> Database:
    """20 MiB, quickly made."""
    create_items(source, 0)
    source.execute(
        "INSERT INTO public.items SELECT i, repeat('x', 1900), i FROM generate_series(1, 10000) i;"
        "ANALYZE public.items"
    )
    return source


@pytest.mark.usefixtures("_full_disk")
def test_the_second_of_three_is_full(wide_items: Database, targets: Targets) -> None:
    settings = three_targets(batch_size=1000)

    report = land(settings, wide_items, targets)

    error = only_failure(report)
    assert type(error) is TargetError
    assert error.primary.startswith("could not copy blocks ")
    assert "could not extend file" in error.detail
    assert "File too large" in error.detail
    assert error.detail.startswith('The target "two" said: ')
    assert_all_equal(wide_items, targets, "one", "three")
    (failed,) = targets["two"].execute("SELECT status, error FROM extract_load.table_runs")
    assert failed == ("failed", error.as_dict())
    assert len(missing(settings, wide_items, targets).tables) == 1
    assert targets["two"].execute("SELECT to_regclass('raw_data.items_two')") == [(None,)]


@pytest.mark.parametrize(
    ("sqlstate", "hint"),
    [
        ("53100", "Make space on the server's disk, then run again."),
        ("42501", "Grant the role what it lacks, then run again; nothing was published."),
        ("22012", "Look for the cause in what the server said, mend it, and run again."),
        ("57P01", "Run again: what is published stays, and chunks that are loaded count."),
    ],
)
def test_what_a_server_refuses_names_it_and_the_remedy(
    target: Database, sqlstate: str, hint: str
) -> None:
    refusing = f"DO $$ BEGIN RAISE 'no' USING ERRCODE = '{sqlstate}'; END $$"
    two = resolve_connection("two", connection_variables(target, {"two": target}))
    with Session(two, "target") as session, pytest.raises(TargetError) as raised:
        session.execute(refusing, doing="do it")

    error = raised.value
    assert (error.primary, error.hint) == ("could not do it", hint)
    assert error.detail == f'The target "two" said: no [SQLSTATE {sqlstate}]'
