"""Asynchronous commits: what is published is on the source's disk, also after a crash."""

import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from demo.embedded_server import EmbeddedServer
from extract_load import observer
from tests.support.landing import assert_equal, land, land_one
from tests.support.own_servers import crash, database_of, new_server, wait_for
from tests.support.servers import Database
from tests.support.tables import MODES, RAW, create_items

pytestmark = pytest.mark.slow
EVERY_MODE = pytest.mark.parametrize("table", MODES.values(), ids=MODES)
ASYNCHRONOUS = {"synchronous_commit": "off", "wal_writer_delay": "5s", "autovacuum": "off"}


@pytest.fixture
def server(
    tmp_path_factory: pytest.TempPathFactory, servers_directory: Path
) -> Iterator[EmbeddedServer]:
    """A server that answers COMMIT before it has written anything."""
    directory = servers_directory / tmp_path_factory.mktemp("asynchronous").name
    server = new_server(directory, ASYNCHRONOUS)
    try:
        create_items(database_of(server), 1000)
        yield server
    finally:
        server.stop()


def is_flushed(source: Database) -> bool:
    query = "SELECT pg_current_wal_flush_lsn() >= pg_current_wal_insert_lsn()"
    return bool(source.execute(query)[0][0])


@EVERY_MODE
def test_a_crash_of_the_source_takes_nothing_back_that_was_published(
    table: dict[str, str], server: EmbeddedServer, target: Database
) -> None:
    """The row would be gone, its transaction id given out again: the target would keep it."""
    source = database_of(server)
    land_one(source, target, table)
    source.execute("SELECT pg_current_xact_id()")
    wait_for(lambda: is_flushed(source), "a quiet WAL")
    source.execute("INSERT INTO public.items SELECT -1, 'asynchronous', 1")
    is_at_risk = not is_flushed(source)
    assert land_one(source, target, table).rows_inserted == 1
    crash(server)
    server.start()

    assert is_at_risk, "the insert was flushed at once: nothing was proved"
    assert source.execute("SELECT body FROM public.items WHERE id = -1") == [("asynchronous",)]
    land_one(source, target, table)
    assert_equal(source, target, table)


def test_a_source_that_writes_no_wal_is_not_published(
    server: EmbeddedServer, target: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(observer, "_FLUSH_WAIT_SECONDS", 1.0)
    source = database_of(server)
    writer = next(
        process
        for process in psutil.Process(server.pid).children()
        if "walwriter" in "".join(process.cmdline())
    )
    writer.send_signal(signal.SIGSTOP)
    try:
        source.execute("INSERT INTO public.items SELECT -1, 'asynchronous', 1")
        (result,) = land(source, target, MODES["xmin"]).tables
    finally:
        writer.send_signal(signal.SIGCONT)

    assert result.error is not None
    assert result.error.primary == "the source has not written its WAL to disk"
    assert "was not flushed within 1 s. Nothing was published." in result.error.detail
    assert result.error.hint == "Look for a stuck disk on the source, then run again."
    assert result.error.retryable
    assert target.execute("SELECT to_regclass(%s)", (RAW,)) == [(None,)]
    monkeypatch.undo()
    land_one(source, target, MODES["xmin"])
    assert_equal(source, target, MODES["xmin"])
