"""Statements that nobody waits for travel with the next one; what they do stays the same."""

import io
import re
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from psycopg2 import sql

from demo.embedded_server import EmbeddedServer
from extract_load.connection import Session
from extract_load.connection_parameters import resolve_connection
from extract_load.errors import TargetError, TargetUnavailable
from extract_load.sessions import SessionRegistry
from tests.support.landing import TARGET_ID, assert_equal, environment, land_one, session_on
from tests.support.servers import Database

ITEMS: dict[str, Any] = {
    "source": "public.items",
    "sync_mode": "full_sync",
    "batch_size": 1000,
    "parallel_workers": 1,
}


@pytest.fixture
def session(target: Database) -> Iterator[Session]:
    target.execute("CREATE TABLE public.notes (body text CHECK (body <> 'refused'))")
    with session_on(target, "target") as session:
        yield session


def notes(session: Session) -> list[str]:
    return [body for (body,) in session.execute("SELECT body FROM public.notes ORDER BY body")]


def note(body: str) -> sql.Composable:
    return sql.SQL("INSERT INTO public.notes VALUES ({})").format(sql.Literal(body))


def test_a_transaction_whose_statement_failed_unsaid_is_an_error(session: Session) -> None:
    """The server answers its COMMIT with ROLLBACK, and no error."""

    def keep_quiet() -> None:
        with session.transaction(doing="keep a note"):
            session.execute(note("kept"))
            with suppress(TargetError):
                session.execute(note("refused"))

    with pytest.raises(TargetError, match="could not keep a note") as caught:
        keep_quiet()

    assert "the server rolled the transaction back" in caught.value.detail
    assert notes(session) == []


def kinds(server: EmbeddedServer, before: int) -> Counter[str]:
    """What a server was sent since, by the first word of each message."""
    said = (Path(server.data_dir) / "server.log").read_bytes()[before:].decode()
    return Counter(text.split()[0].lower() for text in re.split(r"LOG:  statement: ", said)[1:])


def sent_for(
    rows: int, source: Database, target: Database, servers: tuple[EmbeddedServer, EmbeddedServer]
) -> tuple[int, Counter[str], Counter[str]]:
    """Chunks of a first load, and the messages it sent to source and target."""
    source.execute(
        "DROP TABLE IF EXISTS public.items; CREATE TABLE public.items (id int PRIMARY KEY);"
        f"INSERT INTO public.items SELECT i FROM generate_series(1, {rows}) AS i;"
        "ANALYZE public.items; CHECKPOINT"
    )
    target.execute("DROP SCHEMA IF EXISTS raw_data, extract_load, extract_load_scratch CASCADE")
    sizes = [(Path(server.data_dir) / "server.log").stat().st_size for server in servers]
    result = land_one(source, target, ITEMS)
    asked, told = map(kinds, servers, sizes)
    return result.chunks, asked, told


def test_a_chunk_costs_the_source_three_messages_and_the_target_four(
    source: Database,
    target: Database,
    source_server: EmbeddedServer,
    target_server: EmbeddedServer,
) -> None:
    """Locks, COPY, and locks freed; lease, claim, COPY, and checkpoint with COMMIT."""
    for database in (source, target):
        database.execute(f"ALTER DATABASE \"{database.name}\" SET log_statement = 'all'")
    servers = source_server, target_server
    few, asked_few, told_few = sent_for(5_000, source, target, servers)
    many, asked_many, told_many = sent_for(55_000, source, target, servers)
    more = many - few
    assert more > 50
    of_a_chunk = {"set": more, "copy": more, "rollback": more}
    assert rest(asked_many - asked_few, of_a_chunk) < more / 2
    of_a_chunk = {"begin": more, "insert": more, "copy": more, "update": more}
    assert rest(told_many - told_few, of_a_chunk) < more / 2


def rest(sent: Counter[str], of_chunks: dict[str, int]) -> int:
    """How many messages are none of those that chunks must have sent: they come by the clock."""
    assert Counter(of_chunks) <= sent
    return (sent - Counter(of_chunks)).total()


def test_a_deferred_statement_runs_before_the_next_one(session: Session) -> None:
    with session.transaction():
        session.defer(note("first"))
        session.defer(note("100 %"))
        found = session.execute("SELECT body, %(sign)s FROM public.notes ORDER BY 1", {"sign": "%"})
    assert found == [("100 %", "%"), ("first", "%")]


def test_a_deferred_statement_runs_before_a_copy(session: Session) -> None:
    with session.transaction():
        session.defer(note("first"))
        copied = session.copy(
            sql.SQL("COPY public.notes FROM STDIN"), io.BytesIO(b"second\nthird\n"), "copy"
        )
    assert copied == 2
    assert notes(session) == ["first", "second", "third"]


