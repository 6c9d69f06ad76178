"""A watermark counts for one server, timeline and database; what replaced them is read whole."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from demo.embedded_server import EmbeddedServer
from extract_load.report import TableResult
from tests.support.landing import assert_equal, land, land_one
from tests.support.own_servers import (
    catch_up,
    cold_copy,
    database_of,
    follow,
    new_server,
    standby_of,
    wait_for,
)
from tests.support.servers import Database
from tests.support.tables import MODES, XMIN, create_items

pytestmark = pytest.mark.slow  # servers are made, copied and started: two seconds each
EVERY_MODE = pytest.mark.parametrize("table", MODES.values(), ids=MODES)
LATER = "INSERT INTO public.items SELECT -i, 'later', i FROM generate_series(1, 10) AS i"
OTHERS = "INSERT INTO public.items SELECT -i, 'others', i FROM generate_series(11, 30) AS i"
IDENTITY = "the source is another server, timeline or database"


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """Stops the servers of a test."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def primary(
    tmp_path_factory: pytest.TempPathFactory, servers_directory: Path, stack: ExitStack
) -> EmbeddedServer:
    """A server of the test's own, with 1000 items in its database `postgres`."""
    directory = servers_directory / tmp_path_factory.mktemp("primary").name
    server = new_server(directory)
    stack.callback(server.stop)
    create_items(database_of(server), 1000)
    return server


@pytest.fixture
def standby(primary: EmbeddedServer, stack: ExitStack) -> EmbeddedServer:
    server = standby_of(primary, primary.data_dir.with_name(primary.data_dir.name + "-standby"))
    stack.callback(server.stop)
    return server


def land_and_tell_why(
    source: Database, target: Database, table: dict[str, str], caplog: pytest.LogCaptureFixture
) -> tuple[TableResult, str]:
    """Returns the result of a landing, and why it read the whole table, or `delta`."""
    caplog.clear()
    with caplog.at_level("INFO", "extract_load"):
        result = land_one(source, target, table)
    (planned,) = [record for record in caplog.records if record.message == "planned"]
    return result, str(planned.__dict__["why"])


@EVERY_MODE
def test_a_restored_server_is_read_whole(
    table: dict[str, str],
    primary: EmbeddedServer,
    target: Database,
    caplog: pytest.LogCaptureFixture,
    stack: ExitStack,
) -> None:
    """A copy of the data directory: same identifier, same timeline, and its WAL goes back."""
    primary.stop()
    copy = cold_copy(primary, primary.data_dir.with_name(primary.data_dir.name + "-copy"))
    stack.callback(copy.stop)
    primary.start()
    database_of(primary).execute(LATER)
    land_one(database_of(primary), target, table)
    primary.stop()
    copy.start()
    database_of(copy).execute("UPDATE public.items SET body = 'since' WHERE id = 5")

    result, why = land_and_tell_why(database_of(copy), target, table, caplog)

    assert why == "the source was restored to an earlier point"
    assert (result.rows_updated, result.rows_deleted) == (1, 10)
    assert_equal(database_of(copy), target, table)


def test_transaction_ids_that_went_back_are_noticed_where_the_wal_did_not(
    primary: EmbeddedServer,
    target: Database,
    caplog: pytest.LogCaptureFixture,
    stack: ExitStack,
) -> None:
    """A restored server that has written more since than was lost, in fewer transactions."""
    primary.stop()
    copy = cold_copy(primary, primary.data_dir.with_name(primary.data_dir.name + "-copy"))
    stack.callback(copy.stop)
    primary.start()
    source = database_of(primary)
    for _ in range(50):
        source.execute("UPDATE public.items SET body = 'lost' WHERE id = 5")
    land_one(source, target, XMIN)
    primary.stop()
    copy.start()
    source = database_of(copy)
    source.execute(LATER)
    for _ in range(3):
        source.execute("SELECT pg_switch_wal(); CREATE TEMP TABLE t (); CHECKPOINT")

    result, why = land_and_tell_why(source, target, XMIN, caplog)

    assert why == "the source's transaction ids went back"
    assert (result.rows_inserted, result.rows_updated) == (10, 1)
    assert_equal(source, target, XMIN)


