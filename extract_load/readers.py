"""The sessions that read in one snapshot: lent to a read at a time, ended for who waits for it."""

import queue
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress

from extract_load import log
from extract_load.connection import Session, set_local
from extract_load.errors import LockYielded, SourceError
from extract_load.memory import MemoryBudget
from extract_load.one_clock import FREE_LOCKS, HOLD_LOCKS, OneClock
from extract_load.sessions import SessionRegistry

logger = log.get_logger(__name__)


class Readers:
    """At most so many sessions, each in one transaction as long as the snapshot stands."""

    def __init__(
        self,
        registry: SessionRegistry,
        memory: MemoryBudget,
        most: int,
        open_reader: Callable[[], Session],
        limits: Callable[[], Mapping[str, str]],
    ) -> None:
        """Opens nothing yet.

        Args:
            registry: Where they are closed.
            memory: What streams may take.
            most: How many there may be, one at least.
            open_reader: Returns a new session in the snapshot.
            limits: Returns the settings that hold from now on.
        """
        self._registry = registry
        self._memory = memory
        self._open_reader = open_reader
        self._limits = limits
        self._slots = threading.Semaphore(most)
        self._clock = OneClock(self._slots, self._any_session, is_only=most == 1)
        self._idle: queue.SimpleQueue[Session] = queue.SimpleQueue()
        self._busy: dict[Session, int] = {}
        self._yielding: set[Session] = set()
        self._waited_for: set[Session] = set()
        self._is_ended = False

    # ------------------------------------------------------------ lending

    @contextmanager
    def lent(self, require: Callable[[], None], *, by_one_clock: bool = False) -> Iterator[Session]:
        """Yields a session; waits while all are in use.

        One whose block raised is closed, the next caller gets a new one.

        Args:
            require: Raises where nothing may be read any more; asked after the wait.
            by_one_clock: Whether it has to be the session whose `now()` counts.

        Raises:
            LockYielded: If the block was ended because somebody waited for its lock.
        """
        with self._clock.turn if by_one_clock else self._slots:
            require()
            session = self._clock.reader() if by_one_clock else self._any_session()
            try:
                yield session
            except SourceError as error:
                if not self._clock.goes_on(session):
                    self._drop(session)
                if session in self._yielding:
                    self._yielding.discard(session)
                    raise _yielded(error) from error
                raise
            except BaseException:
                self._drop(session)
                raise
            is_kept = session is self._clock.session
            if self._is_ended or (self._memory.is_short and not is_kept):
                self._registry.close(session)
            elif not is_kept:
                self._idle.put(session)

    @contextmanager
    def looking(self, reader: Session) -> Iterator[None]:
        """Frees the locks of a reader after the block; the snapshot stays."""
        self._busy[reader] = reader.remembered(Session.serving_pid)  # it is in one transaction
        try:
            reader.defer(set_local(self._limits()))
            reader.defer(HOLD_LOCKS)
            yield
        finally:
            self._busy.pop(reader, None)
            self._waited_for.discard(reader)
        reader.execute(FREE_LOCKS)

    def _any_session(self) -> Session:
        return self._clock.shared or self._idle_session() or self._open_reader()

    def _idle_session(self) -> Session | None:
        """None where memory is short: libpq keeps a large row's room until it disconnects."""
        with suppress(queue.Empty):
            while True:
                session = self._idle.get_nowait()
                if not self._memory.is_short:
                    return session
                self._registry.close(session)
        return None

    def _drop(self, session: Session) -> None:
        self._registry.close(session)
        self._clock.lose(session)

    # ------------------------------------------------------------ who waits

    def pid_of(self, reader: Session) -> int | None:
        """Returns who serves a reader that looks at something now."""
        return self._busy.get(reader)

    def is_waited_for(self, reader: Session) -> bool:
        """Returns whether somebody else waits for a lock that a reader holds now."""
        return reader in self._waited_for

    def yield_to_waiters(self, read_blockers: Callable[[Collection[int]], Collection[int]]) -> None:
        """Ends reads whose lock somebody else's DDL waits for.

        Args:
            read_blockers: Returns which of some backends hold what others wait for.
        """
        busy = dict(self._busy)
        if not busy:
            return
        blockers = read_blockers(busy.values())
        for reader, pid in busy.items():
            if pid in blockers and self._busy.get(reader) == pid:
                self._yielding.add(reader)
                self._waited_for.add(reader)
                logger.info("yields to who waits for a lock", extra={"pid": pid})
                reader.cancel()

    # ------------------------------------------------------------ their end

    def end(self, limit_seconds: float) -> None:
        """Cancels what is read, and cuts the connection of who does not obey.

        What is given back from now on is closed.

        Args:
            limit_seconds: How long they have to obey.
        """
        self._is_ended = True
        threads = [threading.Thread(target=one.cancel, daemon=True) for one in list(self._busy)]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + limit_seconds
        while self._busy and time.monotonic() < deadline:
            time.sleep(0.05)
        for session in tuple(self._busy):
            session.sever()

    def close(self) -> None:
        """Closes those that read nothing; one that does is closed when it is given back."""
        self._is_ended = True
        while (session := self._idle_session()) is not None:
            self._registry.close(session)
        clock = self._clock.session
        if clock is not None and clock not in self._busy:
            self._registry.close(clock)


def _yielded(error: SourceError) -> LockYielded:
    return LockYielded(
        "somebody waits for a lock that a read holds",
        f"{error.detail} The read was ended for it.",
        "It is tried again.",
    )