def test_a_deferred_statement_runs_before_commit(session: Session) -> None:
    with session.transaction():
        session.defer(note("last"))
    assert notes(session) == ["last"]


def test_what_fails_with_the_commit_takes_all_of_it_along(session: Session) -> None:
    def refuse() -> None:
        with session.transaction(doing="commit the notes"):
            session.execute(note("lost"))
            session.defer(note("refused"))

    with pytest.raises(TargetError, match="could not commit the notes") as failed:
        refuse()
    assert failed.value.sqlstate == "23514"
    assert notes(session) == []
    with session.transaction():
        session.execute(note("again"))
    assert notes(session) == ["again"]


def test_a_transaction_that_is_rolled_back_forgets_what_it_deferred(session: Session) -> None:
    def break_off() -> None:
        with session.transaction():
            session.defer(note("never"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        break_off()
    assert notes(session) == []


def test_what_a_statement_changed_does_not_count_what_was_deferred(session: Session) -> None:
    with session.transaction():
        session.defer(note("a"))
        session.defer(note("b"))
        assert session.change("DELETE FROM public.notes WHERE body = 'a'") == 1
    assert notes(session) == ["b"]


@pytest.mark.parametrize("setting", ["on", "off"])
def test_a_backslash_is_one_from_the_first_statement_on(target: Database, setting: str) -> None:
    """psycopg2 asks at login how texts are quoted; a server reads a whole message before a SET."""
    target.execute(f'ALTER DATABASE "{target.name}" SET standard_conforming_strings = {setting}')
    target.execute("CREATE TABLE public.notes (body text)")
    value = r"a\b\n"
    with session_on(target, "target") as session:
        for _ in range(2):
            with session.transaction():
                found = session.execute(r"SELECT %(value)s, 'a\b\n'", {"value": value})
                assert found == [(value, value)]
                session.defer(note(value))
        literal = sql.SQL("SELECT {}").format(sql.Literal(value))
        assert session.execute(literal) == [(value,)]
        assert notes(session) == [value, value]


def test_backslashes_of_a_custom_where_land_whatever_the_servers_default(
    source: Database, target: Database
) -> None:
    source.execute(
        "CREATE TABLE public.paths (id int PRIMARY KEY, path text);"
        r"INSERT INTO public.paths VALUES (1, E'c:\\new'), (2, E'c:\new'), (3, 'c:')"
    )
    for database in (source, target):
        database.execute(f'ALTER DATABASE "{database.name}" SET standard_conforming_strings = off')
    table = {
        "source": "public.paths",
        "sync_mode": "full_sync",
        "custom_where": r"path = 'c:\new'",
    }
    land_one(source, target, table)
    assert target.execute("SELECT id FROM raw_data.digitalocean_paths") == [(1,)]
    land_one(source, target, {"source": "public.paths", "sync_mode": "full_sync"})
    assert_equal(source, target, {"source": "public.paths"})


@pytest.fixture
def returned(source: Database, target: Database) -> Iterator[tuple[SessionRegistry, Session]]:
    """Sessions of a run, and one that was given back just now, whose server ended it."""
    registry = SessionRegistry("extract-load of a test")
    session = registry.borrow(resolve_connection(TARGET_ID, environment(source, target)))
    target.execute(f"SELECT pg_terminate_backend({session.backend_pid}, 5000)")
    registry.give_back(session)
    yield registry, session
    registry.close_idle()


def test_a_session_given_back_just_now_is_not_asked_whether_it_works(
    returned: tuple[SessionRegistry, Session],
) -> None:
    registry, dead = returned
    with registry.borrow(dead.parameters) as session:
        assert session is dead


@pytest.mark.parametrize("why", ["a second ago", "another failed", "another failed before"])
def test_a_session_that_died_is_replaced(
    returned: tuple[SessionRegistry, Session], why: str
) -> None:
    registry, dead = returned
    if why == "a second ago":
        time.sleep(1.1)
    else:
        registry.doubt(dead.parameters)
    if why == "another failed before":
        registry.close(registry.borrow(dead.parameters))
        registry.give_back(dead)
    with registry.borrow(dead.parameters) as session:
        assert session is not dead
        assert session.is_alive()


def test_a_name_is_quoted_by_a_connection_that_lives(session: Session) -> None:
    """So a snapshot that ended is told as that, not as a fault of the program."""
    session.close()
    with pytest.raises(TargetUnavailable):
        session.defer(sql.SQL("SET LOCAL {} = 1").format(sql.Identifier("statement_timeout")))
    with pytest.raises(TargetUnavailable), session.transaction():
        pass
