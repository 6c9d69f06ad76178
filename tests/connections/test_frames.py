"""COPY's messages between real servers, below libpq: over a plain socket, and through TLS."""

import io
import random
import threading
from collections.abc import Callable, Iterator

import psycopg2
import pytest
from psycopg2 import sql

from demo.embedded_server import EmbeddedServer
from extract_load.connection import READ_CONSISTENT, Session
from extract_load.connection_parameters import resolve_connection
from extract_load.copy_frames import FramesOut, GoneWithAll, Write
from extract_load.errors import (
    ExtractLoadError,
    SourceError,
    SourceUnavailable,
    TargetError,
    TargetUnavailable,
)
from extract_load.server_messages import PROTOCOL_VIOLATION
from tests.connections.conftest import Elsewhere
from tests.support.servers import Database, fresh_database
from tests.support.ways import ANYWHERE

INTO = sql.SQL("COPY public.t FROM STDIN (FORMAT binary)")
ROWS = "SELECT i, repeat(md5(i::text), i % 50) FROM generate_series(1, {}) AS i"
MANY = 300_000

Pair = tuple[Session, Session]


@pytest.fixture(params=["own_server", "tls_server"], ids=["plain", "TLS"])
def databases(request: pytest.FixtureRequest) -> Iterator[tuple[Database, Database]]:
    server: EmbeddedServer = request.getfixturevalue(request.param)
    query = "sslmode=" + ("require" if request.param == "tls_server" else "disable")
    with fresh_database(server, "source") as source, fresh_database(server, "target") as target:
        target.execute("CREATE TABLE public.t (i int NOT NULL, body text CHECK (body <> 'no'))")
        yield (
            Elsewhere(**vars(source), said_host=ANYWHERE, query=query),
            Elsewhere(**vars(target), said_host=ANYWHERE, query=query),
        )


@pytest.fixture
def pair(databases: tuple[Database, Database]) -> Iterator[Pair]:
    source, target = (resolve_connection("one", {"AIRFLOW_CONN_ONE": d.uri}) for d in databases)
    with Session(source, "source") as reader, Session(target, "target") as session:
        assert reader.is_encrypted == session.is_encrypted == (source.sslmode == "require")
        assert reader.has_wire
        assert session.has_wire
        reader.begin(READ_CONSISTENT)
        yield reader, session


def moved(
    pair: Pair, rows: str, before_block: Callable[[int], object] = lambda _: None
) -> FramesOut:
    """Copies the rows of a query in one transaction of the target's."""
    reader, session = pair
    query = sql.SQL("COPY ({}) TO STDOUT (FORMAT binary)").format(sql.SQL(rows))

    def passing(frames: FramesOut) -> Callable[[Write], None]:
        def write(send: Write, data: memoryview) -> None:
            before_block(len(data))
            send(data)

        return lambda send: frames.pass_on(lambda data: write(send, data))

    with session.transaction(), reader.frames_out(query, "read") as frames:
        assert session.take_frames(INTO, passing(frames), "write") == frames.rows
    return frames


def at_block(number: int, action: Callable[[], object]) -> Callable[[int], None]:
    """Does something before a block, counted from 1."""
    blocks = iter(range(1, 1 << 30))

    def look(_size: int) -> None:
        if next(blocks) == number:
            action()

    return look


def digest(database: Database, rows: str) -> object:
    whole = f"SELECT count(*), md5(string_agg(i || body, ',' ORDER BY i)) FROM ({rows}) AS t"
    return database.execute(whole)


def end_backend(database: Database, pid: int) -> None:
    database.execute(f"SELECT pg_terminate_backend({pid}, 5000)")


def test_all_rows_arrive_as_they_are(databases: tuple[Database, Database], pair: Pair) -> None:
    source, target = databases
    rows = ROWS.format(20_000) + " UNION ALL SELECT 0, repeat('large', 1000000)"

    frames = moved(pair, rows)

    assert frames.rows == 20_001
    assert digest(target, "TABLE t") == digest(source, f"SELECT * FROM ({rows}) AS r (i, body)")


def test_bytes_are_those_of_the_copy(databases: tuple[Database, Database], pair: Pair) -> None:
    """As many as who reads it through libpq gets."""
    source, _ = databases
    rows = ROWS.format(1000)
    with psycopg2.connect(source.uri) as connection, connection.cursor() as cursor:
        copied = io.BytesIO()
        cursor.copy_expert(f"COPY ({rows}) TO STDOUT (FORMAT binary)", copied)

    assert moved(pair, rows).bytes == len(copied.getvalue())


def test_a_session_copies_again_and_again(databases: tuple[Database, Database], pair: Pair) -> None:
    _, target = databases
    for rows in (0, 1, 500, 0):
        assert moved(pair, ROWS.format(rows)).rows == rows
    assert target.execute("SELECT count(*) FROM t") == [(501,)]


