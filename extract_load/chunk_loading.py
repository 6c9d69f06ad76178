"""The chunks of one table, several at a time, each tried again by itself."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass, field

from extract_load import lease, log
from extract_load.batch_thread import be_batch
from extract_load.chunk_copy import end_part, load_chunk, member_of, read_text
from extract_load.chunking import Chunk
from extract_load.connection import ServerTransaction, Session
from extract_load.connection_parameters import ConnectionParameters
from extract_load.copy_frames import GoneWithAll
from extract_load.errors import ExtractLoadError, LockYielded, SnapshotLost, Yielded
from extract_load.load import Load
from extract_load.retry import attempt
from extract_load.server_messages import PROTOCOL_VIOLATION
from extract_load.sessions import SessionRegistry
from extract_load.shared_read import SharedRead
from extract_load.snapshot import SourceSnapshot
from extract_load.stream_watch import CopyStats
from extract_load.table_plan import TablePlan
from extract_load.wide_rows import naming_large_values, naming_wide_columns, require_room

YIELD_SECONDS = 0.2
"""For who waited to take the lock."""

logger = log.get_logger(__name__)


@dataclass
class LandingCounts:
    """What happened so far; read for the report also when the table fails."""

    rows_read: int = 0
    bytes_read: int = 0
    chunks: int = 0
    """Loaded by this run."""
    chunks_planned: int = 0
    """Loaded by this run, or yet to be."""
    chunks_resumed: int = 0
    """Loaded by earlier runs, and kept."""
    retries: int = 0
    loading_since: float = field(default_factory=time.monotonic)
    """When the first rows were asked for, on the monotonic clock."""
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

    def add_retry(self, error: ExtractLoadError) -> None:
        """Adds one repeated attempt, and tells it."""
        with self._lock:
            self.retries += 1
        logger.warning("trying again", extra={"why": error.primary})


Progress = Callable[[TablePlan, LandingCounts], None]
"""Told after each chunk."""


class ChunkLoading:
    """Loads chunks of one table over sessions of its own."""

    def __init__(
        self,
        registry: SessionRegistry,
        target: ConnectionParameters,
        counts: LandingCounts,
        progress: Progress,
        shared: SharedRead | None = None,
    ) -> None:
        """Opens nothing yet.

        Args:
            registry: Where sessions to the target are opened.
            target: Where the chunks land.
            counts: What is loaded is added here.
            progress: Told after each chunk.
            shared: Where the targets of one source table meet; None: this is the only one.
        """
        self._shared = shared
        self._registry = registry
        self._target = target
        self._counts = counts
        self._progress = progress
        self._lost: set[ServerTransaction] = set()
        self._may_go_below = True

    def load(self, source: SourceSnapshot, load: Load, chunks: Sequence[Chunk]) -> None:
        """Loads every chunk, `parallel_workers` at a time; the first error stops the rest.

        Raises:
            SnapshotLost: If the snapshot no longer shows what it did; repeating would not help.
            ExtractLoadError: Whatever a chunk ended with after all its attempts.
        """
        workers = max(1, min(load.plan.settings.parallel_workers, _readable_at_once(chunks)))
        with (
            self._meeting(load, chunks),
            ThreadPoolExecutor(workers, "chunk", initializer=be_batch) as pool,
        ):
            futures = [
                pool.submit(copy_context().run, self._load_chunk, source, load, chunk)
                for chunk in _in_turn(load.plan, chunks)
            ]
            try:
                done, _ = wait(futures, return_when=FIRST_EXCEPTION)
            finally:
                pool.shutdown(wait=True, cancel_futures=True)
            for future in done:
                future.result()

    def end_lost(self, session: Session) -> None:
        """Ends what goes on of chunks that failed: nobody told a server that its client is gone.

        Whoever loads such a chunk again, drops the scratch table, or takes the lease would wait.

        Args:
            session: To the target, outside a transaction.
        """
        for lost in tuple(self._lost):
            lease.end_transaction(session, lost)
            self._lost.discard(lost)

    @contextmanager
    def _meeting(self, load: Load, chunks: Sequence[Chunk]) -> Iterator[None]:
        """Takes part in reads for several targets, where there are several."""
        if self._shared is None:
            yield
        else:
            reads = [read_text(load, chunk) for chunk in chunks]
            with self._shared.joined(member_of(load.plan.settings), reads):
                yield

    def _load_chunk(self, source: SourceSnapshot, load: Load, chunk: Chunk) -> None:
        def once() -> CopyStats | None:
            memory = source.governor.memory
            if memory.is_short and self._shared is not None:
                self._shared.go_alone(member_of(load.plan.settings))
            with (
                memory.turn() as is_alone,
                naming_wide_columns(load.plan),
                self._worker_session() as session,
            ):
                require_room(source, load.plan, chunk, is_alone=is_alone)
                shared = None if is_alone else self._shared
                with naming_large_values(source, load.plan, chunk):
                    stats = load_chunk(
                        session, source, load, chunk, shared, may_go_below=self._may_go_below
                    )
            if self._shared is not None:
                end_part(self._shared, load, chunk)
            return stats

        source.wait_until_calm()
        started = time.monotonic()
        stats = attempt(
            lambda: _yielding(once),
            attempts=1 + load.plan.settings.max_retries,
            on_retry=self._before_retry,
            unless=lambda error: isinstance(error, SnapshotLost),
        )
        self._counts.add_chunk()
        if stats is not None:
            self._counts.add(stats)
            logger.debug(
                "loaded",
                extra={
                    "chunk": chunk.number,
                    "rows": stats.rows,
                    "seconds": time.monotonic() - started,
                },
            )
        self._progress(load.plan, self._counts)

    def _before_retry(self, error: ExtractLoadError) -> None:
        """Counts a retry; where messages may have been others than rows, libpq reads the rest."""
        self._counts.add_retry(error)
        if error.sqlstate == PROTOCOL_VIOLATION or isinstance(error.__cause__, GoneWithAll):
            self._may_go_below = False

    @contextmanager
    def _worker_session(self) -> Iterator[Session]:
        """A session to the target for one chunk; one that failed is not used again."""
        session = self._registry.borrow(self._target)
        try:
            self.end_lost(session)
            yield session
        except BaseException:
            if session.held_in is not None:
                self._lost.add(session.held_in)
            self._registry.close(session)
            self._registry.doubt(self._target)
            raise
        self._registry.give_back(session)


def _in_turn(plan: TablePlan, chunks: Sequence[Chunk]) -> Sequence[Chunk]:
    """The chunks as they are begun: of a window the last first.

    Most of its rows lie there, new and changed ones; begun last, one worker would read them alone.
    """
    return chunks if plan.is_baseline else chunks[::-1]


def _readable_at_once(chunks: Sequence[Chunk]) -> int:
    """How many chunks can be read at a time: those that may ask for the time go one by one."""
    one_by_one = sum(chunk.leaf.reads_others for chunk in chunks)
    return len(chunks) - max(one_by_one - 1, 0)


def _yielding(once: Callable[[], CopyStats | None]) -> CopyStats | None:
    """Reads a chunk again whenever it was ended for others.

    It ends: the snapshot reaches its age, a target is left behind once a chunk, and chunks that go
    one at a time are not cut for each other.
    """
    while True:
        try:
            return once()
        except LockYielded:
            time.sleep(YIELD_SECONDS)
        except Yielded as error:
            logger.info("begins again", extra={"why": error.primary})
