"""Carries out a plan: several tables at a time, each failing alone."""

import os
import secrets
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from extract_load import lease, ledger, log
from extract_load.chunk_copy import member_of
from extract_load.chunk_loading import LandingCounts, Progress
from extract_load.collect import collect
from extract_load.config import Settings, TableSettings
from extract_load.connection import NOT_DURABLE, Session
from extract_load.connection_parameters import ConnectionParameters, Resolver
from extract_load.errors import ExtractLoadError, error_of
from extract_load.extract import Estimate, estimate
from extract_load.governor import Governor
from extract_load.identifiers import TableName
from extract_load.landing import Landing, LandingOptions
from extract_load.look import look_and_plan
from extract_load.memory import MemoryBudget
from extract_load.once import Once
from extract_load.report import RunReport, TableResult, peak_rss_bytes
from extract_load.retry import attempt
from extract_load.selection import resolve_all, select_tables
from extract_load.sessions import SessionRegistry
from extract_load.shared_read import SharedRead
from extract_load.snapshot import SourceSnapshot
from extract_load.spool import SpoolSpace
from extract_load.table_plan import TablePlan
from extract_load.tables_in_parallel import in_parallel

logger = log.get_logger(__name__)

_LEDGER_ATTEMPTS = 3


def _no_progress(plan: TablePlan, counts: LandingCounts) -> None:
    """Tells nobody."""


@dataclass(frozen=True)
class RunOptions:
    """What a user or a scheduler asks of one run."""

    select: tuple[str, ...] = ()
    """Source or target names or globs; none selects all tables."""
    targets: tuple[str, ...] = ()
    """Target connection ids; none selects all."""
    landing: LandingOptions = field(default_factory=LandingOptions)
    workers: int | None = None
    """Overrides `parallel_workers` of every table."""
    invoked_by: Mapping[str, Any] = field(default_factory=dict)
    """Who asked, for the ledger."""
    progress: Progress = _no_progress
    """Told after each chunk."""


@dataclass(frozen=True)
class PlannedTable:
    """A plan with what the source expects of it, or why there is none."""

    table: TableSettings
    plan: TablePlan | None = None
    estimate: Estimate | None = None
    snapshot_max_age: timedelta | None = None
    """How old the snapshot it is read in may get."""
    error: ExtractLoadError | None = None


def run(
    settings: Settings,
    environ: Mapping[str, str],
    options: RunOptions = RunOptions(),
    resolver: Resolver | None = None,
) -> RunReport:
    """Extracts, loads and publishes tables; one table's failure stays its own.

    Args:
        settings: The tables.
        environ: Where connections are looked up.
        options: What to do.
        resolver: Asked first for connections.

    Returns:
        The report; it also stands in the ledger of each target.

    Raises:
        ConfigError: If a selection or a connection is wrong; nothing was done then.
    """
    tables = select_tables(settings, options.select, options.targets)
    connections = resolve_all(tables, environ, resolver)
    return Run(settings, tables, connections, options).execute()


