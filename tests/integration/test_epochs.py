"""xmin_incremental across 2^31 and 2^32 transactions: nothing lost, and nothing read for ever."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.embedded_server import EmbeddedServer
from tests.support.landing import assert_equal, land_one
from tests.support.own_servers import database_of, new_server, skip_transactions
from tests.support.servers import Database, fresh_database
from tests.support.tables import XMIN, create_items

pytestmark = pytest.mark.slow
EPOCH = 1 << 32


@pytest.fixture(scope="module")
def server(servers_directory: Path) -> Iterator[EmbeddedServer]:
    """A server of its own, whose transaction ids only go up."""
    server = new_server(servers_directory / "epochs")
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture
def items(server: EmbeddedServer) -> Iterator[Database]:
    with fresh_database(server, "source") as database:
        create_items(database, 1000)
        yield database


def next_xid(server: EmbeddedServer) -> int:
    ((xid,),) = database_of(server).execute("SELECT pg_current_xact_id()::text::bigint")
    return int(xid)


def change(items: Database) -> None:
    """Ten rows more, five others, two less."""
    items.execute(
        "INSERT INTO public.items SELECT -i, 'later', i FROM generate_series(1, 10) AS i;"
        "UPDATE public.items SET body = 'changed' WHERE id BETWEEN 100 AND 104;"
        "DELETE FROM public.items WHERE id IN (1, 2)"
    )


@pytest.mark.parametrize(
    "skipped",
    [
        pytest.param("to the next epoch", id="into the next epoch"),
        pytest.param(1 << 31, id="2^31"),
        pytest.param(EPOCH - 100_000, id="almost 2^32"),
    ],
)
def test_a_delta_holds_just_what_changed(
    skipped: int | str, server: EmbeddedServer, items: Database, target: Database
) -> None:
    """Frozen rows keep their xmin; the window is a distance, in whichever epoch it ends."""
    skip_transactions(server, 20_000)  # so that the next epoch is less than 2^32 away
    items.execute("UPDATE public.items SET body = body")  # else its rows are 2^32 behind its end
    land_one(items, target, XMIN)
    items.execute("VACUUM (FREEZE) public.items")
    count = skipped if isinstance(skipped, int) else EPOCH - next_xid(server) % EPOCH + 10_000
    skip_transactions(server, count)
    change(items)

    result = land_one(items, target, XMIN)
    assert not result.baseline
    assert result.rows_read == 15
    assert_equal(items, target, XMIN)

    assert land_one(items, target, XMIN).rows_read == 0
    assert_equal(items, target, XMIN)


def test_rows_of_an_older_epoch_that_look_new_change_nothing(
    server: EmbeddedServer, items: Database, target: Database
) -> None:
    """A tuple has 32 bits of its xid: the window of an epoch later covers those of this one."""
    items.execute("VACUUM (FREEZE) public.items")
    skip_transactions(server, EPOCH - 1_000)
    land_one(items, target, XMIN)
    skip_transactions(server, 2_000)
    change(items)

    result = land_one(items, target, XMIN)
    assert result.rows_read > 15
    assert (result.rows_inserted, result.rows_updated, result.rows_deleted) == (10, 5, 2)
    assert_equal(items, target, XMIN)


def test_a_watermark_older_than_an_epoch_is_a_baseline(
    server: EmbeddedServer, items: Database, target: Database
) -> None:
    land_one(items, target, XMIN)
    skip_transactions(server, EPOCH)
    change(items)

    result = land_one(items, target, XMIN)
    assert result.baseline
    assert (result.rows_inserted, result.rows_updated, result.rows_deleted) == (10, 5, 2)
    assert_equal(items, target, XMIN)


def test_a_first_load_holds_the_rows_of_every_epoch(
    server: EmbeddedServer, items: Database, target: Database
) -> None:
    """Their raw xmin may lie above the snapshot's: a baseline has no bound on it."""
    skip_transactions(server, EPOCH - next_xid(server) % EPOCH + 1_000)
    change(items)

    assert land_one(items, target, XMIN).rows_inserted == 1008
    assert_equal(items, target, XMIN)
