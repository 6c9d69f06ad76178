"""A source's snapshot: one moment for every session of a run, and nothing rewritten since.

It is never older than `snapshot_max_age`: dead rows of the source cannot be removed while it
stands. A client that is stopped cannot end it, so the server's own limits are set to what is left
of that time before each read.
"""

import queue
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from uuid import uuid4

from psycopg2 import sql

from extract_load import log
from extract_load.catalog import Leaf, ServerCut, TableSchema, read_lsn, read_server_cut
from extract_load.checkpoints import SnapshotMark
from extract_load.config import duration_text
from extract_load.connection import READ_CONSISTENT, Session, set_local
from extract_load.connection_parameters import ConnectionParameters
from extract_load.errors import (
    ExtractLoadError,
    LockYielded,
    SnapshotLost,
    SnapshotTooOld,
    SourceError,
    SourceUnavailable,
)
from extract_load.governor import Governor
from extract_load.identifiers import TableName
from extract_load.leaf_lock import NO_COLUMN, altered, hold_still, require_unrewritten
from extract_load.masking import SALT_SETTING
from extract_load.observer import Observer
from extract_load.one_clock import OneClock
from extract_load.open_transactions import read_open_transactions
from extract_load.retry import QUERY_CANCELED
from extract_load.sessions import SessionRegistry
from extract_load.source_counts import SourceCounts
from extract_load.source_table import SourceTables

logger = log.get_logger(__name__)

_NOT_READERS = 2
"""The holder, and the session that looks past the snapshot."""
_WATCH_SECONDS = 1.0
_PING_EVERY = 5
"""Looks of the watch between two pings of the holder."""
_LATE = 0.8
"""From this part of its age on, nothing new is begun in a snapshot."""
_UNANSWERED_MS = 60_000
"""After so long the server takes a client for gone that acknowledges nothing it is sent."""
_OBEY_SECONDS = 1.0
"""How long a session has to obey a cancel before its connection is cut."""


