"""Sessions: one psycopg2 connection each, in transactions that say how long they may wait.

Settings are made with SET LOCAL inside each transaction, because a transaction-pooling PgBouncer
hands the next transaction to another server session, and an older one refuses `options=` in a DSN
(`login` makes one that way, where a server needs it).
"""

import fcntl
import struct
import termios
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self, TypeVar

import psycopg2
from psycopg2 import sql

from extract_load.cancel_request import CancelRequest
from extract_load.connection_parameters import (
    ConnectionParameters,
    Resolver,
    resolve_connection,
)
from extract_load.copy_frames import FramesIn, FramesOut, PassOn
from extract_load.errors import ExtractLoadError
from extract_load.login import log_in
from extract_load.retry import CONNECT_ATTEMPTS, Side, attempt, error_from
from extract_load.server_messages import ROOM_BYTES
from extract_load.wire import Wire, has_wire, wire_of

COPY_READ_BYTES = 1 << 18
"""What psycopg2 asks the reader of a COPY FROM for at a time."""

READ_CONSISTENT = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
WRITE = "BEGIN ISOLATION LEVEL READ COMMITTED"
WRITE_CONSISTENT = "BEGIN ISOLATION LEVEL REPEATABLE READ"

Query = str | sql.Composable
Row = tuple[Any, ...]
Answer = TypeVar("Answer")

_PINNED = {
    # One text form of every value, whatever the servers' defaults: `digests` compares texts.
    "datestyle": "ISO, MDY",
    "intervalstyle": "postgres",
    "timezone": "UTC",
    "extra_float_digits": "3",
    "bytea_output": "hex",
    "lc_monetary": "C",
    "client_encoding": "UTF8",
    "standard_conforming_strings": "on",
    # How the target reads texts: or a NULL element becomes the word, and XML fragments fail.
    "array_nulls": "on",
    "xmloption": "content",
    # Our own SQL names every schema; pg_catalog is always searched first.
    "search_path": "",
    # No message between the rows of a COPY.
    "client_min_messages": "error",
    # Fail rather than be shown fewer rows.
    "row_security": "off",
}
_SINCE_17 = {
    # The other limits know what they limit; this one ends every long publish in the same place.
    "transaction_timeout": "0",
}
_LIMITS: dict[Side, dict[str, str]] = {
    "source": {
        "statement_timeout": "2h",
        "lock_timeout": "10s",
        "idle_in_transaction_session_timeout": "15min",
        "tcp_user_timeout": "60s",
    },
    "target": {
        "statement_timeout": "2h",
        "lock_timeout": "30s",
        "idle_in_transaction_session_timeout": "15min",
        "tcp_user_timeout": "60s",
    },
    "server": {"statement_timeout": "10s"},
}


NOT_DURABLE = {"synchronous_commit": "off"}
"""For what a publish builds on: WAL is flushed in order, so its own COMMIT makes all of it durable
(manual, 30.4). What a crash takes before then, it takes together with the session that goes on."""

MERGES = {"random_page_cost": "1.1"}
"""For joins of few landed rows with a large raw table, whose pages are read for the change anyway.
By its default of 4 the whole table is read (20 000 rows into a million: 1.25 s, so 0.6 s)."""


@dataclass(frozen=True)
class ServerTransaction:
    """A transaction as its server knows it."""

    pid: int
    """The backend that runs it."""
    backend_start: str
    """When that began: process ids come again."""
    xid: str


