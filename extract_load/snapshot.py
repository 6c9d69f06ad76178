"""A source's snapshot: one moment for every session of a run, and nothing rewritten since."""

import queue
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from psycopg2 import sql

from extract_load import log
from extract_load.baseline import lsn_number
from extract_load.catalog import Leaf, ServerCut, TableSchema, read_lsn, read_server_cut
from extract_load.connection import READ_CONSISTENT, Session, SessionRegistry
from extract_load.connection_parameters import ConnectionParameters
from extract_load.errors import SnapshotLost, SourceError, SourceUnavailable
from extract_load.identifiers import TableName, in_double_quotes
from extract_load.masking import SALT_SETTING
from extract_load.open_transactions import read_open_transactions
from extract_load.source_table import read_source_table

logger = log.get_logger(__name__)

_FLUSH_WAIT_SECONDS = 30.0
_FLUSH_POLL_SECONDS = 0.05
_NOT_READERS = 2
"""The holder, and the session that looks past the snapshot."""


class SourceSnapshot:
    """One exported snapshot of a source, and the sessions that read in it.

    The holder's transaction keeps the snapshot; readers join it (manual, 9.28.5,
    pg_export_snapshot). All tables of a run that read from this source share it.
    """

    def __init__(
        self, parameters: ConnectionParameters, registry: SessionRegistry, max_connections: int
    ) -> None:
        """Connects the holder and takes the snapshot.

        Args:
            parameters: The source.
            registry: Where its sessions are opened.
            max_connections: Readers and the two sessions beside them, together; at least 3.
        """
        self.parameters = parameters
        self._registry = registry
        self.holder = registry.open(parameters, "source")
        open_transactions = read_open_transactions(self.holder)
        earlier_lsn = read_lsn(self.holder)
        self.holder.begin(READ_CONSISTENT)
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
        self._slots = threading.Semaphore(max_connections - _NOT_READERS)
        self._idle: queue.SimpleQueue[Session] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._outside: Session | None = None

    def table(self, name: TableName) -> TableSchema:
        """Returns a table as the snapshot's catalog has it."""
        with self._lock:
            return read_source_table(self.holder, name)

    def table_now(self, name: TableName) -> TableSchema:
        """Returns a table as the catalog has it now, past the snapshot."""
        with self._lock, self._observer().transaction(READ_CONSISTENT) as now:
            return read_source_table(now, name)

    def _observer(self) -> Session:
        """A session outside the snapshot."""
        if self._outside is None:
            self._outside = self._registry.open(self.parameters, "source")
        return self._outside

    @contextmanager
    def reader(self) -> Iterator[Session]:
        """Yields a session in the snapshot; waits while all connections are in use.

        A session whose block raised is closed, the next caller gets a new one.
        """
        with self._slots:
            session = self._idle_session() or self._new_session()
            try:
                yield session
            except BaseException:
                self._registry.close(session)
                raise
            self._idle.put(session)

    @contextmanager
    def looking(self) -> Iterator[Session]:
        """Yields a reader whose locks are freed after the block; the snapshot stays."""
        with self.reader() as reader:
            reader.execute("SAVEPOINT looking")
            yield reader
            reader.execute("ROLLBACK TO SAVEPOINT looking; RELEASE SAVEPOINT looking")

    @contextmanager
    def reading(self, *leaves: Leaf) -> Iterator[Session]:
        """Yields a reader for one pass over leaves that still hold what the snapshot shows.

        TRUNCATE and rewriting ALTER TABLE are not MVCC-safe (manual, 13.6): after one, the
        snapshot reads nothing, or rows that came later. The lock keeps them out during the pass.

        Raises:
            SourceUnavailable: If the table was truncated, rewritten or replaced since.
        """
        with self.looking() as reader:
            for leaf in leaves:
                use_path(reader, leaf.search_path)  # where a view's functions look
                reader.execute(_lock(leaf), doing=f"lock {leaf.name.said} against DDL")
                if not _is_unchanged(reader, leaf):
                    raise SnapshotLost(
                        f"{leaf.name.said} was truncated or rewritten during the run",
                        "The snapshot no longer shows what the table held. Nothing was published.",
                        "Run again: it takes a new snapshot.",
                    )
            yield reader

    def _idle_session(self) -> Session | None:
        try:
            return self._idle.get_nowait()
        except queue.Empty:
            return None

    def _new_session(self) -> Session:
        session = self._registry.open(self.parameters, "source")
        begin = f"{READ_CONSISTENT}; SET TRANSACTION SNAPSHOT '{self._snapshot_id}'"
        try:
            salt = {SALT_SETTING: self.parameters.mask_salt} if self.parameters.mask_salt else {}
            session.begin(begin, salt)
        except SourceError as error:
            self._registry.close(session)
            if isinstance(error, SourceUnavailable):
                raise  # the connection, not the snapshot
            raise SnapshotLost(
                "the source's snapshot is gone", error.detail, "Run again: it takes a new one."
            ) from error
        return session

    def has_reached(self, lsn: str) -> bool:
        """Returns whether the source's WAL is at or past a position by now."""
        with self._lock:
            return lsn_number(read_lsn(self.holder)) >= lsn_number(lsn)

    def wait_flushed(self) -> None:
        """Waits until the source has written the WAL of all that the snapshot shows to disk.

        A row of an asynchronous commit is visible before it is durable; after a crash it is gone
        and its transaction id given out again. A standby replays only what is flushed.

        Raises:
            SourceUnavailable: If it is not flushed in 30 seconds.
        """
        with self._lock:
            if self._is_flushed():
                return
            self._nudge()
            deadline = time.monotonic() + _FLUSH_WAIT_SECONDS
            while time.monotonic() < deadline:
                if self._is_flushed():
                    return
                time.sleep(_FLUSH_POLL_SECONDS)
        raise SourceUnavailable(
            "the source has not written its WAL to disk",
            f"WAL position {self.cut.lsn} was not flushed within {_FLUSH_WAIT_SECONDS:g} s. "
            "Nothing was published.",
            "Look for a stuck disk on the source, then run again.",
        )

    def _is_flushed(self) -> bool:
        if self.cut.is_standby:
            return True
        query = "SELECT pg_current_wal_flush_lsn() >= %(lsn)s::pg_lsn"
        return bool(self.holder.execute(query, {"lsn": self.cut.lsn})[0][0])

    def _nudge(self) -> None:
        """Makes the source's WAL writer write now: a quiet one takes up to 15 seconds.

        Costs one transaction id. Where the role may only ever read, the waiting has to do.
        """
        try:
            with self._observer().transaction() as session:
                session.execute("SELECT pg_current_xact_id()")
        except SourceError as error:
            logger.debug("source not nudged", extra={"why": error.primary})

    def close(self) -> None:
        """Ends the snapshot and every session in it."""
        while (session := self._idle_session()) is not None:
            self._registry.close(session)
        if self._outside is not None:
            self._registry.close(self._outside)
        self._registry.close(self.holder)


