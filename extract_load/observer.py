"""What a source says now, past any snapshot: its tables, its WAL, who waits, how it fares."""

import threading
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager

from extract_load import log
from extract_load.baseline import lsn_number
from extract_load.catalog import (
    Column,
    Leaf,
    TableSchema,
    read_columns,
    read_lsn,
    read_row_versions,
)
from extract_load.connection import READ_CONSISTENT, WRITE, Session
from extract_load.connection_parameters import ConnectionParameters
from extract_load.errors import SourceError, SourceUnavailable
from extract_load.governor import Fares
from extract_load.identifiers import TableName
from extract_load.sessions import SessionRegistry
from extract_load.source_table import read_source_table
from extract_load.sql import queries

_FLUSH_WAIT_SECONDS = 30.0
_FLUSH_POLL_SECONDS = 0.05

logger = log.get_logger(__name__)


class Observer:
    """One session to a source, opened when it is first needed, shared by threads."""

    def __init__(self, parameters: ConnectionParameters, registry: SessionRegistry) -> None:
        """Opens nothing yet.

        Args:
            parameters: The source.
            registry: Where the session is opened.
        """
        self._parameters = parameters
        self._registry = registry
        self._lock = threading.Lock()
        self._session: Session | None = None

    @contextmanager
    def looking(self, begin: str = READ_CONSISTENT) -> Iterator[Session]:
        """Yields the session in a transaction of its own."""
        with self._lock:
            if self._session is not None and not self._session.is_alive():
                self._registry.close(self._session)
                self._session = None
            if self._session is None:
                self._session = self._registry.open(self._parameters, "source")
            with self._session.transaction(begin) as session:
                yield session

    def table(self, name: TableName) -> TableSchema:
        """Returns a table as the catalog has it now."""
        with self.looking() as session:
            return read_source_table(session, name)

    def row_versions(self, table: TableSchema) -> str | None:
        """Returns the versions of a plain table's catalog rows now; None where all are gone."""
        with self.looking() as session:
            return read_row_versions(session, [table]).get(table.oid)

    def has_other_columns(self, leaves: Sequence[Leaf]) -> bool:
        """Returns whether columns of leaves are not named now as the snapshot shows them."""
        oids = [leaf.oid for leaf in leaves]
        with self.looking() as session:
            now = read_columns(session, oids, "look whether columns were renamed")
        return any(_names(leaf.columns) != _names(now[leaf.oid]) for leaf in leaves)

    def fares(self) -> Fares:
        """Returns how the source fares."""
        doing = "ask how the source fares"
        with self.looking() as session:
            ((lag, active),) = session.execute(queries("catalog")["fares"], doing=doing)
        return Fares(lag, active)

    def blockers(self, pids: Collection[int]) -> set[int]:
        """Returns which of some backends hold a lock that somebody else waits for."""
        with self.looking() as session:
            found = session.execute(queries("catalog")["blockers"], {"pids": list(pids)})
        return {pid for (pid,) in found}

    def is_working(self, pid: int) -> bool:
        """Returns whether a backend is busy with something else than its client."""
        doing = "look at a reader"
        try:
            with self.looking() as session:
                found = session.execute(queries("catalog")["is_working"], {"pid": pid}, doing)
        except SourceError as error:
            logger.debug("reader not seen", extra={"why": error.primary})
            return False
        return bool(found and found[0][0])

    def has_reached(self, lsn: str) -> bool:
        """Returns whether the source's WAL is at or past a position."""
        with self.looking() as session:
            return lsn_number(read_lsn(session)) >= lsn_number(lsn)

    def wait_flushed(self, lsn: str) -> None:
        """Waits until a primary has written its WAL up to a position to disk.

        A row of an asynchronous commit is visible before it is durable; after a crash it is gone
        and its transaction id given out again.

        Raises:
            SourceUnavailable: If it is not flushed in 30 seconds.
        """
        if self._is_flushed(lsn):
            return
        self._nudge()
        deadline = time.monotonic() + _FLUSH_WAIT_SECONDS
        while time.monotonic() < deadline:
            if self._is_flushed(lsn):
                return
            time.sleep(_FLUSH_POLL_SECONDS)
        raise SourceUnavailable(
            "the source has not written its WAL to disk",
            f"WAL position {lsn} was not flushed within {_FLUSH_WAIT_SECONDS:g} s. "
            "Nothing was published.",
            "Look for a stuck disk on the source, then run again.",
        )

    def _is_flushed(self, lsn: str) -> bool:
        query = "SELECT pg_current_wal_flush_lsn() >= %(lsn)s::pg_lsn"
        with self.looking() as session:
            return bool(session.execute(query, {"lsn": lsn})[0][0])

    def _nudge(self) -> None:
        """Makes the source's WAL writer write now: a quiet one takes up to 15 seconds.

        Costs one transaction id. Where the role may only ever read, the waiting has to do.
        """
        try:
            with self.looking(WRITE) as session:
                session.execute("SELECT pg_current_xact_id()")
        except SourceError as error:
            logger.debug("source not nudged", extra={"why": error.primary})

    def sever(self) -> None:
        """Cuts the connection, from another thread."""
        if self._session is not None:
            self._session.sever()

    def close(self) -> None:
        """Ends the session."""
        if self._session is not None:
            self._registry.close(self._session)


def _names(columns: Iterable[Column]) -> list[tuple[int, str]]:
    return [(column.number, column.name) for column in columns]