class Run:
    """One invocation: the sessions it shares between tables, and their results."""

    def __init__(
        self,
        settings: Settings,
        tables: tuple[TableSettings, ...],
        connections: Mapping[str, ConnectionParameters],
        options: RunOptions,
    ) -> None:
        self.run_id = secrets.token_hex(4)
        self._settings = settings
        self._tables = tables
        self._connections = connections
        self._options = options
        self._registry = SessionRegistry(lease.application_name(self.run_id))
        self._heartbeat = lease.Heartbeat(self.run_id, self._registry.sever)
        self._memory = MemoryBudget()
        self._spool_space = SpoolSpace()
        self._governors = Once[Governor]()
        self._sources = Once[SourceSnapshot]()
        self._targets = Once[Session]()

    def execute(self) -> RunReport:
        """Returns the report when every table is done or has failed."""
        started_at, started = _now(), time.monotonic()
        results = self._land_all()
        self._close_sources()
        report = RunReport(
            run_id=self.run_id,
            started_at=started_at,
            finished_at=_now(),
            seconds=time.monotonic() - started,
            peak_rss_bytes=peak_rss_bytes(),
            tables=results,
        )
        self._finish(report)
        return report

    def plan_all(self) -> tuple[PlannedTable, ...]:
        """Returns the plan of every enabled table; changes nothing anywhere."""
        try:
            return tuple(self._planned(table) for table in self._tables if table.enabled)
        finally:
            self._close_sources()

    def _close_sources(self) -> None:
        self._heartbeat.stop()
        for source in self._sources.values():
            source.close()

    def _planned(self, table: TableSettings) -> PlannedTable:
        try:
            source = self._source(table)
            parameters = self._connections[table.target_connection]
            with Session(parameters, "target") as session:
                plan = look_and_plan(table, source, session, self._options.landing.asked)
            max_age = self._settings.run.snapshot_max_age
            return PlannedTable(table, plan, estimate(source, plan), max_age)
        except ExtractLoadError as error:
            return PlannedTable(table, error=error)

    def _land_all(self) -> tuple[TableResult, ...]:
        """Source tables several at a time; the targets of one of them all at once."""
        at_once = self._settings.run.tables_in_parallel
        places: defaultdict[tuple[str, TableName], list[int]] = defaultdict(list)
        for place, table in enumerate(self._tables):
            places[table.source_connection, table.source].append(place)
        groups = list(places.values())
        try:
            landed = in_parallel(self._land_to_all, groups, at_once, self._registry)
        except BaseException:
            self._heartbeat.stop(0.0)
            raise
        of_place = {place: one for results in landed for place, one in results}
        return tuple(of_place[place] for place in range(len(self._tables)))

    def _land_to_all(self, places: Sequence[int]) -> list[tuple[int, TableResult]]:
        """One source table into each of its targets."""
        tables = [self._tables[place] for place in places]
        if len(tables) == 1:
            return [(places[0], self._land(tables[0]))]
        members = [member_of(table) for table in tables if table.enabled]
        shared = SharedRead(members, self._spool_space)
        with ThreadPoolExecutor(len(tables), thread_name_prefix="target") as pool:
            landing = [
                pool.submit(copy_context().run, self._land, table, shared) for table in tables
            ]
            return [(place, one.result()) for place, one in zip(places, landing, strict=True)]

    def _land(self, table: TableSettings, shared: SharedRead | None = None) -> TableResult:
        result = TableResult(
            source=table.source.written,
            target=table.target.written,
            target_connection=table.target_connection,
            sync_mode=table.sync_mode.value,
            status="skipped",
        )
        if not table.enabled:
            return result
        if self._options.workers:
            table = replace(table, parallel_workers=self._options.workers)
        names = {"table": table.source.written, "raw_table": table.target.written}
        with log.bound(run=self.run_id, **names, target=table.target_connection):
            try:
                with self._memory.granted(table.memory_limit_mb):
                    return self._landed(table, result, shared)
            finally:
                if shared is not None:
                    shared.leave(member_of(table))

    def _landed(
        self, table: TableSettings, result: TableResult, shared: SharedRead | None
    ) -> TableResult:
        started = time.monotonic()
        landing: Landing | None = None
        try:
            parameters = self._connections[table.target_connection]
            self._target(table.target_connection)
            source = self._source(table)
            landing = Landing(
                table,
                source,
                parameters,
                self._registry,
                self.run_id,
                lambda older: self._newer_source(table, older),
            )
            with landing:
                landing.steadily(_in_ledger(ledger.start_table_run, self.run_id, table, result))
                publication = landing.run(self._options.landing, self._options.progress, shared)
                result = replace(
                    _with_counts(result, landing),
                    status="done",
                    rows_inserted=publication.rows_inserted,
                    rows_updated=publication.rows_updated,
                    rows_deleted=publication.rows_deleted,
                    rows_unchanged=publication.rows_unchanged,
                    rows_late=publication.rows_late,
                    published_at=publication.published_at,
                    verified=table.verify.value,
                    seconds=time.monotonic() - started,
                )
                landing.steadily(_in_ledger(ledger.finish_table_run, self.run_id, table, result))
                return result
        except Exception as exc:
            error = error_of(exc, "Nothing was published.")
            logger.debug("failed", exc_info=True)
            logger.error("failed", extra={"why": error.primary})  # noqa: TRY400 - no traceback
            result = replace(
                _with_counts(result, landing),
                status="failed",
                error=error,
                seconds=time.monotonic() - started,
            )
            self._tell_ledger(table, result)
            return result

    def _tell_ledger(self, table: TableSettings, result: TableResult) -> None:
        """Writes a failure where the target can still be reached."""
        try:
            parameters = self._connections[table.target_connection]
            with (
                Session(parameters, "target", attempts=1) as session,
                session.transaction(),
            ):
                if ledger.ledger_version(session):
                    ledger.finish_table_run(session, _facts(self.run_id, table, result))
        except ExtractLoadError as error:
            logger.warning("failure not in the ledger", extra={"why": error.primary})

    def _source(self, table: TableSettings) -> SourceSnapshot:
        """The run's snapshot of a source, taken when the first table asks; it tells of all."""
        conn_id = table.source_connection
        tables = [
            one.source for one in self._tables if one.enabled and one.source_connection == conn_id
        ]
        return self._sources.get(conn_id, lambda: self._take_snapshot(conn_id, tables))

    def _newer_source(self, table: TableSettings, older: SourceSnapshot) -> SourceSnapshot:
        """A snapshot taken after `older`, for this table and those that come later."""
        conn_id = table.source_connection
        return self._sources.replace(conn_id, older, lambda: self._take_snapshot(conn_id))

    def _take_snapshot(self, conn_id: str, tables: Sequence[TableName] = ()) -> SourceSnapshot:
        governor = self._governors.get(conn_id, lambda: self._new_governor(conn_id))
        return SourceSnapshot(self._connections[conn_id], self._registry, governor, tables)

    def _new_governor(self, conn_id: str) -> Governor:
        return Governor(conn_id, self._settings.run, self._memory)

    def _target(self, conn_id: str) -> Session:
        """The run's own session on a target: the ledger is there, the heartbeat beats on it."""

        def prepare() -> Session:
            session = self._registry.open(self._connections[conn_id], "target")
            try:
                ledger.migrate(session)
                with session.transaction(settings=NOT_DURABLE, doing="write into the ledger"):
                    ledger.start_run(session, self.run_id, self._options.invoked_by or _who())
                collect(session, self.run_id, self._settings.run.ledger_retention)
            except ExtractLoadError:
                self._registry.close(session)
                raise
            self._heartbeat.add_target(self._connections[conn_id])
            return session

        return self._targets.get(conn_id, lambda: attempt(prepare, attempts=_LEDGER_ATTEMPTS))

    def _finish(self, report: RunReport) -> None:
        for conn_id, session in self._targets.items():
            failed = any(table.target_connection == conn_id for table in report.failed)
            status = "failed" if failed else "done"
            try:
                with session.transaction():
                    ledger.finish_run(session, self.run_id, status, report.peak_rss_bytes)
            except ExtractLoadError as error:
                logger.warning("end of run not in the ledger", extra={"why": error.primary})
            self._registry.close(session)
        self._registry.close_idle()


