"""One table into one target: look, plan, extract and load each chunk, verify, publish."""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass, field, replace

from extract_load import lease, ledger, log
from extract_load.baseline import is_overtaken
from extract_load.catalog import read_table
from extract_load.chunking import Chunk
from extract_load.comparison import proof_of
from extract_load.config import Deletes, SyncMode, TableSettings
from extract_load.connection import Session, SessionRegistry
from extract_load.connection_parameters import ConnectionParameters
from extract_load.deletes import gather
from extract_load.errors import ExtractLoadError, SchemaMismatch, SnapshotLost, SourceUnavailable
from extract_load.evolution import evolve, follow_up
from extract_load.extract import (
    count_rows,
    read_since,
    require_boolean,
    require_regular_cursor,
)
from extract_load.fingerprint import fingerprint_of, is_altered
from extract_load.load import Load, finish_scratch, load_chunk, prepare
from extract_load.planner import plan_table
from extract_load.predicate_judge import judge_predicate
from extract_load.predicate_time import at_moment
from extract_load.publish import Publication, SourceFacts, publish
from extract_load.raw_table import NO_FACTS, read_facts
from extract_load.retry import attempt
from extract_load.snapshot import SourceSnapshot, use_path
from extract_load.stream import CopyStats
from extract_load.table_plan import PlanOptions, TablePlan, TargetState
from extract_load.target_types import read_target_types
from extract_load.wide_rows import naming_wide_columns

PUBLISH_ATTEMPTS = 5
"""A publish is tried again when another transaction changed the same rows (40001)."""

logger = log.get_logger(__name__)


@dataclass(frozen=True)
class LandingOptions:
    """What a user may ask of one run."""

    full_refresh: bool = False
    since: str | None = None
    """Lowers the low bound of tables in `incremental_sync`, for this run."""
    allow_deletes: bool = False
    allow_rewrite: bool = False
    """Whether raw tables may be altered while their readers wait."""
    wait_seconds: float = 60.0
    after_publish: "AfterPublish | None" = None
    """Called with the lease held: no other run publishes meanwhile. Raises nothing."""


@dataclass
class LandingCounts:
    """What happened so far; read for the report also when the table fails."""

    rows_read: int = 0
    bytes_read: int = 0
    chunks: int = 0
    retries: int = 0
    loading_since: float = field(default_factory=time.monotonic)
    """When the first chunk began, on the monotonic clock."""
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(self, stats: CopyStats) -> None:
        """Adds what a COPY moved."""
        with self._lock:
            self.rows_read += stats.rows
            self.bytes_read += stats.bytes

    def add_chunk(self) -> None:
        """Adds one chunk that is loaded."""
        with self._lock:
            self.chunks += 1

    def add_retry(self) -> None:
        """Adds one repeated attempt."""
        with self._lock:
            self.retries += 1


AfterPublish = Callable[[SourceSnapshot, TablePlan, Session, Publication], None]
Progress = Callable[[TablePlan, LandingCounts], None]
"""Told after each chunk."""


