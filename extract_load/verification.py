"""`verify`: whether raw tables hold what their sources hold, naming the keys that differ."""

import secrets
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

from extract_load import lease, log
from extract_load.comparison import (
    Standing,
    compare_table,
    is_equal,
    published,
    since_publish,
    unknown,
)
from extract_load.config import Settings, TableSettings
from extract_load.connection import READ_CONSISTENT, Session
from extract_load.connection_parameters import ConnectionParameters
from extract_load.deletes import count_live
from extract_load.equality import TableDifference
from extract_load.errors import TargetError, error_of
from extract_load.extract import count_rows
from extract_load.governor import Governor
from extract_load.landing import LandingOptions
from extract_load.look import plan_in, read_target_state
from extract_load.memory import MemoryBudget
from extract_load.publish import Publication
from extract_load.runner import Run, RunOptions
from extract_load.sessions import SessionRegistry
from extract_load.snapshot import SourceSnapshot
from extract_load.table_plan import TablePlan
from extract_load.tables_in_parallel import in_parallel
from extract_load.verdict import DIFFERENT, EQUAL, PENDING, TableVerdict, VerifyReport

logger = log.get_logger(__name__)


class Verification:
    """Compares tables, several at a time; changes nothing unless it settles them."""

    def __init__(
        self,
        settings: Settings,
        tables: tuple[TableSettings, ...],
        connections: Mapping[str, ConnectionParameters],
    ) -> None:
        """Opens nothing yet.

        Args:
            settings: How many tables at a time, and connections of each one's own snapshot.
            tables: What to verify; those not enabled are left out.
            connections: By connection id.
        """
        self._settings = settings
        self._tables = tuple(table for table in tables if table.enabled)
        self._connections = connections
        self._registry = SessionRegistry(lease.application_name(secrets.token_hex(4)))

    def look(self) -> VerifyReport:
        """Returns what is found of the tables as they stand; reads only."""
        started = time.monotonic()
        at_once = self._settings.run.tables_in_parallel
        verdicts = in_parallel(self._look_at, self._tables, at_once, self._registry)
        return VerifyReport(verdicts, time.monotonic() - started)

    def settle(self, wait_seconds: float) -> VerifyReport:
        """Returns what is found after a run of the tables, in the snapshot that was published.

        Args:
            wait_seconds: For a table that another run writes.
        """
        started = time.monotonic()
        verdicts: dict[tuple[str, tuple[str, str]], TableVerdict] = {}
        lock = threading.Lock()

        def after_publish(
            source: SourceSnapshot, plan: TablePlan, session: Session, publication: Publication
        ) -> None:
            verdict = _settled(source, plan, session, publication)
            with lock:
                verdicts[_place(plan.settings)] = verdict

        landing = LandingOptions(wait_seconds=wait_seconds, after_publish=after_publish)
        options = RunOptions(landing=landing, invoked_by={"program": "extract-load verify"})
        report = Run(self._settings, self._tables, self._connections, options).execute()
        return VerifyReport(
            tuple(
                verdicts.get(_place(table)) or TableVerdict(table, error=result.error)
                for table, result in zip(self._tables, report.tables, strict=True)
            ),
            time.monotonic() - started,
        )

    def _look_at(self, table: TableSettings) -> TableVerdict:
        names = {"table": table.source.written, "raw_table": table.target.written}
        with log.bound(**names, target=table.target_connection):
            try:
                return self._looked_at(table)
            except Exception as exc:
                logger.debug("not verified", exc_info=True)
                return _failed(table, exc)

    def _looked_at(self, table: TableSettings) -> TableVerdict:
        """The target first: then the source's snapshot is newer than what is published."""
        parameters = self._connections[table.target_connection]
        with (
            self._registry.opened(parameters, "target") as session,
            session.transaction(READ_CONSISTENT),
        ):
            state = read_target_state(session, table)
            if state.raw is None:
                raise TargetError(
                    f"there is no raw table {table.target.said} in target "
                    f'"{table.target_connection}" yet',
                    "Nothing was compared.",
                    f"Run \"extract-load run --select '{table.source}'\" first.",
                )
            with self._snapshot(table) as source:
                plan = plan_in(table, source, state)
                return _verdict(source, session, plan, since_publish(plan))

    @contextmanager
    def _snapshot(self, table: TableSettings) -> Iterator[SourceSnapshot]:
        conn_id = table.source_connection
        governor = Governor(conn_id, self._settings.run, MemoryBudget())
        source = SourceSnapshot(self._connections[conn_id], self._registry, governor)
        try:
            yield source
        finally:
            source.close()


def _settled(
    source: SourceSnapshot, plan: TablePlan, session: Session, publication: Publication
) -> TableVerdict:
    """The verdict just after a publish, in its snapshot and under its lease."""
    try:
        with session.transaction(READ_CONSISTENT):
            state = read_target_state(session, plan.settings)
            watermark = state.watermark
            is_ours = watermark is not None and watermark.loaded_at == publication.loaded_at
            now = replace(plan, target=state)
            return _verdict(source, session, now, published(now) if is_ours else unknown(now))
    except Exception as exc:
        logger.debug("not verified", exc_info=True)
        return _failed(plan.settings, exc)


def _verdict(
    source: SourceSnapshot, session: Session, plan: TablePlan, standing: Standing
) -> TableVerdict:
    found = (
        compare_table(source, session, plan, standing)
        if _has_columns(plan)
        else _all_pending(source, session, plan)
    )
    status = PENDING if found.pending_count else EQUAL
    if not is_equal(found, plan):
        status = DIFFERENT
    return TableVerdict(plan.settings, status, found)


def _has_columns(plan: TablePlan) -> bool:
    raw = plan.target.raw
    return raw is not None and all(raw.column(name) for name in plan.contract.names)


def _all_pending(source: SourceSnapshot, session: Session, plan: TablePlan) -> TableDifference:
    """A column the raw table lacks came since the last publish, or one would have added it."""
    rows = count_rows(source, plan)
    return replace(
        TableDifference.nothing(rows, count_live(session, plan)), pending_count=max(rows, 1)
    )


def _failed(table: TableSettings, exc: Exception) -> TableVerdict:
    return TableVerdict(table, error=error_of(exc, "The table was not compared."))


def _place(table: TableSettings) -> tuple[str, tuple[str, str]]:
    return table.target_connection, table.target.parts
