"""A source's snapshot: one moment for every session of a run, and nothing rewritten since.

It is never older than `snapshot_max_age`: dead rows of the source cannot be removed while it
stands. A client that is stopped cannot end it, so the server's own limits are set to what is left
of that time before each read.
"""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from uuid import uuid4
from weakref import WeakSet

from extract_load import log
from extract_load.catalog import Leaf, ServerCut, TableSchema, read_lsn, read_server_cut
from extract_load.checkpoints import SnapshotMark
from extract_load.config import duration_text
from extract_load.connection import READ_CONSISTENT, Session, set_local
from extract_load.connection_parameters import ConnectionParameters
from extract_load.errors import (
    ExtractLoadError,
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
from extract_load.open_transactions import read_open_transactions
from extract_load.readers import Readers
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
        self._readers = Readers(
            registry,
            governor.memory,
            governor.run.source_max_connections - _NOT_READERS,
            self._new_session,
            self._limits,
        )
        self._tables = SourceTables(tables)
        self.counts = SourceCounts()
        self._lock = threading.Lock()
        self._observer = Observer(parameters, registry)
        self._joined: WeakSet[Session] = WeakSet()
        self._joining = threading.Lock()
        self._ended = threading.Event()
        self._is_flushed = False
        self.holder = registry.open(parameters, "source")
        self._deadline: float = time.monotonic() + self._max_age
        early = min(_OBEY_SECONDS + 0.5, self._max_age / 10)  # its end takes a moment too
        self._timer = threading.Timer(self._max_age - early, self._end_all)
        self._timer.daemon = True
        try:
            self._timer.start()
            self._take()
        except BaseException:
            self._timer.cancel()
            registry.close(self.holder)
            raise
        self._watch = threading.Thread(target=self._keep_watch, name="snapshot", daemon=True)
        self._watch.start()

    def _take(self) -> None:
        """Takes the snapshot: from here on the server's oldest rows wait for it."""
        open_transactions = read_open_transactions(self.holder)
        earlier_lsn = read_lsn(self.holder)
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

    # ------------------------------------------------------------ looking

    def table(self, name: TableName) -> TableSchema:
        """Returns a table as the snapshot's catalog has it.

        Raises:
            SourceError: If there is no such table.
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

    def past_snapshot(self) -> AbstractContextManager[Session]:
        """Returns a block with a session that sees the source as it is now."""
        return self._observer.looking()

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
        try:
            with self._readers.lent(self._require_young, by_one_clock=by_one_clock) as session:
                yield session
        except SourceError as error:
            explained = self._explained(error)
            if explained is error:
                raise
            raise explained from error

    def reader_of(self, *leaves: Leaf) -> AbstractContextManager[Session]:
        """Returns a `reader` that may read leaves, each time in `holding`."""
        return self.reader(by_one_clock=any(leaf.reads_others for leaf in leaves))

    @contextmanager
    def looking(self, *, by_one_clock: bool = False) -> Iterator[Session]:
        """Yields a reader whose locks are freed after the block; the snapshot stays."""
        with self.reader(by_one_clock=by_one_clock) as reader, self._readers.looking(reader):
            yield reader

    @contextmanager
    def reading(self, *leaves: Leaf) -> Iterator[Session]:
        """Yields a reader for one pass over leaves that still hold what the snapshot shows.

        Raises:
            SnapshotLost: If a leaf was truncated, rewritten, replaced or altered since.
        """
        with self.reader_of(*leaves) as reader, self.holding(reader, *leaves):
            yield reader

    @contextmanager
    def holding(self, reader: Session, *leaves: Leaf) -> Iterator[None]:
        """Keeps others from rewriting what the block reads; fails if somebody did before.

        Args:
            reader: From `reader_of` these leaves; it may be another thread's.
            leaves: What the block reads.

        Raises:
            SnapshotLost: If a leaf was truncated, rewritten, replaced or altered since.
        """
        with self._readers.looking(reader):
            for leaf in leaves:
                hold_still(reader, leaf)
            try:
                yield
            except SourceError as error:
                if error.sqlstate == NO_COLUMN and self._observer.has_other_columns(leaves):
                    raise altered(leaves[0], error) from error
                raise
            if any(leaf.reads_others for leaf in leaves):
                require_unrewritten(reader)

    def is_waited_for(self, reader: Session) -> bool:
        """Returns whether somebody else waits for a lock that a reader holds now."""
        return self._readers.is_waited_for(reader)

    def is_working(self, reader: Session) -> bool:
        """Returns whether the server still looks for rows for a reader that gets none."""
        pid = self._readers.pid_of(reader)
        return pid is not None and self._observer.is_working(pid)

    def _new_session(self) -> Session:
        session = self._registry.open(self.parameters, "source")
        with self._joining:
            self._joined.add(session)
        if self._ended.is_set():  # whoever ended it may have looked before
            self._registry.close(session)
            raise self._too_old()
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

    def _explained(self, error: SourceError) -> SourceError:
        """What ended a reader: the snapshot's age, where that may be."""
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
                self._readers.yield_to_waiters(self._observer.blockers)
            except ExtractLoadError as error:  # also where the run was told to end
                logger.debug("watch failed", extra={"why": error.primary})

    def _end_all(self) -> None:
        """Cancels what reads in the snapshot, and cuts the connection of who does not obey."""
        self._ended.set()
        logger.info("snapshot ended", extra={"why": self._too_old().detail})
        self._readers.end(_OBEY_SECONDS)
        with self._joining:
            joined = tuple(self._joined)
        for reader in joined:  # also who joins just now, or frees its locks
            reader.sever()
        self.holder.sever()
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
        self._readers.close()
        self._registry.close(self.holder)
