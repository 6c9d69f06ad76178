"""The bytes of a connection, below libpq, at moments when libpq expects none.

libpq makes an object of each row of a COPY. What only passes from one server to another needs none:
both speak the same messages (manual, "COPY Operations" of the protocol), so its bytes are taken
from one socket and given to the other as they are.
"""

import ctypes
import errno
import os
import select
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

import psycopg2
from psycopg2 import extensions

from extract_load.libpq import LIBPQ

_TLS_FUNCTIONS = (
    *("PQsslStruct", "SSL_read", "SSL_write", "SSL_peek", "SSL_get_error"),
    "ERR_clear_error",
)
_HAS_TLS = all(hasattr(LIBPQ, name) for name in _TLS_FUNCTIONS)
LIBPQ.PQgssEncInUse.argtypes = [ctypes.c_void_p]
if _HAS_TLS:
    LIBPQ.PQsslStruct.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    LIBPQ.PQsslStruct.restype = ctypes.c_void_p
    LIBPQ.SSL_get_error.argtypes = [ctypes.c_void_p, ctypes.c_int]
    for _function in (LIBPQ.SSL_read, LIBPQ.SSL_write, LIBPQ.SSL_peek):
        _function.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int]

_WANT_READ = 2
_WANT_WRITE = 3
"""SSL_get_error(3)."""
_RESET = struct.pack("ii", 1, 0)
"""Of SO_LINGER (socket(7)): closing resets the connection."""
_LOOK_SECONDS = 0.001
"""Between two looks whether the rest of a TLS record is there."""
_READ_END = getattr(select, "POLLRDHUP", 0)
"""The server sends no more; Linux tells."""
_ENDED = select.POLLHUP | select.POLLERR | _READ_END


class WireBroken(Exception):
    """No byte passes any more."""


class Wire:
    """The socket of a connection without encryption.

    No call waits for longer than the connection stands: who cuts it (`shutdown`, from any thread),
    wakes it.
    """

    def __init__(self, connection: extensions.connection) -> None:
        """Takes hold of the socket; `close` lets it go, and leaves the connection open."""
        self._socket = socket.socket(fileno=os.dup(connection.fileno()))
        self._socket.setblocking(False)  # as libpq has it

    def close(self) -> None:
        """Lets the socket go."""
        self._socket.close()

    def receive_into(self, room: memoryview) -> int:
        """Returns how many bytes came, one at least; waits for them.

        Raises:
            WireBroken: If none will come.
        """
        while True:
            try:
                taken = self._socket.recv_into(room)
            except BlockingIOError:
                self._wait(select.POLLIN)
            except OSError as error:
                raise WireBroken(str(error)) from error
            else:
                return taken or _closed()

    def send(self, data: memoryview) -> None:
        """Hands all of some bytes to the system; waits for room.

        Args:
            data: At least one byte.

        Raises:
            WireBroken: If they cannot be sent.
        """
        while data:
            try:
                data = data[self._socket.send(data) :]
            except BlockingIOError:
                self._wait(select.POLLOUT)
            except OSError as error:
                raise WireBroken(str(error)) from error

    def peek(self) -> bytes:
        """Returns the next byte that came, and leaves it; none where none came yet."""
        try:
            return self._socket.recv(1, socket.MSG_PEEK)
        except OSError:  # nothing there, or broken: that is for the next call to find
            return b""

    def is_silent(self, seconds: float) -> bool:
        """Returns whether no byte is there, nor comes within so long."""
        deadline = time.monotonic() + seconds
        while not self.peek():
            left = deadline - time.monotonic()
            if left <= 0 or not self._wait(select.POLLIN, left):
                return True
            if self._is_dead():
                return False  # an end is for the next call to find
            time.sleep(_LOOK_SECONDS)  # a part of a TLS record: not a byte yet
        return False

    def cut(self) -> None:
        """Cuts the connection: what waits on it, in any thread, fails at once.

        The server hears of it when the connection is closed (by a reset): one that waits for room
        to send would go on, since what has come is still read here.
        """
        with suppress(OSError):  # of one that is ended already; where it is not, the next fails too
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError as error:
            if error.errno != errno.ENOTCONN:  # it is ended already
                raise

    def _is_dead(self) -> bool:
        """Whether the connection was cut, or its server has gone."""
        return bool(self._wait(_READ_END, 0.0) & _ENDED)

    def _wait(self, event: int, seconds: float | None = None) -> int:
        waiting = select.poll()
        waiting.register(self._socket, event)
        found = waiting.poll(None if seconds is None else seconds * 1000)
        return found[0][1] if found else 0


class _TlsWire(Wire):
    """The same, through the TLS session that libpq has opened (SSL_read(3), SSL_write(3))."""

    def __init__(self, connection: extensions.connection) -> None:
        super().__init__(connection)
        self._tls = LIBPQ.PQsslStruct(connection.pgconn_ptr, b"OpenSSL")

    def receive_into(self, room: memoryview) -> int:
        """As of a plain socket. A record has 16 kB at most: takes all that are there."""
        start, taken = ctypes.addressof(ctypes.c_char.from_buffer(room)), 0
        while taken < len(room):
            result = self._call(LIBPQ.SSL_read, start + taken, len(room) - taken)
            if result > 0:
                taken += result
            elif taken:
                break  # what ended it, the next call finds
            else:
                self._wait_after(result)
        return taken

    def send(self, data: memoryview) -> None:
        """As of a plain socket; the memory is one that may be written to."""
        start, sent = ctypes.addressof(ctypes.c_char.from_buffer(data)), 0
        while sent < len(data):
            result = self._call(LIBPQ.SSL_write, start + sent, len(data) - sent)
            if result > 0:
                sent += result
            else:
                self._wait_after(result)
        if self._is_dead():  # libpq, by which TLS writes, takes all and says nothing then
            _closed()

    def peek(self) -> bytes:
        """As of a plain socket."""
        room = ctypes.create_string_buffer(1)
        return room.raw if self._call(LIBPQ.SSL_peek, room, 1) > 0 else b""

    def _call(self, function: Any, data: Any, size: int) -> int:
        LIBPQ.ERR_clear_error()  # or SSL_get_error tells of an older one
        return int(function(self._tls, data, size))

    def _wait_after(self, result: int) -> None:
        problem = LIBPQ.SSL_get_error(self._tls, result)
        if problem == _WANT_READ:
            self._wait(select.POLLIN)
        elif problem == _WANT_WRITE:
            self._wait(select.POLLOUT)
        else:
            _closed()


def has_wire(connection: extensions.connection) -> bool:
    """Returns whether the bytes of a connection can be reached.

    Not those that GSSAPI encrypts, nor TLS of another library than OpenSSL.
    """
    if LIBPQ.PQgssEncInUse(connection.pgconn_ptr):
        return False
    return not connection.info.ssl_in_use or _HAS_TLS


@contextmanager
def wire_of(connection: extensions.connection) -> Iterator[Wire]:
    """Yields the bytes of a connection that has a wire, while no statement runs on it.

    At the end of the block the connection has to be where libpq believes it is, or cut. Nobody may
    close it meanwhile: libpq would free the TLS session that is read from here.
    """
    try:
        wire = (_TlsWire if connection.info.ssl_in_use else Wire)(connection)
    except OSError as error:  # no file descriptor is free
        raise psycopg2.OperationalError(str(error)) from error
    try:
        yield wire
    finally:
        wire.close()


def _closed() -> NoReturn:
    raise WireBroken("server closed the connection unexpectedly")
