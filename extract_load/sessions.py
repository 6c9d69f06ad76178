"""The sessions of a run: shared by its tables, and ended together."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from extract_load.connection import Session, interrupted
from extract_load.connection_parameters import ConnectionParameters
from extract_load.retry import Side

_FRESH_SECONDS = 1.0
"""So long after it was given back a session is taken to work: what it is asked next will tell."""

_DOUBT_SECONDS = 60.0
"""So long after one to its target failed none is."""


class SessionRegistry:
    """The sessions a run has open, so that a signal can end them all, and any to come."""

    def __init__(self, name: str) -> None:
        """Opens none.

        Args:
            name: The sessions' application_name.
        """
        self._name = name
        self._lock = threading.Lock()
        self._open: set[Session] = set()
        self._idle: dict[str, list[tuple[float, Session]]] = {}
        self._doubted_at: dict[str, float] = {}
        self._is_ended = False

    def open(self, parameters: ConnectionParameters, side: Side) -> Session:
        """Returns a new session that `end_all` knows."""
        session = Session(parameters, side, self._name)
        with self._lock:
            if self._is_ended:
                session.close()
                raise interrupted()
            self._open.add(session)
        return session

    def borrow(self, parameters: ConnectionParameters) -> Session:
        """Returns a session to a target: one that was given back and works, or a new one.

        Whether it works is not asked within a second after it was given back, unless another
        session to that target failed within the last minute.
        """
        while True:
            with self._lock:
                idle = self._idle.get(parameters.conn_id)
                returned_at, session = idle.pop() if idle else (0.0, None)
            if session is None:
                return self.open(parameters, "target")
            if self._is_trusted(session, returned_at) or session.is_alive():
                return session
            self.close(session)

    def give_back(self, session: Session) -> None:
        """Keeps a session, outside a transaction, for who borrows next."""
        with self._lock:
            idle = self._idle.setdefault(session.parameters.conn_id, [])
            idle.append((time.monotonic(), session))

    def doubt(self, parameters: ConnectionParameters) -> None:
        """Has sessions to a target asked whether they work, for a while: one did not."""
        with self._lock:
            self._doubted_at[parameters.conn_id] = time.monotonic()

    def _is_trusted(self, session: Session, returned_at: float) -> bool:
        """Whether a session surely works, as far as anybody can know without asking it."""
        now = time.monotonic()
        doubted_at = self._doubted_at.get(session.parameters.conn_id)
        is_doubted = doubted_at is not None and now < doubted_at + _DOUBT_SECONDS
        return now < returned_at + _FRESH_SECONDS and not is_doubted

    def close_idle(self) -> None:
        """Closes what was given back."""
        with self._lock:
            idle = [session for sessions in self._idle.values() for _, session in sessions]
            self._idle.clear()
        for session in idle:
            self.close(session)

    @contextmanager
    def opened(self, parameters: ConnectionParameters, side: Side) -> Iterator[Session]:
        """Yields a new session that `end_all` knows, and closes it."""
        session = self.open(parameters, side)
        try:
            yield session
        finally:
            self.close(session)

    def close(self, session: Session) -> None:
        """Closes a session and forgets it."""
        session.close()
        with self._lock:
            self._open.discard(session)

    def sever(self, conn_id: str) -> None:
        """Cuts every connection to a target."""
        with self._lock:
            sessions = [one for one in self._open if one.parameters.conn_id == conn_id]
        for session in sessions:
            session.sever()

    def end_all(self, limit_seconds: float) -> None:
        """Ends what runs in every session, and lets nothing more begin.

        A cancelled statement alone would not do: between two statements nothing runs. A server
        that does not answer takes a cancel request no better than the statement.

        Args:
            limit_seconds: How long to wait for servers to take the requests.
        """
        with self._lock:
            self._is_ended = True
            sessions = list(self._open)
        for session in sessions:
            session.forbid()
        threads = [threading.Thread(target=session.cancel, daemon=True) for session in sessions]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + limit_seconds
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
