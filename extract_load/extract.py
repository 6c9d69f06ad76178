"""Reading the source: one shared snapshot, the queries of a plan, estimates."""

import queue
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from psycopg2 import sql

from extract_load import log
from extract_load.baseline import lsn_number
from extract_load.catalog import (
    ServerCut,
    TableSchema,
    read_lsn,
    read_server_cut,
    read_source_table,
)
from extract_load.chunking import Chunk
from extract_load.config import CursorType, TableSettings
from extract_load.connection import READ_CONSISTENT, Session, SessionRegistry
from extract_load.connection_parameters import ConnectionParameters
from extract_load.errors import ConfigError, SnapshotLost, SourceError, SourceUnavailable
from extract_load.identifiers import TableName, columns_sql
from extract_load.modes import cursor_of
from extract_load.table_plan import TablePlan
from extract_load.watermark import lower_of

PREDICATE_PATH = "pg_catalog, public"
"""search_path of statements that hold a custom_where: its operators may live in public."""

logger = log.get_logger(__name__)

_NO_VALUE = "22"
"""The SQLSTATE class of a text that is no value of its type."""

_SINCE_EXAMPLES: dict[CursorType, str] = {
    CursorType.TIMESTAMP: "2026-01-31 06:00",
    CursorType.TIMESTAMPTZ: "2026-01-31 06:00+00",
    CursorType.DATE: "2026-01-31",
    CursorType.INTEGER: "1000",
    CursorType.BIGINT: "1000",
    CursorType.NUMERIC: "1000.5",
}

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
        earlier_lsn = read_lsn(self.holder)
        self.holder.begin(READ_CONSISTENT)
        exported = self.holder.execute(
            "SELECT pg_export_snapshot()", doing="export the source's snapshot"
        )
        self._snapshot_id = str(exported[0][0])
        self.cut: ServerCut = read_server_cut(self.holder, earlier_lsn)
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
    def reading(self, table: TableSchema) -> Iterator[Session]:
        """Yields a reader for one pass over a table that still holds what the snapshot shows.

        TRUNCATE and rewriting ALTER TABLE are not MVCC-safe (manual, 13.6): after one, the
        snapshot reads nothing, or rows that came later. The lock keeps them out during the pass;
        rolling back to the savepoint frees it and keeps the snapshot.

        Raises:
            SourceUnavailable: If the table was truncated, rewritten or replaced since.
        """
        with self.reader() as reader:
            reader.execute("SAVEPOINT reading")
            reader.execute(
                sql.SQL("LOCK TABLE ONLY {} IN ACCESS SHARE MODE").format(table.name.sql),
                doing=f'lock "{table.name}" against DDL',
            )
            # By name, not by OID: another table may have taken the name.
            now = reader.execute(
                "SELECT pg_relation_filenode(to_regclass(%(name)s))", {"name": table.name.regclass}
            )
            if now[0][0] != table.file_node:
                raise SnapshotLost(
                    f'"{table.name}" was truncated or rewritten during the run',
                    "The snapshot no longer shows what the table held. Nothing was published.",
                    "Run again: it takes a new snapshot.",
                )
            yield reader
            reader.execute("ROLLBACK TO SAVEPOINT reading; RELEASE SAVEPOINT reading")

    def _idle_session(self) -> Session | None:
        try:
            return self._idle.get_nowait()
        except queue.Empty:
            return None

    def _new_session(self) -> Session:
        session = self._registry.open(self.parameters, "source")
        begin = f"{READ_CONSISTENT}; SET TRANSACTION SNAPSHOT '{self._snapshot_id}'"
        try:
            session.begin(begin, {"search_path": PREDICATE_PATH})
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


@dataclass(frozen=True)
class Estimate:
    """What the source's planner expects of a plan."""

    rows: int
    bytes_sent: int
    bytes_read: int
    """What the source reads from its disk or cache."""


def copy_out_query(plan: TablePlan, chunk: Chunk) -> sql.Composable:
    """Returns the COPY that reads a chunk."""
    return sql.SQL(
        "COPY ({select} WHERE {range} AND {predicate}) TO STDOUT (FORMAT {format})"
    ).format(
        select=_select(plan),
        range=chunk.range.predicate,
        predicate=plan.predicate,
        format=sql.SQL(plan.contract.copy_format),
    )


def copy_keys_query(plan: TablePlan) -> sql.Composable:
    """Returns the COPY that reads every key of the table in the snapshot."""
    return sql.SQL("COPY (SELECT {keys} FROM ONLY {table} WHERE {belongs}) TO STDOUT").format(
        keys=_key_expressions(plan), table=plan.settings.source.sql, belongs=plan.belongs
    )