class Landing:
    """One table's way into one target."""

    def __init__(
        self,
        table: TableSettings,
        source: SourceSnapshot,
        target: ConnectionParameters,
        registry: SessionRegistry,
        run_id: str,
        renew: Callable[[SourceSnapshot], SourceSnapshot],
    ) -> None:
        """Does nothing yet.

        Args:
            table: Its settings.
            source: The run's snapshot.
            target: Where it lands.
            registry: Where sessions to the target are opened.
            run_id: The run.
            renew: Returns a newer snapshot than the one it is given.
        """
        self._table = table
        self._source = source
        self._target = target
        self._registry = registry
        self._run_id = run_id
        self._renew = renew
        self._idle: queue.SimpleQueue[Session] = queue.SimpleQueue()
        self.counts = LandingCounts()
        self.plan: TablePlan | None = None

    def run(self, session: Session, options: LandingOptions, progress: Progress) -> Publication:
        """Lands and publishes the table.

        Args:
            session: To the target; its backend stands for the lease.
            options: What the user asked for.
            progress: Told after each chunk.

        Raises:
            ExtractLoadError: Whatever went wrong; nothing was published then.
        """
        held = lease.acquire(session, self._table.target, self._run_id, options.wait_seconds)
        try:
            return self._land(session, held, options, progress)
        finally:
            self._release(session, held)

    def _land(
        self, session: Session, held: lease.Lease, options: LandingOptions, progress: Progress
    ) -> Publication:
        self._require_newest_snapshot(session)
        plan = look_and_plan(self._table, self._source, session, options)
        self.plan = plan
        load = Load(plan, held)
        logger.info(
            "planned",
            extra={
                "publish": plan.publish.value,
                "chunks": len(plan.chunks),
                "why": plan.baseline_reason or "delta",
            },
        )
        if plan.since_note:
            logger.info(plan.since_note)
        evolve(session, load, lambda: read_target_state(session, self._table))
        prepare(session, load)
        self._load_chunks(load, progress)
        finish_scratch(session, load)
        facts = self._source_facts(session, load)
        self._require_same_source(plan)
        self._source.wait_flushed()
        with naming_wide_columns(plan):
            publication = attempt(
                lambda: publish(
                    session,
                    load,
                    facts,
                    allow_deletes=options.allow_deletes,
                    prove=proof_of(plan, self._source),
                ),
                attempts=PUBLISH_ATTEMPTS,
                on_retry=self._on_retry,
            )
        follow_up(session, load)
        if options.after_publish is not None:
            options.after_publish(self._source, plan, session, publication)
        logger.info(
            "published",
            extra={
                "rows": self.counts.rows_read,
                "inserted": publication.rows_inserted,
                "updated": publication.rows_updated,
                "deleted": publication.rows_deleted,
            },
        )
        return publication

    def _require_newest_snapshot(self, session: Session) -> None:
        """Takes a newer snapshot where another run published one while this run waited.

        The lease comes after the run's snapshot; without this a raw table would go back in time.
        """
        with session.transaction():
            watermark = read_target_state(session, self._table).watermark
        if watermark is None or not is_overtaken(self._source.cut, watermark):
            return
        if self._source.has_reached(watermark.lsn or "0/0"):
            self._source = self._renew(self._source)
        elif self._source.cut.is_standby:
            raise SourceUnavailable(
                f'standby "{self._table.source_connection}" is behind what is published',
                f"It has not replayed WAL position {watermark.lsn} yet. Nothing was published.",
                "Wait until it has caught up, or read from the primary.",
            )

    def _require_same_source(self, plan: TablePlan) -> None:
        """Refuses what was read while columns or enum labels were renamed under it.

        Such DDL rewrites nothing, so chunks before and after it would be mixed in silence.
        """
        now = self._source.table_now(plan.settings.source)
        try:
            is_same = not is_altered(
                plan.fingerprint, fingerprint_of(plan.settings, now, plan.servers)
            )
        except SchemaMismatch:  # a column the settings name is gone
            is_same = False
        if not is_same:
            raise SnapshotLost(
                f"{plan.settings.source.said} was altered during the run",
                "Its columns or types are not those the first chunk was read with. "
                "Nothing was published.",
                "Run again: it takes a new snapshot.",
            )

    def _source_facts(self, session: Session, load: Load) -> SourceFacts:
        """Counts and keys, read in the snapshot the rows were read in."""
        plan = load.plan
        rows = None
        if plan.deletes is not Deletes.IGNORE or (plan.is_baseline and plan.verifies_counts):
            rows = count_rows(self._source, plan)
        evidence = gather(session, self._source, load, rows or 0)
        self.counts.add(CopyStats(evidence.missing_rows, evidence.bytes))
        return SourceFacts(rows, evidence)

    def _load_chunks(self, load: Load, progress: Progress) -> None:
        """Loads every chunk, `parallel_workers` at a time; the first error stops the rest."""
        workers = max(1, min(self._table.parallel_workers, len(load.plan.chunks)))
        self.counts.loading_since = time.monotonic()
        with ThreadPoolExecutor(workers, thread_name_prefix="chunk") as pool:
            futures = [
                pool.submit(copy_context().run, self._load_chunk, load, chunk, progress)
                for chunk in load.plan.chunks
            ]
            try:
                done, _ = wait(futures, return_when=FIRST_EXCEPTION)
            finally:
                pool.shutdown(wait=True, cancel_futures=True)
                self._close_idle()
            for future in done:
                future.result()

    def _load_chunk(self, load: Load, chunk: Chunk, progress: Progress) -> None:
        def once() -> CopyStats | None:
            with naming_wide_columns(load.plan), self._worker_session() as session:
                return load_chunk(session, self._source, load, chunk)

        started = time.monotonic()
        stats = attempt(
            once,
            attempts=1 + load.plan.settings.max_retries,
            on_retry=self._on_retry,
            unless=SnapshotLost,
        )
        self.counts.add_chunk()
        if stats is not None:
            self.counts.add(stats)
            logger.debug(
                "loaded",
                extra={
                    "chunk": chunk.number,
                    "rows": stats.rows,
                    "seconds": time.monotonic() - started,
                },
            )
        progress(load.plan, self.counts)

    @contextmanager
    def _worker_session(self) -> Iterator[Session]:
        """A session to the target for one chunk; one that failed is not used again.

        Nor is one that idles then: a server that went took them all, and each would cost an
        attempt.
        """
        try:
            session = self._idle.get_nowait()
        except queue.Empty:
            session = self._registry.open(self._target, "target")
        try:
            yield session
        except BaseException:
            self._registry.close(session)
            self._close_idle()
            raise
        self._idle.put(session)

    def _close_idle(self) -> None:
        while True:
            try:
                session = self._idle.get_nowait()
            except queue.Empty:
                return
            self._registry.close(session)

    def _on_retry(self, error: ExtractLoadError) -> None:
        self.counts.add_retry()
        logger.warning("trying again", extra={"why": error.primary})

    def _release(self, session: Session, held: lease.Lease) -> None:
        """Gives the lease back; where the connection is lost it ends with its backend."""
        try:
            lease.release(session, held)
        except ExtractLoadError as error:
            logger.warning("lease not given back", extra={"why": error.primary})


