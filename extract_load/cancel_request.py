"""The request that ends a session's statement, which any thread may make and wait for.

psycopg2's `cancel` keeps Python's lock (the GIL) until the server's postmaster has closed the
request's connection. A server that fell silent never does, and every thread of the run would wait
with it, the one that obeys a signal too. So the same libpq is asked by way of ctypes, which lets
the lock go.
"""

import ctypes
import weakref

from psycopg2 import extensions

from extract_load.libpq import LIBPQ

LIBPQ.PQgetCancel.argtypes = [ctypes.c_void_p]
LIBPQ.PQgetCancel.restype = ctypes.c_void_p
LIBPQ.PQcancel.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int]
LIBPQ.PQfreeCancel.argtypes = [ctypes.c_void_p]
LIBPQ.PQfreeCancel.restype = None
_MESSAGE_BYTES = 256
"""What libpq recommends for its message (manual, "Canceling Queries in Progress")."""


class CancelRequest:
    """Ends the statement that runs on one connection, over a connection of its own."""

    def __init__(self, connection: extensions.connection) -> None:
        """Takes what the request needs: it may be sent while `connection` is closed."""
        self._handle = LIBPQ.PQgetCancel(connection.pgconn_ptr)
        # Not at exit: a thread may still wait for a server there.
        weakref.finalize(self, LIBPQ.PQfreeCancel, self._handle).atexit = False

    def send(self) -> None:
        """Sends the request, and waits until the server took it, or cannot be reached.

        Whether it came in time to end anything is never told (manual, "Canceling Requests in
        Progress").
        """
        LIBPQ.PQcancel(self._handle, ctypes.create_string_buffer(_MESSAGE_BYTES), _MESSAGE_BYTES)
