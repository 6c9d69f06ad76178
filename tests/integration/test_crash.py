"""kill -9 in the middle of a run, then another run: nothing lost, nothing twice, nothing left."""

import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.command import PROGRAM, clean_environment, write_settings
from tests.support.landing import assert_equal, environment, land_one
from tests.support.proxy import wire_to
from tests.support.servers import Database
from tests.support.tables import MODES, RAW, change_items, create_items, leftovers

ROWS = 30_000
SOON_SECONDS = 3
"""A signal is obeyed within one second, mostly a tenth of it; the rest is a busy machine's."""
SMALL_CHUNKS = {"batch_size": 200}
EVERY_MODE = pytest.mark.parametrize("table", MODES.values(), ids=MODES)


def start(source: Database, target: Database, path: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [str(PROGRAM), "run", "--config", str(path)],
        env=clean_environment(environment(source, target)),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def wait_until(process: subprocess.Popen[bytes], is_time: Callable[[], bool]) -> None:
    """Waits for the condition; the process must not have ended before."""
    deadline = time.monotonic() + 60
    while not is_time():
        assert process.poll() is None, "the run ended too early"
        assert time.monotonic() < deadline
        time.sleep(0.002)


def kill_when(process: subprocess.Popen[bytes], is_time: Callable[[], bool]) -> None:
    """Kills the process as soon as the condition holds; it must not have ended before."""
    wait_until(process, is_time)
    process.send_signal(signal.SIGKILL)
    assert process.wait(timeout=10) == -signal.SIGKILL


def loaded_chunks(target: Database) -> int:
    if not target.execute("SELECT to_regclass('extract_load.leases')")[0][0]:
        return 0
    return int(
        target.execute(
            "SELECT (SELECT count(*) FROM extract_load.chunks)"
            " + (SELECT count(*) FROM extract_load_scratch.chunks)"
        )[0][0]
    )


@EVERY_MODE
def test_killed_in_a_first_load(
    source: Database, target: Database, table: dict[str, Any], tmp_path: Path
) -> None:
    create_items(source, ROWS)
    path = write_settings(tmp_path / "t.yml", {**table, **SMALL_CHUNKS, "target": RAW})

    kill_when(start(source, target, path), lambda: loaded_chunks(target) > 5)
    assert target.execute("SELECT to_regclass(%s)", (RAW,)) == [(None,)]
    change_items(source)
    result = land_one(source, target, table)

    assert result.baseline
    assert_equal(source, target, table)
    assert leftovers(target) == []


@EVERY_MODE
def test_killed_in_a_refresh(
    source: Database, target: Database, table: dict[str, Any], tmp_path: Path
) -> None:
    """The raw table keeps what it had until the next run publishes."""
    create_items(source, ROWS)
    land_one(source, target, table)
    before = target.execute(f"SELECT md5(string_agg(t::text, '' ORDER BY id)) FROM {RAW} AS t")
    change_items(source)
    path = write_settings(tmp_path / "t.yml", {**table, **SMALL_CHUNKS, "target": RAW})

    kill_when(start(source, target, path), lambda: loaded_chunks(target) > 5)
    assert before == target.execute(
        f"SELECT md5(string_agg(t::text, '' ORDER BY id)) FROM {RAW} AS t"
    )
    land_one(source, target, table)

    assert_equal(source, target, table)
    assert leftovers(target) == []


@EVERY_MODE
def test_killed_at_random_instants_while_the_source_moves(
    source: Database, target: Database, table: dict[str, Any], tmp_path: Path
) -> None:
    create_items(source, 5_000)
    path = write_settings(tmp_path / "t.yml", {**table, **SMALL_CHUNKS, "target": RAW})
    for number in range(6):
        process = start(source, target, path)
        time.sleep(random.uniform(0.15, 0.9))
        source.execute(
            f"UPDATE public.items SET amount = {number}, updated_at = now() WHERE id % 7 = {number}"
        )
        process.kill()
        process.wait(timeout=10)
        source.execute(f"DELETE FROM public.items WHERE id % 900 = {number}")

    land_one(source, target, table)

    assert_equal(source, target, table)
    assert leftovers(target) == []


@pytest.fixture
def _interruptible() -> Iterator[None]:
    """A shell's background job ignores SIGINT, and so would what it starts: be no such job."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_interruptible")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_run_with_its_status(
    source: Database, target: Database, number: signal.Signals, status: int, tmp_path: Path
) -> None:
    create_items(source, ROWS)
    source.execute(  # 30 seconds, however late a busy machine sends the signal
        "CREATE FUNCTION public.slow(bigint) RETURNS boolean LANGUAGE sql STABLE "
        "AS 'SELECT pg_sleep(0.001) IS NOT NULL'"
    )
    table = {**MODES["full"], "batch_size": 50, "custom_where": "public.slow(id)"}
    path = write_settings(tmp_path / "t.yml", {**table, "target": RAW})
    process = start(source, target, path)
    wait_until(process, lambda: loaded_chunks(target) >= 3)

    process.send_signal(number)

    assert process.wait(timeout=SOON_SECONDS) == status
    assert target.execute("SELECT to_regclass(%s)", (RAW,)) == [(None,)], "the run went on"
    ((told,),) = target.execute("SELECT error ->> 'primary' FROM extract_load.table_runs")
    assert told in {"the run was interrupted", None} or told.startswith("could not ")
    land_one(source, target, MODES["full"])
    assert_equal(source, target, MODES["full"])


def test_a_signal_ends_a_wait_for_the_lease(
    source: Database, target: Database, tmp_path: Path
) -> None:
    create_items(source, 100)
    land_one(source, target, MODES["full"])
    path = write_settings(tmp_path / "t.yml", {**MODES["full"], "target": RAW})
    holder = target.connect()
    with holder.cursor() as cursor:
        cursor.execute(
            "INSERT INTO extract_load.leases"
            " (target_schema, target_table, token, run_id, backend_pid, backend_start)"
            " SELECT 'raw_data', 'digitalocean_items', gen_random_uuid(), 'other', pid,"
            " backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid()"
        )
    process = start(source, target, path)
    waiting = "SELECT count(*) FROM extract_load.table_runs WHERE status = 'running'"
    wait_until(process, lambda: target.execute(waiting) == [(1,)])

    process.terminate()

    assert process.wait(timeout=SOON_SECONDS) == 143
    holder.close()


@pytest.mark.parametrize("side", ["source", "target"])
def test_a_signal_ends_a_run_whose_server_fell_silent(
    source: Database, target: Database, side: str, tmp_path: Path
) -> None:
    """A cancel request is taken no better than the statement: psycopg2's would stop all threads."""
    create_items(source, ROWS)
    path = write_settings(tmp_path / "t.yml", {**MODES["full"], **SMALL_CHUNKS, "target": RAW})
    servers = {"source": source, "target": target}
    with wire_to(servers[side].port) as wire:
        through = {**servers, side: replace(servers[side], port=wire.port)}
        process = start(through["source"], through["target"], path)
        wait_until(process, lambda: loaded_chunks(target) >= 3)
        wire.silent.set()

        process.terminate()

        assert process.wait(timeout=SOON_SECONDS) == 143


def test_a_signal_ends_a_wait_for_a_silent_server(
    source: Database, target: Database, tmp_path: Path
) -> None:
    """It takes the connection and says nothing: each attempt would last ten seconds."""
    create_items(source, 100)
    path = write_settings(tmp_path / "t.yml", {**MODES["full"], "target": RAW})
    with socket.create_server(("127.0.0.1", 0)) as silent:
        process = start(source, replace(target, port=silent.getsockname()[1]), path)
        silent.settimeout(20)
        connection, _ = silent.accept()

        process.terminate()

        assert process.wait(timeout=SOON_SECONDS) == 143
        connection.close()