def look_and_plan(
    table: TableSettings, source: SourceSnapshot, session: Session, options: LandingOptions
) -> TablePlan:
    """Returns the plan for a table; reads both sides and changes nothing.

    Args:
        table: Its settings.
        source: The snapshot it would be read in.
        session: To the target.
        options: Only `full_refresh`, `since` and `allow_rewrite` matter.
    """
    with session.transaction():
        state = read_target_state(session, table)
    return plan_in(table, source, state, options)


def plan_in(
    table: TableSettings, source: SourceSnapshot, state: TargetState, options: LandingOptions
) -> TablePlan:
    """Returns the plan for a table whose target was looked at before. Arguments as above."""
    schema = source.table(table.source)
    leaves = tuple(replace(leaf, search_path=table.search_path) for leaf in schema.leaves)
    schema = replace(schema, leaves=leaves)
    if table.custom_where is not None:
        table = replace(table, custom_where=at_moment(table.custom_where, source.cut.cut_at))
        judge_predicate(source, table, schema)
    since = options.since
    if since is not None and table.sync_mode is SyncMode.INCREMENTAL_SYNC:
        with source.reader() as reader:
            since = read_since(reader, table, schema, since)
    asked = PlanOptions(options.full_refresh, since, options.allow_rewrite)
    plan = plan_table(table, schema, source.cut, state, asked)
    with source.looking() as reader:
        use_path(reader, table.search_path)
        require_boolean(reader, plan)
    require_regular_cursor(source, plan)
    return plan


def read_target_state(session: Session, table: TableSettings) -> TargetState:
    """Returns what stands in the target, as the caller's transaction sees it."""
    raw = read_table(session, table.target)
    has_ledger = ledger.ledger_version(session) > 0
    return TargetState(
        raw=raw,
        watermark=ledger.read_watermark(session, table.target) if has_ledger else None,
        facts=read_facts(session, table.target, raw.oid) if raw else NO_FACTS,
        types=read_target_types(session),
    )