def _in_ledger(
    write: Callable[[Session, dict[str, Any]], None],
    run_id: str,
    table: TableSettings,
    result: TableResult,
) -> Callable[[Session], None]:
    """What writes a result into the ledger, in a transaction of its own."""

    def written(session: Session) -> None:
        with session.transaction(settings=NOT_DURABLE, doing="write into the ledger"):
            write(session, _facts(run_id, table, result))

    return written


def _with_counts(result: TableResult, landing: Landing | None) -> TableResult:
    if landing is None:
        return result
    counts, plan = landing.counts, landing.plan
    return replace(
        result,
        baseline=plan.is_baseline if plan else None,
        window_low=plan.window.low if plan else None,
        window_high=plan.window.high if plan else None,
        rows_read=counts.rows_read,
        bytes_read=counts.bytes_read,
        chunks=counts.chunks,
        chunks_resumed=counts.chunks_resumed,
        retries=counts.retries,
    )


def _facts(run_id: str, table: TableSettings, result: TableResult) -> dict[str, Any]:
    """A result as the ledger's parameters."""
    return {
        **vars(result),
        "error": result.error.as_dict() if result.error else None,
        "peak_rss_bytes": peak_rss_bytes(),
        "run_id": run_id,
        "target_schema": table.target.schema,
        "target_table": table.target.table,
        "source_connection": table.source_connection,
        "source_table": table.source.written,
    }


def _who() -> dict[str, Any]:
    return {"program": "extract-load", "pid": os.getpid()}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
