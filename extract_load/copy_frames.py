"""The messages of a COPY TO, passed on by the block, not row by row.

A server sends each row as a message of its own (CopyData), and takes the same messages in a COPY
FROM. To look at each of them would cost what libpq costs; so they are passed on unread, and their
end is found by a word that nobody can foresee: it is asked for by a second statement, which the
server answers after the last row. From there on every message is read.
"""

import re
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import psycopg2

from extract_load.retry import is_lost
from extract_load.server_messages import HELD_BYTES, MESSAGE_HEAD, ReportedError, ServerMessages
from extract_load.wire import Wire, WireBroken

Write = Callable[[memoryview], None]
"""Takes a block, of memory that is used again afterwards."""
PassOn = Callable[[Write], None]
"""Writes the messages of all rows; `FramesOut.pass_on` does."""

_HEAD_BYTES = MESSAGE_HEAD.size
_WORD_BYTES = 32
_ROW_HEAD_BYTES = _HEAD_BYTES + 6
"""Of a row with one value: how many there are, and the length of the first."""
_COLUMN_BYTES = _HEAD_BYTES + 2 + len("?column?\0") + 18
"""The description of such a row."""
_DONE = re.compile(rb"c\x00\x00\x00\x04C\x00\x00\x00.COPY (\d{1,20})\x00\Z", re.DOTALL)
"""CopyDone, and the command's end with its rows."""
_MOST_DONE_BYTES = 64
_SILENCE_SECONDS = 0.05
"""After a row that only looks like an error more comes within this time, as a rule."""
_LAST_WORD_SECONDS = 1.0
"""For a target whose connection broke."""
_FAILED = MESSAGE_HEAD.pack(b"Z", 5) + b"E"
"""What a server says last after an error in a transaction."""


