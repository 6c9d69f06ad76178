"""One table into one target: look, plan, extract and load each chunk, verify, publish.

A pass goes from a look at both sides to the publish, under one snapshot. Where it breaks off -
the snapshot is lost, a server restarts - another pass follows, and begins with what the ledger
says is loaded: the same way the next run goes on after this one was killed.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Self, TypeVar

from extract_load import lease, ledger, log
from extract_load.baseline import is_overtaken
from extract_load.chunk_loading import YIELD_SECONDS, ChunkLoading, LandingCounts, Progress
from extract_load.closing import close_reading, counting_ahead
from extract_load.comparison import proof_of
from extract_load.config import TableSettings, duration_text
from extract_load.connection import MERGES, WRITE_CONSISTENT, Session
from extract_load.connection_parameters import ConnectionParameters
from extract_load.deletes import KeysNeeded, SourceFacts
from extract_load.errors import (
    ExtractLoadError,
    LeaseHeld,
    RawTableTouched,
    SnapshotLost,
    SnapshotTooOld,
    SourceError,
    SourceUnavailable,
    Yielded,
)
from extract_load.evolution import evolve, follow_up
from extract_load.load import Load, finish_scratch, prepare
from extract_load.look import look_and_plan, read_target_state
from extract_load.publish import Publication, publish
from extract_load.raw_table import naming_lock_holders
from extract_load.repair import repair
from extract_load.resume import Resumed, remaining, why_not_repaired
from extract_load.retry import Patience, attempt
from extract_load.sessions import SessionRegistry
from extract_load.shared_read import SharedRead
from extract_load.snapshot import SourceSnapshot
from extract_load.table_plan import PlanOptions, TablePlan
from extract_load.watermark import Watermark
from extract_load.wide_rows import naming_wide_columns

PUBLISH_ATTEMPTS = 5
"""A publish is tried again when another transaction changed the same rows (40001)."""

_MISSES = 1
"""How often a snapshot may end by its age without a chunk done in it: it may have been old."""

logger = log.get_logger(__name__)

Result = TypeVar("Result")
AfterPublish = Callable[[SourceSnapshot, TablePlan, Session, Publication], None]


@dataclass(frozen=True)
class LandingOptions:
    """What a user may ask of one run."""

    full_refresh: bool = False
    """Reads whole tables."""
    since: str | None = None
    """Lowers the low bound of tables in `incremental_sync`, for this run."""
    allow_deletes: bool = False
    """Switches the delete guards off."""
    allow_rewrite: bool = False
    """Whether raw tables may be altered while their readers wait."""
    wait_seconds: float = 60.0
    """For a table that another run writes."""
    after_publish: AfterPublish | None = None
    """Called with the lease held: no other run publishes meanwhile. Raises nothing."""

    @property
    def asked(self) -> PlanOptions:
        """What of it the plan depends on."""
        return PlanOptions(self.full_refresh, self.since, self.allow_rewrite)


class Landing:
    """One table's way into one target; a context manager, which holds a session to it."""

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
        self._source_is_lost = False
        self._kept = 0
        self._needs_keys = False
        self._publication: Publication | None = None
        self._distrusted: str | None = None
        self._load: Load | None = None
        self.counts = LandingCounts()

    @property
    def plan(self) -> TablePlan | None:
        """The plan of the last pass."""
        return self._load.plan if self._load else None

    def __enter__(self) -> Self:
        self.session = self._registry.borrow(self._target)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            self._registry.give_back(self.session)
        else:
            self._registry.close(self.session)

    def run(
        self, options: LandingOptions, progress: Progress, shared: SharedRead | None = None
    ) -> Publication:
        """Lands and publishes the table.

        Args:
            options: What the user asked for.
            progress: Told after each chunk.
            shared: Where it meets the other targets of its source table.

        Raises:
            ExtractLoadError: Whatever went wrong. Nothing was published then, unless the answer to
                the publish's COMMIT was lost, or the run was interrupted after it.
        """
        loading = ChunkLoading(self._registry, self._target, self.counts, progress, shared)
        held = self.steadily(self._acquire(options.wait_seconds))
        try:
            return self._land(held, options, loading)
        finally:
            self._release(held, loading)

    def _acquire(self, wait_seconds: float) -> Callable[[Session], lease.Lease]:
        token = lease.new_token()  # one for all tries: the answer to the first may be lost

        def acquire(session: Session) -> lease.Lease:
            target = self._table.target
            return lease.acquire(session, target, self._run_id, wait_seconds, token)

        return acquire

    def steadily(self, action: Callable[[Session], Result]) -> Result:
        """Returns what an action returns that may be done twice, over a session that works.

        Raises:
            ExtractLoadError: What it ended with after `max_retries` more attempts.
        """

        def once() -> Result:
            if not self.session.is_alive():
                self._registry.close(self.session)
                self.session = self._registry.open(self._target, "target")
            return action(self.session)

        return attempt(
            once,
            attempts=1 + self._table.max_retries,
            on_retry=self.counts.add_retry,
            unless=lambda error: isinstance(error, LeaseHeld),
        )

    def _land(
        self, held: lease.Lease, options: LandingOptions, loading: ChunkLoading
    ) -> Publication:
        """Passes, as long as each brings the table further."""
        patience = Patience(self._table.max_retries)
        misses = 0
        while True:
            chunks = self.counts.chunks
            try:
                self._recover(held, loading)
                with naming_lock_holders(self.session, self._table.target):
                    return self._pass(held, options, loading)
            except RawTableTouched as error:  # once: the next pass relies on no row
                logger.warning("reads every row", extra={"why": error.primary})
                self._distrusted = error.detail.rstrip(".")
            except Yielded:  # outside the chunks; it ends when the snapshot reaches its age
                time.sleep(YIELD_SECONDS)
            except ExtractLoadError as error:
                unfit = why_not_repaired(self.plan) if self.plan else None
                brought_nothing = unfit is not None or self.counts.chunks == chunks
                misses += isinstance(error, SnapshotTooOld) and brought_nothing
                if misses > _MISSES:
                    raise self._too_short(unfit) from error
                pause = patience.pause(error, self._kept)
                if pause is None:
                    raise
                self._source_is_lost = isinstance(error, SnapshotLost)
                self.counts.add_retry(error)
                time.sleep(pause)

    def _too_short(self, unfit: str | None) -> SourceError:
        """A whole snapshot's age was not enough for one chunk, the closing pass, or the table."""
        age = self._source.governor.run.snapshot_max_age
        done, planned = self.counts.chunks, self.counts.chunks_planned
        what = "its closing pass" if done == planned else "one of its chunks"
        what = what if unfit is None else f"all of it ({unfit})"
        return SourceError(
            f"{self._table.source.said} needs a snapshot older than snapshot_max_age",
            f"{what[0].upper()}{what[1:]} was not done within {duration_text(age)}, twice. "
            "Nothing was published; what is loaded stays.",
            f"Set snapshot_max_age to {duration_text(2 * age)} or more, or lower batch_size.",
        )

    def _recover(self, held: lease.Lease, loading: ChunkLoading) -> None:
        """Takes another session or snapshot in the place of one that is gone."""
        is_lost = not self.session.is_alive()
        if is_lost:
            self._registry.close(self.session)
            self.session = self._registry.open(self._target, "target")
        loading.end_lost(self.session)
        if is_lost:
            lease.reclaim(self.session, held)
        if self._distrusted is not None:  # by the next run too, if this one is killed
            with self.session.transaction():
                lease.hold(self.session, held)
                ledger.forget_mark(self.session, self._table.target)
        if self._source_is_lost or not self._source.is_alive():
            self._source = self._renew(self._source)
            self._source_is_lost = False

    def _pass(
        self, held: lease.Lease, options: LandingOptions, loading: ChunkLoading
    ) -> Publication:
        session = self.session
        if not self._is_published():
            self._require_newest_snapshot(session)
            asked = replace(options.asked, distrusted=self._distrusted)
            plan = look_and_plan(self._table, self._source, session, asked)
            load = self._load = Load(plan, held, self._source.mark)
            _tell_plan(plan)
            evolve(session, load, lambda: read_target_state(session, self._table))
            self._load_rows(load, loading)
            try:
                self._close_and_publish(load, options)
            except KeysNeeded:
                self._needs_keys = True  # for later passes too: counts would tell them the same
                self._close_and_publish(load, options)
        return self._finish(options)

    def _is_published(self) -> bool:
        """Whether an earlier pass published, though the answer to its COMMIT was lost."""
        if self._publication is None:
            return False
        watermark = self._read_watermark(self.session)
        return watermark is not None and watermark.run_id == self._run_id

    def _require_newest_snapshot(self, session: Session) -> None:
        """Takes a newer snapshot where another run published one while this run waited.

        The lease comes after the run's snapshot; without this a raw table would go back in time.
        The one that has replaced it for another table of the run may be too old as well.
        """
        watermark = self._read_watermark(session)
        while watermark is not None and is_overtaken(self._source.cut, watermark):
            if self._source.has_reached(watermark.lsn or "0/0"):
                self._source = self._renew(self._source)
            elif self._source.cut.is_standby:
                raise SourceUnavailable(
                    f'standby "{self._table.source_connection}" is behind what is published',
                    f"It has not replayed WAL position {watermark.lsn} yet. Nothing was published.",
                    "Wait until it has caught up, or read from the primary.",
                )
            else:  # restored: the plan says so
                return

    def _read_watermark(self, session: Session) -> Watermark | None:
        with session.transaction():
            return ledger.read_watermark(session, self._table.target)

    # ------------------------------------------------------------ rows

    def _load_rows(self, load: Load, loading: ChunkLoading) -> None:
        """Loads what no earlier pass or run did, and brings all of it to one snapshot."""
        resumed = prepare(self.session, load)
        chunks = remaining(load.plan.chunks, resumed.kept)
        self._count_resumed(resumed, len(chunks))
        # A crash of the source takes back what is not on its disk, also out of kept chunks.
        self._source.wait_flushed()
        loading.load(self._source, load, chunks)
        if resumed.needs_repair(load.snapshot.id):
            with self._source.governor.memory.turn():
                self.counts.add(repair(self.session, self._source, load, resumed.kept))
        with counting_ahead(self._source, load.plan):
            finish_scratch(self.session, load)

    def _count_resumed(self, resumed: Resumed, to_load: int) -> None:
        others = [each for each in resumed.kept if each.run_id != self._run_id and each.chunk >= 0]
        self._kept = len(resumed.kept)
        self.counts.chunks_resumed = len(others)
        self.counts.chunks_planned = self.counts.chunks + to_load
        if not self.counts.rows_read:
            self.counts.loading_since = time.monotonic()
        if resumed.kept:
            facts = {"chunks_kept": len(resumed.kept), "chunks_left": to_load}
            logger.info("goes on", extra=facts)
        if resumed.why_dropped:
            dropped = {"chunks_dropped": len(resumed.dropped), "why": resumed.why_dropped}
            logger.warning("starts over" if not resumed.kept else "reads again", extra=dropped)

    # ------------------------------------------------------------ publish

    def _close_and_publish(self, load: Load, options: LandingOptions) -> None:
        by_keys = self._needs_keys
        facts = close_reading(self.session, self._source, load, self.counts, by_keys=by_keys)
        self._publication = self._publish(load, facts, options)

    def _publish(self, load: Load, facts: SourceFacts, options: LandingOptions) -> Publication:
        session, plan = self.session, load.plan

        def once() -> Publication:
            doing = f"publish {plan.settings.target.said}"
            with session.transaction(WRITE_CONSISTENT, MERGES, doing):
                # Kept before COMMIT: its answer may be lost, and the next pass asks the ledger.
                self._publication = publish(
                    session,
                    load,
                    facts,
                    allow_deletes=options.allow_deletes,
                    prove=proof_of(plan, self._source),
                )
            return self._publication

        with naming_wide_columns(plan):
            return attempt(
                once,
                attempts=PUBLISH_ATTEMPTS,
                on_retry=self.counts.add_retry,
                unless=lambda _: not session.is_alive(),
            )

    def _finish(self, options: LandingOptions) -> Publication:
        """What follows a publish."""
        load, publication = self._load, self._publication
        if load is None or publication is None:
            msg = "a table is finished that was not published"
            raise RuntimeError(msg)
        follow_up(self.session, load)
        if options.after_publish is not None:
            options.after_publish(self._source, load.plan, self.session, publication)
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

    def _release(self, held: lease.Lease, loading: ChunkLoading) -> None:
        """Gives the lease back; where the connection is lost it ends with its backend."""
        try:
            loading.end_lost(self.session)
            lease.release(self.session, held)
        except ExtractLoadError as error:
            logger.warning("lease not given back", extra={"why": error.primary})


def _tell_plan(plan: TablePlan) -> None:
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