def use_path(reader: Session, search_path: tuple[str, ...]) -> None:
    """Sets where a custom_where finds its functions; undone with the savepoint it stands in.

    As a value of SET LOCAL the whole list would be taken for one name.
    """
    path = ", ".join(map(in_double_quotes, search_path))
    reader.execute("SELECT set_config('search_path', %(path)s, true)", {"path": path})


def _lock(leaf: Leaf) -> sql.Composable:
    """Takes ACCESS SHARE on a leaf, and on all that a view reads from.

    LOCK TABLE takes neither foreign tables nor materialized views, and wants rights on what a
    view reads; planning a query locks the same and runs nothing.
    """
    if leaf.has_row_versions:
        return sql.SQL("LOCK TABLE ONLY {} IN ACCESS SHARE MODE").format(leaf.name.sql)
    return sql.SQL("EXPLAIN SELECT FROM {}").format(leaf.name.sql)


def _is_unchanged(reader: Session, leaf: Leaf) -> bool:
    """Whether the name still means this leaf, and its heaps are those the snapshot knows."""
    oid, file_nodes = reader.execute(
        "SELECT pg_catalog.to_regclass(%(name)s)::oid::bigint, array("
        "SELECT pg_catalog.pg_relation_filenode(oid)::bigint "
        "FROM pg_catalog.unnest(%(heaps)s::pg_catalog.oid[]) "
        "WITH ORDINALITY AS heap (oid, position) ORDER BY position)",
        {"name": leaf.name.regclass, "heaps": [heap.oid for heap in leaf.heaps]},
    )[0]
    return bool(oid == leaf.oid and file_nodes == [heap.file_node for heap in leaf.heaps])