class FramesOut(ServerMessages):
    """One COPY TO, begun; its messages are passed on once."""

    def __init__(self, wire: Wire, statement: bytes, room: bytearray | None = None) -> None:
        """Sends a COPY TO STDOUT, other statements before it; waits for nothing.

        Args:
            wire: Of a connection in a transaction.
            statement: In the encoding of the connection.
            room: See `ServerMessages`.
        """
        super().__init__(wire, room)
        self._word: Final = secrets.token_hex(_WORD_BYTES // 2).encode()
        self.received_at = time.monotonic()
        """When bytes last came."""
        self.is_over = False
        """Whether the server has said all, and libpq may use the connection again."""
        self.rows = 0
        """Those that were passed on, when all were."""
        self.bytes = 0
        """Of COPY data, without what the messages add."""
        message = statement + b"; SELECT '" + self._word + b"'\0"
        try:
            wire.send(memoryview(bytearray(MESSAGE_HEAD.pack(b"Q", len(message) + 4) + message)))
        except WireBroken as broken:
            raise psycopg2.OperationalError(str(broken)) from broken

    def pass_on(self, write: Write) -> None:
        """Writes all messages of rows, in blocks that end anywhere.

        Where it raises, what was written may end within a message.

        Args:
            write: Takes a block; the memory is used again after it returned.

        Raises:
            ReportedError: What the server ended the COPY with.
            psycopg2.OperationalError: If the connection ended.
            BaseException: What `write` raised.
        """
        is_binary = self._begun()
        while (row := self._word_row()) is None:
            passed = max(self._filled - HELD_BYTES, 0)
            if passed:
                write(self._view[:passed])
                self.bytes += passed
                self._drop(passed)
            self._receive()
        done = self._done_before(row)
        last = done.start()
        if last:
            write(self._view[:last])
        self.rows = int(done[1])
        self.bytes += last - _HEAD_BYTES * (self.rows + is_binary)  # its trailer is one more
        self._drop(row)
        self._read_to_the_end()

    def _begun(self) -> bool:
        """Whether the COPY that begins now is binary; reads what comes before."""
        while True:
            kind, body = self.message()
            if kind == b"H":
                return body[0] == 1
            if kind == b"E":
                self._fail(body)
            if kind == b"Z":
                self.is_over = True
                raise ReportedError.unreadable("the statement was no COPY TO STDOUT")

    def _word_row(self) -> int | None:
        """Where the message stands whose row has the word; None: it did not come yet.

        Raises:
            ReportedError: If an error came in its place.
        """
        end = self._filled
        at = self._buffer.find(self._word, max(end - HELD_BYTES, 0), end)
        if at >= 0:
            return at - _ROW_HEAD_BYTES
        if self._buffer.endswith(_FAILED, 0, end) and self._wire.is_silent(_SILENCE_SECONDS):
            report = self._report_before(end - len(_FAILED))
            self.is_over = report is not None
            raise report or ReportedError.unreadable("an error came that cannot be read")
        return None

    def _done_before(self, row: int) -> "re.Match[bytes]":
        end = row - _COLUMN_BYTES
        found = _DONE.search(self._buffer, max(end - _MOST_DONE_BYTES, 0), max(end, 0))
        if found is None:
            raise ReportedError.unreadable("the end of a COPY cannot be read")
        return found

    def _report_before(self, end: int) -> ReportedError | None:
        """The error report from which messages lead to just there.

        Settings that end with the transaction are told of in between (ParameterStatus).
        """
        at = self._buffer.find(b"E", max(end - HELD_BYTES, 0), end)
        while at >= 0:
            after = self._after(at, end)
            next_one = after
            while next_one is not None and next_one < end and self._buffer[next_one] in b"SNZ":
                next_one = self._after(next_one, end)
            if after is not None and next_one == end:
                return ReportedError(bytes(self._view[at + _HEAD_BYTES : after]))
            at = self._buffer.find(b"E", at + 1, end)
        return None

    def _after(self, at: int, end: int) -> int | None:
        """Where the message ends that stands there; None: not before the end."""
        if at + _HEAD_BYTES > end:
            return None
        length: int = MESSAGE_HEAD.unpack_from(self._buffer, at)[1]
        after = at + 1 + length
        return after if length >= _HEAD_BYTES and after <= end else None

    def _read_to_the_end(self) -> None:
        while True:
            kind, body = self.message()
            if kind == b"E":
                self._fail(body)
            if kind == b"Z":
                self.is_over = not self._filled  # libpq would miss the rest
                return

    def _fail(self, report: bytes) -> None:
        """Raises an error that was reported, once the server is done with it."""
        error = ReportedError(report)
        kind = b""
        while kind != b"Z":
            try:
                kind, _ = self.message()
            except psycopg2.OperationalError:
                raise error from None  # a fatal one: the connection ended with it
        self.is_over = True
        raise error

    def _receive(self) -> None:
        try:
            super()._receive()
            self.received_at = time.monotonic()
        except WireBroken as broken:
            raise self._report_before(self._filled) or psycopg2.OperationalError(
                str(broken)
            ) from broken


class GoneWithAll(psycopg2.OperationalError):
    """A target's connection went after the last row.

    It may have said before that what came is no row: of several reports psycopg2 raises the last.
    """


class FramesIn:
    """What psycopg2 reads a COPY FROM from: it is asked once, and passes all on below libpq."""

    def __init__(self, wire: Wire, pass_on: PassOn) -> None:
        """Sends nothing yet.

        Args:
            wire: Of the connection that is about to begin the COPY FROM.
            pass_on: Called once.
        """
        self._wire = wire
        self._pass_on = pass_on
        self._broke_off = False
        self._has_passed_all = False
        self._error: BaseException | None = None
        self._report: ReportedError | None = None

    def read(self, _size: int = -1, /) -> bytes:
        """Returns nothing, which ends a COPY well; or, where something failed, only the read.

        A COPY that broke off may look complete, and libpq would say its end within a message. So
        no byte more reaches a target which lacks some: its connection is cut.
        """
        try:
            self._pass_on(self._send)
            self._has_passed_all = True
        except WireBroken:
            self._broke_off = True
            try:
                self._report = self._heard()
            finally:
                self._wire.cut()
        except BaseException as error:  # noqa: BLE001 - raised by `raise_error`
            self._broke_off = True
            self._error = error
            self._wire.cut()
        return b""

    def take(self, cursor: psycopg2.extensions.cursor, statement: bytes) -> int:
        """Returns how many rows a COPY FROM took.

        Args:
            cursor: Of the wire's connection.
            statement: The COPY, other statements before it.

        Raises:
            ReportedError: What the server ended it with.
            GoneWithAll: If its connection went when it had been sent all.
            psycopg2.Error: Whatever libpq found out.
        """
        stream: Any = self
        try:
            cursor.copy_expert(statement, stream)
            if self._broke_off:
                raise psycopg2.OperationalError("the COPY broke off")
        except psycopg2.Error as error:
            if self._report is not None:
                raise self._report from None
            if self._has_passed_all and is_lost(error):
                raise GoneWithAll(str(error)) from error
            raise
        return int(cursor.rowcount)

    def raise_error(self) -> None:
        """Raises what ended the rows too early, where it was not the target."""
        if self._error is not None:
            raise self._error

    def _send(self, data: memoryview) -> None:
        """Raises WireBroken also where the target has given up: it says so while it still reads."""
        if self._wire.peek() == b"E":
            raise WireBroken("the server reports an error")
        self._wire.send(data)

    def _heard(self) -> ReportedError | None:
        """The error that a target reports, the first one; None: it is gone without a word.

        All that it says is taken, or psycopg2 would print what it does not raise.
        """
        report, messages = None, ServerMessages(self._wire)
        with suppress(WireBroken, psycopg2.Error):
            kind = b""
            while kind != b"Z" and not self._wire.is_silent(_LAST_WORD_SECONDS):
                kind, body = messages.message()
                if kind == b"E" and report is None:
                    report = ReportedError(body)
        return report