class Session:
    """One connection to one server.

    Statements outside a `transaction` commit by themselves. Every error psycopg2 raises leaves
    here as an `ExtractLoadError`.
    """

    def __init__(
        self,
        parameters: ConnectionParameters,
        side: Side,
        name: str = "extract-load",
        attempts: int = CONNECT_ATTEMPTS,
    ) -> None:
        """Connects, trying again for about two seconds while the server cannot be reached.

        Args:
            parameters: Where to.
            side: What the server is to the run.
            name: The session's application_name.
            attempts: How often to try.

        Raises:
            SourceUnavailable: Or TargetUnavailable, if nobody answered.
            SourceError: Or TargetError, if the server answered and refused.
        """
        self.parameters = parameters
        self.side = side
        self._is_ended = False
        self._answers: dict[Callable[[Session], Any], Any] = {}
        self._begins: dict[Hashable, str] = {}
        """Texts of transactions it has begun: to write one takes as long as to send it."""
        self._deferred: list[str] = []
        """What is sent with the next statement."""
        self.held_in: ServerTransaction | None = None
        """The last transaction that held a lease; it may go on where the connection is lost."""
        self._raw = attempt(lambda: log_in(parameters, side, name), attempts=attempts)
        self._raw.autocommit = True
        self._cancel_request = CancelRequest(self._raw)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection; an open transaction is rolled back by the server."""
        with suppress(psycopg2.Error):
            self._raw.close()

    @property
    def backend_pid(self) -> int:
        """The process that serves the connection, as it was told at login."""
        return int(self._raw.info.backend_pid)

    def is_pooled(self) -> bool:
        """Returns whether a pooler stands between: another process serves us than was told."""
        return self.serving_pid() != self.backend_pid

    def serving_pid(self) -> int:
        """Returns the process that serves the connection now; behind a pooler in a transaction."""
        ((pid,),) = self.execute("SELECT pg_catalog.pg_backend_pid()", doing="ask who serves")
        return int(pid)

    @property
    def is_encrypted(self) -> bool:
        """Whether TLS is in use, up to the server or to a pooler before it."""
        return bool(self._raw.info.ssl_in_use)

    def remembered(self, read: Callable[["Session"], Answer]) -> Answer:
        """Returns what a question was answered with before: for what stays as long as a run."""
        if read not in self._answers:
            self._answers[read] = read(self)
        answer: Answer = self._answers[read]
        return answer

    def is_alive(self) -> bool:
        """Returns whether the server still answers on this connection."""
        try:
            self.execute("SELECT 1")
        except ExtractLoadError:
            return False
        return True

    def forbid(self) -> None:
        """Lets no further statement begin, from another thread; rolling back stays possible."""
        self._is_ended = True

    def cancel(self) -> None:
        """Ends the statement that runs now, from another thread."""
        self._cancel_request.send()

    @property
    def unsent_bytes(self) -> int:
        """What the system took for the server and could not deliver yet (tcp(7), SIOCOUTQ)."""
        try:
            found = fcntl.ioctl(self._raw.fileno(), termios.TIOCOUTQ, b"\0" * 4)
        except (psycopg2.Error, OSError, ValueError):  # closed, or no file any more
            return 0
        return int(struct.unpack("i", found)[0])

    def sever(self) -> None:
        """Cuts the connection, from any thread: what waits on it fails at once."""
        with suppress(psycopg2.Error, OSError), closing(Wire(self._raw)) as wire:
            wire.cut()

    def execute(
        self, query: Query, arguments: Mapping[str, Any] | None = None, doing: str = "run a query"
    ) -> list[Row]:
        """Returns the rows of a statement; an empty list where it has none.

        Args:
            query: SQL. With arguments, every percent sign of its own is doubled: statements
                that hold names or predicates take literals instead.
            arguments: Values for `%(name)s`.
            doing: For the error message: "could not <doing>".
        """
        with self._translated(doing), self._raw.cursor() as cursor:
            cursor.execute(self._with_deferred(cursor, query, arguments))
            return cursor.fetchall() if cursor.description else []

    def change(
        self, query: Query, arguments: Mapping[str, Any] | None = None, doing: str = "change rows"
    ) -> int:
        """Returns how many rows a statement changed. Arguments as in `execute`."""
        with self._translated(doing), self._raw.cursor() as cursor:
            cursor.execute(self._with_deferred(cursor, query, arguments))
            return int(cursor.rowcount)

    def copy(self, query: sql.Composable, stream: Any, doing: str) -> int:
        """Returns how many rows a COPY moved between the server and a file-like stream."""
        with self._translated(doing), self._raw.cursor() as cursor:
            cursor.copy_expert(self._with_deferred(cursor, query), stream, COPY_READ_BYTES)
            return int(cursor.rowcount)

    @property
    def has_wire(self) -> bool:
        """Whether `frames_out` and `take_frames` are possible on this connection."""
        return has_wire(self._raw)

    @cached_property
    def _room(self) -> bytearray:
        """Where blocks come in: new memory for each COPY would take longer than to ask for it."""
        return bytearray(ROOM_BYTES)

    @contextmanager
    def frames_out(self, query: sql.Composable, doing: str) -> Iterator[FramesOut]:
        """Begins a COPY TO in the open transaction, whose messages the block passes on.

        Where they do not come to their end, the connection is cut.
        """
        with self._translated(doing), self._raw.cursor() as cursor, wire_of(self._raw) as wire:
            frames = FramesOut(wire, self._with_deferred(cursor, query), self._room)
            try:
                yield frames
            finally:
                if not frames.is_over:
                    wire.cut()

    def take_frames(self, query: sql.Composable, pass_on: PassOn, doing: str) -> int:
        """Returns how many rows a COPY FROM took of messages that another server sent.

        Raises:
            BaseException: What `pass_on` raised; the connection is of no use then.
        """
        frames = None
        try:
            with self._translated(doing), self._raw.cursor() as cursor, wire_of(self._raw) as wire:
                frames = FramesIn(wire, pass_on)
                return frames.take(cursor, self._with_deferred(cursor, query))
        except ExtractLoadError:
            if frames is not None:
                frames.raise_error()  # out here: it is not the target's
            raise

    def defer(self, query: Query) -> None:
        """Sends a statement with the next one: what nobody waits for needs no round trip.

        In a transaction, whose COMMIT sends it at the latest. Where it fails, the next one does
        (manual, Message Flow, Multiple Statements in a Simple Query).
        """
        with self._translated("run a query"):  # a name is quoted by the connection, if it lives
            self._deferred.append(query if isinstance(query, str) else query.as_string(self._raw))

    def _with_deferred(
        self,
        cursor: psycopg2.extensions.cursor,
        query: Query,
        arguments: Mapping[str, Any] | None = None,
    ) -> bytes:
        """What was deferred, and a statement behind it, as one message."""
        deferred, self._deferred = self._deferred, []
        message = [text.encode() for text in deferred]
        return b"; ".join([*message, cursor.mogrify(query, arguments)])

    @contextmanager
    def transaction(
        self, begin: str = WRITE, settings: Mapping[str, str] = {}, doing: str = "commit"
    ) -> Iterator[Self]:
        """Runs its block in one transaction: committed at its end, rolled back on any error.

        It begins with the block's first statement, in one message.

        Args:
            begin: How it begins; one of the constants of this module.
            settings: What to set besides, or instead of, the limits of this side.
            doing: For the message when COMMIT itself fails.
        """
        self.defer(self._beginning(begin, settings))
        try:
            yield self
            self._commit(doing)
        except BaseException:
            self.roll_back()
            raise

    def _commit(self, doing: str) -> None:
        with self._translated(doing), self._raw.cursor() as cursor:
            cursor.execute(self._with_deferred(cursor, "COMMIT"))
            if cursor.statusmessage != "COMMIT":  # a statement had failed, and nobody said so
                raise psycopg2.DatabaseError("the server rolled the transaction back")

    def begin(self, begin: str = WRITE, settings: Mapping[str, str] = {}) -> None:
        """Opens a transaction and pins its settings, in one round trip."""
        self.execute(self._beginning(begin, settings), doing="begin a transaction")

    def _beginning(self, begin: str, settings: Mapping[str, str]) -> str:
        asked = (begin, *settings.items())
        if asked not in self._begins:
            newer = _SINCE_17 if self._raw.server_version >= 170_000 else {}
            pinned = {**_PINNED, **newer, **_LIMITS[self.side], **settings}
            query = sql.SQL("{}; {}").format(sql.SQL(begin), set_local(pinned))
            with self._translated("begin a transaction"):
                self._begins[asked] = query.as_string(self._raw)
        return self._begins[asked]

    def roll_back(self) -> None:
        """Ends the open transaction without its changes; a lost connection has done so."""
        self._deferred.clear()
        with suppress(psycopg2.Error):
            if not self._raw.closed:
                with self._raw.cursor() as cursor:
                    cursor.execute("ROLLBACK")

    @contextmanager
    def _translated(self, doing: str) -> Iterator[None]:
        if self._is_ended:
            raise interrupted()
        try:
            yield
        except psycopg2.Error as exc:
            raise error_from(exc, self.side, self.parameters.conn_id, doing) from exc


def set_local(settings: Mapping[str, str]) -> sql.Composable:
    """Returns the statements that make settings for the rest of a transaction."""
    return sql.SQL("; ").join(
        sql.SQL("SET LOCAL {} = {}").format(sql.Identifier(name), sql.Literal(value))
        for name, value in settings.items()
    )


def check_connection(
    conn_id: str,
    environ: Mapping[str, str],
    resolver: Resolver | None = None,
    attempts: int = CONNECT_ATTEMPTS,
) -> str:
    """Returns the version of the server a connection id leads to, having logged in.

    Args:
        conn_id: The id.
        environ: Where it is looked up.
        resolver: Asked first.
        attempts: How often to try; each has ten seconds, and so has the answer.

    Raises:
        ConfigError: If nobody knows the connection, or it lacks a host.
        ExtractLoadError: If the server cannot be reached or refuses.
    """
    parameters = resolve_connection(conn_id, environ, resolver)
    with Session(parameters, "server", attempts=attempts) as session:
        session.begin(READ_CONSISTENT)
        return str(session.execute("SHOW server_version", doing="ask for the version")[0][0])


def interrupted() -> ExtractLoadError:
    """Returns what every session of a run fails with that was told to end."""
    return ExtractLoadError(
        "the run was interrupted",
        "It was told to end. What was not published by then is not.",
        "Run again: it goes on from the chunks that are loaded.",
    )