def copy_rows_query(plan: TablePlan, keys: list[tuple[str, ...]]) -> sql.Composable:
    """Returns the COPY that reads the rows of some keys.

    Args:
        plan: The table's.
        keys: Key values as text, at least one key.
    """
    types = [plan.contract.column(name).source_type for name in plan.key]
    listed = sql.SQL(", ").join(
        sql.SQL("({})").format(
            sql.SQL(", ").join(
                sql.SQL("{}::{}").format(sql.Literal(value), sql.SQL(type_text))
                for value, type_text in zip(key, types, strict=True)
            )
        )
        for key in keys
    )
    return sql.SQL(
        "COPY ({select} WHERE {belongs} AND ({keys}) IN (VALUES {listed})) "
        "TO STDOUT (FORMAT {format})"
    ).format(
        select=_select(plan),
        belongs=plan.belongs,
        keys=key_columns(plan),
        listed=listed,
        format=sql.SQL(plan.contract.copy_format),
    )


def count_rows(session: Session, plan: TablePlan) -> int:
    """Returns how many rows the table has in the snapshot."""
    query = sql.SQL("SELECT count(*) FROM ONLY {} WHERE {}").format(
        plan.settings.source.sql, plan.belongs
    )
    doing = f'count the rows of "{plan.settings.source}"'
    return int(session.execute(query, doing=doing)[0][0])


def estimate(session: Session, plan: TablePlan) -> Estimate:
    """Returns what the source's planner expects; reads no row."""
    query = sql.SQL("EXPLAIN (FORMAT JSON) {} WHERE {}").format(_select(plan), plan.predicate)
    found = session.execute(query, doing=f'estimate the rows of "{plan.settings.source}"')
    node = found[0][0][0]["Plan"]
    rows = int(node["Plan Rows"])
    sent = rows * int(node["Plan Width"])
    scans_all = "Seq Scan" in node["Node Type"] or len(plan.chunks) > 1
    return Estimate(rows, sent, plan.source.table_bytes if scans_all else sent)


def read_since(session: Session, table: TableSettings, schema: TableSchema, since: str) -> str:
    """Returns a low bound as the source reads it: of the cursor's type, in one text form.

    Args:
        session: To the source.
        table: Settings of a table in `incremental_sync`.
        schema: The source table.
        since: As the user wrote it.

    Raises:
        ConfigError: If it is no value of the cursor's type.
        SchemaMismatch: If the table has no such cursor.
    """
    name, cursor_type = cursor_of(table, schema)
    query = sql.SQL("SELECT {}::{}::text").format(sql.Literal(since), sql.SQL(cursor_type.value))

    def refused(said: str) -> ConfigError:
        return ConfigError(
            f'since "{since}" cannot bound cursor "{name}" of "{table.source}"',
            f"The cursor is {cursor_type}. {said} Nothing was read.",
            f'Write "since" like {_SINCE_EXAMPLES[cursor_type]}; a full refresh reads all rows.',
        )

    try:
        read = str(session.execute(query, doing="read the low bound")[0][0])
    except SourceError as exc:
        if (exc.sqlstate or "").startswith(_NO_VALUE):
            raise refused(exc.detail + ".") from exc
        raise
    try:
        lower_of(read, read, cursor_type)
    except ValueError as exc:
        raise refused(f'The source reads it as "{read}".') from exc
    return read


def require_boolean(session: Session, plan: TablePlan) -> None:
    """Lets the source prove that custom_where is a condition, without reading a row.

    Raises:
        SourceError: If it is not, or names what the table does not have.
    """
    if plan.settings.custom_where is None:
        return
    query = sql.SQL("EXPLAIN SELECT FROM ONLY {} WHERE {}").format(
        plan.settings.source.sql, plan.belongs
    )
    session.execute(query, doing=f'use custom_where of "{plan.settings.source}"')


def _select(plan: TablePlan) -> sql.Composable:
    # ONLY: a table's children are tables of their own.
    return sql.SQL("SELECT {} FROM ONLY {}").format(
        sql.SQL(", ").join(column.expression for column in plan.contract.columns),
        plan.settings.source.sql,
    )


def _key_expressions(plan: TablePlan) -> sql.Composable:
    return sql.SQL(", ").join(plan.contract.column(name).expression for name in plan.key)


def key_columns(plan: TablePlan) -> sql.Composed:
    """Returns the key's columns, joined by commas."""
    return columns_sql(plan.key)