def test_a_query_that_cannot_run_is_the_sources_error(pair: Pair) -> None:
    with pytest.raises(SourceError, match='column "nowhere" does not exist') as caught:
        moved(pair, "SELECT nowhere")
    assert caught.value.sqlstate == "42703"
    goes_on(pair[0])


@pytest.mark.parametrize("rows", ["1 / (5 - i)", "1 / (90000 - i)"], ids=["first", "later"])
def test_an_error_between_rows_is_the_sources(
    rows: str, databases: tuple[Database, Database], pair: Pair
) -> None:
    _, target = databases
    query = f"SELECT {rows}, repeat('x', 100) FROM generate_series(1, 100000) AS i"

    with pytest.raises(SourceError, match="division by zero") as caught:
        moved(pair, query)

    assert caught.value.sqlstate == "22012"
    assert target.execute("SELECT count(*) FROM t") == [(0,)]
    goes_on(pair[0])


def goes_on(reader: Session) -> None:
    """Libpq and the server agree on where they are."""
    reader.roll_back()
    assert reader.execute("SELECT 42") == [(42,)]


def test_a_cancelled_read_ends_at_once_and_its_session_goes_on(pair: Pair) -> None:
    reader, _ = pair

    with pytest.raises(SourceError, match="canceling statement") as caught:
        moved(pair, ROWS.format(MANY), at_block(3, reader.cancel))

    assert caught.value.sqlstate == "57014"
    goes_on(reader)


def test_a_source_that_is_ended_leaves_no_row(
    databases: tuple[Database, Database], pair: Pair
) -> None:
    source, target = databases
    pid = pair[0].backend_pid

    with pytest.raises(SourceUnavailable):
        moved(pair, ROWS.format(MANY), at_block(3, lambda: end_backend(source, pid)))

    assert target.execute("SELECT count(*) FROM t") == [(0,)]


def test_a_target_that_is_ended_is_told_of(
    databases: tuple[Database, Database], pair: Pair
) -> None:
    _, target = databases
    pid = pair[1].backend_pid

    with pytest.raises(TargetUnavailable, match=r"57P01|terminat|closed"):
        moved(pair, ROWS.format(MANY), at_block(3, lambda: end_backend(target, pid)))


def test_after_a_target_was_cut_nothing_is_passed_on(pair: Pair) -> None:
    """libpq, by which TLS writes, takes all bytes for a connection that is gone."""
    blocks: list[int] = []
    cut = at_block(3, pair[1].sever)

    def count(size: int) -> None:
        blocks.append(size)
        cut(size)

    with pytest.raises(TargetUnavailable):
        moved(pair, ROWS.format(MANY), count)
    assert len(blocks) == 3


def test_a_target_that_refuses_a_row_is_not_sent_the_rest(pair: Pair) -> None:
    """And what it said is told, with the column; the value is not."""
    sent: list[int] = []
    rows = "SELECT 1, 'no' UNION ALL " + ROWS.format(MANY)

    with pytest.raises(TargetError, match="violates check constraint") as caught:
        moved(pair, rows, sent.append)

    assert caught.value.sqlstate == "23514"
    assert sum(sent) < 40 << 20, "of 235 MB; the system holds some"


def test_a_message_that_is_no_row_may_be_told_as_a_target_that_went(pair: Pair) -> None:
    """It refuses it, and goes; where it has all by then, psycopg2 says only that it went."""
    notice = memoryview(bytearray(b"N\0\0\0\x0bMhello\0"))
    _, session = pair

    with pytest.raises(TargetUnavailable) as caught, session.transaction():
        session.take_frames(INTO, lambda write: write(notice), "copy")

    said_why = caught.value.sqlstate == PROTOCOL_VIOLATION
    assert said_why or isinstance(caught.value.__cause__, GoneWithAll)


def test_a_null_where_none_may_stand_names_its_column(pair: Pair) -> None:
    with pytest.raises(TargetError, match='null value in column "i"'):
        moved(pair, "SELECT NULL::int, 'x'")


@pytest.mark.parametrize("seed", range(12))
def test_whichever_side_is_cut_whenever_no_row_stays(
    seed: int, databases: tuple[Database, Database], pair: Pair
) -> None:
    _, target = databases
    chance = random.Random(seed)
    cut = chance.choice(pair)

    def later() -> None:
        """While bytes are waited for, or sent."""
        threading.Timer(chance.uniform(0.0, 0.01), cut.sever).start()

    with pytest.raises(ExtractLoadError):
        moved(pair, ROWS.format(MANY), at_block(chance.randrange(1, 60), later))

    assert target.execute("SELECT count(*) FROM t") == [(0,)]


def test_an_interrupted_pass_leaves_neither_session_in_between(
    databases: tuple[Database, Database], pair: Pair
) -> None:
    _, target = databases

    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        moved(pair, ROWS.format(MANY), at_block(2, interrupt))

    for session in pair:
        assert not session.is_alive()
    assert target.execute("SELECT count(*) FROM t") == [(0,)]