class SourceSnapshot:
    """One exported snapshot of a source, and the sessions that read in it.

    The holder's transaction keeps the snapshot; readers join it (manual, 9.28.5,
    pg_export_snapshot). All tables of a run that read from this source share it.
    """

    def __init__(
        self,
        parameters: ConnectionParameters,
        registry: SessionRegistry,
        governor: Governor,
        tables: Sequence[TableName] = (),
    ) -> None:
        """Connects the holder, takes the snapshot, and begins to watch over it.

        Args:
            parameters: The source.
            registry: Where its sessions are opened.
            governor: What this run may ask of the source.
            tables: Those that will be asked for: the catalog is read for all of them at once.
        """
        self.parameters = parameters
        self.governor = governor
        self._registry = registry
        self._max_age: float = governor.run.snapshot_max_age.total_seconds()
        self.holder = registry.open(parameters, "source")
        open_transactions = read_open_transactions(self.holder)
        earlier_lsn = read_lsn(self.holder)
        self._deadline: float = time.monotonic() + self._max_age
        self.holder.begin(READ_CONSISTENT, self._limits())
        exported = self.holder.execute(
            "SELECT pg_export_snapshot()", doing="export the source's snapshot"
        )
        self._snapshot_id = str(exported[0][0])
        cut = read_server_cut(self.holder, earlier_lsn)
        self.cut: ServerCut = replace(
            cut,
            open_for=open_transactions.open_for(cut.cut_at),
            open_unknown=open_transactions.why_unknown,
        )
        self.mark = SnapshotMark(str(uuid4()), cut.xmin, cut.lsn)
        readers = governor.run.source_max_connections - _NOT_READERS
        self._slots = threading.Semaphore(readers)
        self._clock = OneClock(self._slots, self._any_session, is_only=readers == 1)
        self._idle: queue.SimpleQueue[Session] = queue.SimpleQueue()
        self._busy: dict[Session, int] = {}
        self._yielding: set[Session] = set()
        self._waited_for: set[Session] = set()
        self._tables = SourceTables(tables)
        self.counts = SourceCounts()
        self._lock = threading.Lock()
        self._observer = Observer(parameters, registry)
        self._ended = threading.Event()
        self._is_flushed = False
        early = min(_OBEY_SECONDS + 0.5, self._max_age / 10)  # its end takes a moment too
        self._timer = threading.Timer(self._max_age - early, self._end_all)
        self._watch = threading.Thread(target=self._keep_watch, name="snapshot", daemon=True)
        for thread in (self._timer, self._watch):
            thread.daemon = True
            thread.start()

    # ------------------------------------------------------------ looking

    def table(self, name: TableName) -> TableSchema:
        """Returns a table as the snapshot's catalog has it.

        Raises:
            SnapshotLost: If the snapshot has ended.
        """
        self._require_young()
        try:
            with self._lock:
                table = self._tables.get(self.holder, name)
                # Its savepoint may have undone what the watch had set.
                self.holder.execute(set_local(self._limits()))
                return table
        except SourceUnavailable as error:
            raise self._lost(error) from error

    def is_unaltered(self, table: TableSchema) -> bool:
        """Returns whether surely nobody altered a table that the snapshot's catalog showed so."""
        return table.row_versions is not None and (
            self._observer.row_versions(table) == table.row_versions
        )

    def table_now(self, name: TableName) -> TableSchema:
        """Returns a table as the catalog has it now, past the snapshot."""
        return self._observer.table(name)

    def has_reached(self, lsn: str) -> bool:
        """Returns whether the source's WAL is at or past a position by now."""
        return self._observer.has_reached(lsn)

    def wait_flushed(self) -> None:
        """Waits until the WAL of all that the snapshot shows is on the source's disk.

        A standby replays only what is flushed.

        Raises:
            SourceUnavailable: If it is not flushed in 30 seconds.
        """
        if not self.cut.is_standby and not self._is_flushed:
            self._observer.wait_flushed(self.cut.lsn)
            self._is_flushed = True

    def wait_until_calm(self) -> None:
        """Waits while the source is above a limit of the run; between two chunks."""
        self.governor.wait_until_calm(self._observer.fares)

    # ------------------------------------------------------------ reading

    @contextmanager
    def reader(self, *, by_one_clock: bool = False) -> Iterator[Session]:
        """Yields a session in the snapshot; waits while all connections are in use.

        A session whose block raised is closed, the next caller gets a new one.

        Args:
            by_one_clock: Whether it has to be the session whose `now()` counts.

        Raises:
            SnapshotLost: If the snapshot has ended, or reached its age, or that session is lost.
            LockYielded: If the block was ended because somebody waited for its lock.
        """
        with self._clock.turn if by_one_clock else self._slots:
            self._require_young()
            session = self._clock.reader() if by_one_clock else self._any_session()
            try:
                yield session
            except SourceError as error:
                if not self._clock.goes_on(session):
                    self._drop(session)
                raise self._explained(session, error) from error
            except BaseException:
                self._drop(session)
                raise
            if session is self._clock.session:
                return
            if self._ended.is_set() or self.governor.memory.is_short:
                self._registry.close(session)
            else:
                self._idle.put(session)

    @contextmanager
    def looking(self, *, by_one_clock: bool = False) -> Iterator[Session]:
        """Yields a reader whose locks are freed after the block; the snapshot stays."""
        with self.reader(by_one_clock=by_one_clock) as reader:
            limits = set_local(self._limits())
            ((pid,),) = reader.execute(
                sql.SQL("{}; SAVEPOINT looking; SELECT pg_backend_pid()").format(limits)
            )
            self._busy[reader] = pid
            try:
                yield reader
            finally:
                self._busy.pop(reader, None)
                self._waited_for.discard(reader)
            reader.execute("ROLLBACK TO SAVEPOINT looking; RELEASE SAVEPOINT looking")

    @contextmanager
    def reading(self, *leaves: Leaf) -> Iterator[Session]:
        """Yields a reader for one pass over leaves that still hold what the snapshot shows.

        Raises:
            SnapshotLost: If a leaf was truncated, rewritten, replaced or altered since.
        """
        with self.looking(by_one_clock=any(leaf.reads_others for leaf in leaves)) as reader:
            for leaf in leaves:
                hold_still(reader, leaf)
            try:
                yield reader
            except SourceError as error:
                if error.sqlstate == NO_COLUMN and self._observer.has_other_columns(leaves):
                    raise altered(leaves[0], error) from error
                raise
            if any(leaf.reads_others for leaf in leaves):
                require_unrewritten(reader)

    def is_waited_for(self, reader: Session) -> bool:
        """Returns whether somebody else waits for a lock that a reader holds now."""
        return reader in self._waited_for

    def is_working(self, reader: Session) -> bool:
        """Returns whether the server still looks for rows for a reader that gets none."""
        pid = self._busy.get(reader)
        return pid is not None and self._observer.is_working(pid)

    def _any_session(self) -> Session:
        return self._clock.shared or self._idle_session() or self._new_session()

    def _drop(self, session: Session) -> None:
        self._registry.close(session)
        self._clock.lose(session)

    def _idle_session(self) -> Session | None:
        """None where memory is short: libpq keeps a large row's room until it disconnects."""
        with suppress(queue.Empty):
            while True:
                session = self._idle.get_nowait()
                if not self.governor.memory.is_short:
                    return session
                self._registry.close(session)
        return None

    def _new_session(self) -> Session:
        session = self._registry.open(self.parameters, "source")
        begin = f"{READ_CONSISTENT}; SET TRANSACTION SNAPSHOT '{self._snapshot_id}'"
        try:
            salt = {SALT_SETTING: self.parameters.mask_salt} if self.parameters.mask_salt else {}
            session.begin(begin, {**self._limits(), **salt})
        except SourceError as error:
            self._registry.close(session)
            if isinstance(error, SourceUnavailable):
                raise  # the connection, not the snapshot
            raise self._lost(error) from error
        return session

    # ------------------------------------------------------------ its age

    @property
    def _left(self) -> float:
        """Seconds until the snapshot is too old."""
        return self._deadline - time.monotonic()

    def _limits(self) -> dict[str, str]:
        """The server ends what is still there when the snapshot is too old."""
        left = max(1, int(self._left * 1000))
        return {
            "statement_timeout": f"{left}ms",
            "idle_in_transaction_session_timeout": f"{left}ms",
            "tcp_user_timeout": f"{min(left, _UNANSWERED_MS)}ms",
        }

    def _require_young(self) -> None:
        if self._ended.is_set() or self._left < (1 - _LATE) * self._max_age:
            raise self._too_old()

    def _too_old(self) -> SnapshotTooOld:
        age = duration_text(self.governor.run.snapshot_max_age)
        return SnapshotTooOld(
            "the source's snapshot reached its age",
            f"snapshot_max_age is {age}; from {_LATE:.0%} of it on nothing new is begun.",
            "A run goes on under a new snapshot. For verify, raise snapshot_max_age.",
        )

    def _lost(self, error: SourceError) -> SnapshotLost:
        if self._left < _WATCH_SECONDS or self._ended.is_set():
            return self._too_old()
        return SnapshotLost(
            "the source's snapshot is gone", error.detail, "Run again: it takes a new one."
        )

    def _explained(self, session: Session, error: SourceError) -> ExtractLoadError:
        """What ended a reader: somebody who waited for its lock, or the snapshot's age."""
        if session in self._yielding:
            self._yielding.discard(session)
            return LockYielded(
                "somebody waits for a lock that a read holds",
                f"{error.detail} The read was ended for it.",
                "It is tried again.",
            )
        is_retryable = isinstance(error, SourceUnavailable)
        was_ended = is_retryable or error.sqlstate == QUERY_CANCELED
        is_old = self._ended.is_set() or self._left < _WATCH_SECONDS
        if was_ended and is_old and not isinstance(error, SnapshotLost):
            return self._too_old()
        return error

    def is_alive(self) -> bool:
        """Returns whether the transaction that keeps the snapshot still does."""
        with self._lock:
            return not self._ended.is_set() and self.holder.is_alive()

    # ------------------------------------------------------------ the watch

    def _keep_watch(self) -> None:
        """Pings the holder, and yields to who waits for our locks.

        A server that is stopped keeps this thread waiting; not the timer, which ends all.
        """
        looks = 0
        while not self._ended.wait(_WATCH_SECONDS):
            looks += 1
            try:
                if looks % _PING_EVERY == 0:
                    self.holder.execute(set_local(self._limits()), doing="keep the snapshot")
                self._yield_to_waiters()
            except ExtractLoadError as error:  # also where the run was told to end
                logger.debug("watch failed", extra={"why": error.primary})

    def _yield_to_waiters(self) -> None:
        """Ends reads whose lock somebody else's DDL waits for."""
        busy = dict(self._busy)
        if not busy:
            return
        blockers = self._observer.blockers(busy.values())
        for reader, pid in busy.items():
            if pid in blockers and self._busy.get(reader) == pid:
                self._yielding.add(reader)
                self._waited_for.add(reader)
                logger.info("yields to who waits for a lock", extra={"pid": pid})
                reader.cancel()

    def _end_all(self) -> None:
        """Cancels what reads in the snapshot, and cuts the connection of who does not obey."""
        self._ended.set()
        logger.info("snapshot ended", extra={"why": self._too_old().detail})
        readers = list(self._busy)
        threads = [threading.Thread(target=one.cancel, daemon=True) for one in readers]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + _OBEY_SECONDS
        while self._busy and time.monotonic() < deadline:
            time.sleep(0.05)
        for session in (*self._busy, self.holder):
            session.sever()
        self._observer.sever()
        self._close_sessions()

    # ------------------------------------------------------------ its end

    def close(self) -> None:
        """Ends the snapshot and every session in it."""
        self._ended.set()
        self._timer.cancel()
        self._watch.join(timeout=_OBEY_SECONDS)
        if self._watch.is_alive():  # it waits for a silent server, and closing would wait for it
            self._observer.sever()
            self.holder.sever()
            self._watch.join(timeout=_OBEY_SECONDS)
        self._close_sessions()
        self._observer.close()

    def _close_sessions(self) -> None:
        while (session := self._idle_session()) is not None:
            self._registry.close(session)
        if self._clock.session is not None:
            self._registry.close(self._clock.session)
        self._registry.close(self.holder)
