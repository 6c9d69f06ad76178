"""A source that crashes takes back commits it had shown: no chunk may hold one for good.

An asynchronous commit is visible before it is on disk. After a crash it is gone, and its
transaction id is given to another row, which then looks as if it had been read.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from demo.embedded_server import EmbeddedServer
from tests.support.interrupted import BrokenOffError
from tests.support.landing import assert_equal, land, land_one
from tests.support.own_servers import crash, database_of, new_server, wait_for
from tests.support.servers import Database
from tests.support.tables import FULL, MODES, create_items

SMALL = {"batch_size": 200}


@pytest.fixture
def server(servers_directory: Path, request: pytest.FixtureRequest) -> Iterator[EmbeddedServer]:
    """A source that writes its WAL late, with room beside each row for its next version."""
    directory = servers_directory / f"lost-{abs(hash(request.node.name))}"
    late = {"synchronous_commit": "off", "wal_writer_delay": "10s", "autovacuum": "off"}
    made = new_server(directory, late)
    try:
        source = database_of(made)
        create_items(source, 2000)
        for statement in (
            "ALTER TABLE public.items SET (fillfactor = 50)",
            "VACUUM FULL public.items",
            "CREATE TABLE public.filler (line text)",
            "CHECKPOINT",
        ):
            source.execute(statement)
        yield made
    finally:
        made.stop()


def show_what_a_crash_takes_back(source: Database) -> None:
    def is_flushed() -> bool:
        query = "SELECT pg_current_wal_flush_lsn() >= pg_current_wal_insert_lsn()"
        return source.execute(query) == [(True,)]

    source.execute("SELECT pg_current_xact_id()")
    wait_for(is_flushed, "a quiet WAL")
    source.execute("UPDATE public.items SET body = 'lost', updated_at = now() WHERE id = 5")


def restart_and_go_on(server: EmbeddedServer) -> None:
    """The lost transaction's id goes to another row, and the WAL gets past where it was."""
    crash(server)
    server.start()
    source = database_of(server)
    source.execute("UPDATE public.items SET body = 'kept', updated_at = now() WHERE id = 6")
    source.execute(
        "INSERT INTO public.filler SELECT repeat('x', 1000) FROM generate_series(1, 3000)"
    )


@pytest.mark.parametrize("table", MODES.values(), ids=MODES)
def test_the_next_run_publishes_no_lost_commit(
    table: dict[str, Any], server: EmbeddedServer, target: Database
) -> None:
    source = database_of(server)
    show_what_a_crash_takes_back(source)

    def end(chunks: int) -> None:
        if chunks == 4:
            restart_and_go_on(server)
            raise BrokenOffError

    land(source, target, {**table, **SMALL}, after_chunk=end)
    land_one(source, target, {**table, **SMALL})

    assert_equal(source, target, table)


def test_a_run_that_goes_on_by_itself_publishes_no_lost_commit(
    server: EmbeddedServer, target: Database
) -> None:
    source = database_of(server)
    show_what_a_crash_takes_back(source)
    harmed: list[int] = []

    def harm(chunks: int) -> None:
        if chunks == 4 and not harmed:
            harmed.append(chunks)
            restart_and_go_on(server)

    assert land(source, target, {**FULL, **SMALL}, after_chunk=harm).tables[0].error is None
    assert_equal(source, target, FULL)