@EVERY_MODE
def test_a_promoted_standby_that_lost_commits_is_read_whole(
    table: dict[str, str],
    primary: EmbeddedServer,
    standby: EmbeddedServer,
    target: Database,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Same identifier, and it gave the lost transactions' ids out again: other rows have them."""
    theirs = database_of(standby)
    catch_up(database_of(primary), theirs)
    theirs.execute("SELECT pg_wal_replay_pause()")
    wait_for(
        lambda: theirs.execute("SELECT pg_get_wal_replay_pause_state()") == [("paused",)], "pause"
    )
    standby.stop()
    database_of(primary).execute(LATER)
    land_one(database_of(primary), target, table)
    primary.stop()
    standby.start()
    theirs.execute("SELECT pg_promote()")
    theirs.execute(OTHERS)

    result, why = land_and_tell_why(theirs, target, table, caplog)

    assert why == IDENTITY
    assert (result.rows_inserted, result.rows_deleted) == (20, 10)
    assert_equal(theirs, target, table)


def test_a_standby_that_follows_a_promoted_one_is_read_whole(
    primary: EmbeddedServer,
    standby: EmbeddedServer,
    target: Database,
    caplog: pytest.LogCaptureFixture,
    stack: ExitStack,
) -> None:
    """Up to its next restartpoint its control file has the timeline of before."""
    other = standby_of(primary, primary.data_dir.with_name(primary.data_dir.name + "-other"))
    stack.callback(other.stop)
    for each in (standby, other):
        catch_up(database_of(primary), database_of(each))
    land_one(database_of(other), target, XMIN)
    primary.stop()
    other.stop()
    promoted = database_of(standby)
    promoted.execute("SELECT pg_promote()")
    follow(other, standby)
    promoted.execute(OTHERS)
    catch_up(promoted, database_of(other))
    control = "SELECT timeline_id FROM pg_control_checkpoint()"
    assert database_of(other).execute(control) == [(1,)]

    result, why = land_and_tell_why(database_of(other), target, XMIN, caplog)

    assert why == IDENTITY
    assert result.rows_inserted == 20
    assert_equal(promoted, target, XMIN)
    assert not land_one(promoted, target, XMIN).baseline


def test_another_database_of_the_server_is_read_whole(
    primary: EmbeddedServer, target: Database, caplog: pytest.LogCaptureFixture
) -> None:
    """Its table may even have the same OID, where it is a copy."""
    source = database_of(primary)
    land_one(source, target, XMIN)
    other = replace(source, name="other")
    database_of(primary, "template1").execute("CREATE DATABASE other TEMPLATE postgres")
    other.execute("UPDATE public.items SET body = 'other' WHERE id = 5")

    result, why = land_and_tell_why(other, target, XMIN, caplog)

    assert why == IDENTITY
    assert result.rows_updated == 1
    assert_equal(other, target, XMIN)


@EVERY_MODE
def test_a_standby_is_a_source(
    table: dict[str, str], primary: EmbeddedServer, standby: EmbeddedServer, target: Database
) -> None:
    """Its watermark counts on the primary too, and the other way round: they are one history."""
    source, replica = database_of(primary), database_of(standby)
    catch_up(source, replica)
    land_one(replica, target, table)
    source.execute(LATER)
    assert land_one(source, target, table).rows_inserted == 10
    source.execute(
        "DELETE FROM public.items WHERE id = -3; UPDATE public.items SET amount = 1.5,"
        " updated_at = now() WHERE id = 7"
    )
    catch_up(source, replica)
    result = land_one(replica, target, table)

    assert (result.rows_updated, result.rows_deleted) == (1, 1)
    assert_equal(replica, target, table)
    assert not result.baseline


@EVERY_MODE
def test_a_standby_behind_what_is_published_is_late_not_restored(
    table: dict[str, str], primary: EmbeddedServer, standby: EmbeddedServer, target: Database
) -> None:
    source, replica = database_of(primary), database_of(standby)
    catch_up(source, replica)
    replica.execute("SELECT pg_wal_replay_pause()")
    source.execute(LATER)
    land_one(source, target, table)
    (late,) = land(replica, target, table).tables

    assert late.error is not None
    assert late.error.primary == 'standby "digitalocean_postgres" is behind what is published'
    assert "Nothing was published." in late.error.detail
    assert late.error.retryable
    assert_equal(source, target, table)

    replica.execute("SELECT pg_wal_replay_resume()")
    catch_up(source, replica)
    result = land_one(replica, target, table)
    assert (result.rows_inserted, result.rows_updated, result.rows_deleted) == (0, 0, 0)


@EVERY_MODE
def test_a_recovery_conflict_costs_a_repair(
    table: dict[str, str], primary: EmbeddedServer, standby: EmbeddedServer, target: Database
) -> None:
    """Replay waits for nobody here: what VACUUM removed, our snapshot can no longer read."""
    source, replica = database_of(primary), database_of(standby)
    catch_up(source, replica)

    def vacuum(chunks: int) -> None:
        if chunks == 1:
            source.execute("DELETE FROM public.items WHERE id % 2 = 0")
            seen = "SELECT count(*) FROM pg_stat_activity WHERE backend_xmin IS NOT NULL"
            others = f"{seen} AND pid <> pg_backend_pid()"
            wait_for(lambda: source.execute(others) == [(0,)], "others' snapshots")
            source.execute("VACUUM public.items")
            catch_up(source, replica)

    (result,) = land(replica, target, {**table, "batch_size": 100}, after_chunk=vacuum).tables

    assert result.error is None
    assert result.retries > 0
    assert_equal(replica, target, table)
