"""How much memory the process takes, and what happens where rows are too large for it.

Nobody knows how large a row is before it is there: libpq takes a whole one into memory, where rows
do not pass below it. So the process is looked at while streams run. Where it takes more than it
may, they are cut, and chunks go one at a time from then on; one that is too much even so is
refused.
"""

import ctypes
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from extract_load import log
from extract_load.errors import MemoryExceeded, MemoryShort

LOOK_SECONDS = 0.02
TRIM_SECONDS = 0.25
LEAVE_SECONDS = 60.0
MIB = 1 << 20

_STATM = Path("/proc/self/statm")
_PAGE_BYTES = 4096
_LIBC = ctypes.CDLL(None)
_M_MMAP_THRESHOLD = -3
_LARGE_BYTES = 4 << 20
_ROW_TIMES = 3.5
"""A row stands in libpq's buffer, which doubles until it fits; then by itself, then as bytes."""

logger = log.get_logger(__name__)


def resident_bytes() -> int:
    """Returns how much memory the process takes; 0 where the system does not tell it so (macOS)."""
    try:
        return int(_STATM.read_text(encoding="ascii").split()[1]) * _PAGE_BYTES
    except OSError:
        return 0


def _return_large_blocks() -> None:
    """Lets memory of large rows go back to the system when they are done.

    Else glibc keeps what it once took, in each thread's arena (mallopt(3), M_MMAP_THRESHOLD).
    """
    mallopt = getattr(_LIBC, "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)


def _trim() -> None:
    """Gives free memory back to the system (malloc_trim(3)).

    Else it grows with the chunks: blocks of many lengths are freed between others that live.
    """
    trim = getattr(_LIBC, "malloc_trim", None)
    if trim is not None:
        trim(0)


@dataclass(eq=False)
class _Stream:
    cut: Callable[[], None]
    error: MemoryShort | MemoryExceeded | None = None


class MemoryBudget:
    """What the streams of a run may take together: the sum of its tables' `memory_limit_mb`.

    A process that takes more than half of it before a row is read (an Airflow task: about
    235 MiB) may take that half on top.
    """

    def __init__(self) -> None:
        """Looks at the process as it is before anything is landed."""
        _return_large_blocks()
        self._base = resident_bytes()
        self._granted = 0
        self._lock = threading.Lock()
        self._turn = threading.Lock()
        self._left = threading.Condition(self._lock)
        self._streams: set[_Stream] = set()
        self._looking: threading.Thread | None = None
        self.is_short = False
        """Whether chunks go one at a time by now."""

    @property
    def limit_bytes(self) -> int:
        """How much the process may take."""
        return max(self._granted, self._base + self._granted // 2)

    @property
    def row_bytes(self) -> int:
        """How large a row may be."""
        return int(max(self.limit_bytes - self._base, 0) / _ROW_TIMES)

    def needed_mib(self, row_bytes: int) -> int:
        """Returns the `memory_limit_mb` with which a row of so many bytes passes."""
        return -(-(self._base + int(_ROW_TIMES * row_bytes)) // (10 * MIB)) * 10

    @contextmanager
    def granted(self, mib: int) -> Iterator[None]:
        """Adds the limit of a table for the length of the block."""
        with self._lock:
            self._granted += mib * MIB
        try:
            yield
        finally:
            with self._lock:
                self._granted -= mib * MIB

    @contextmanager
    def turn(self) -> Iterator[bool]:
        """Waits for its turn where memory is short, and for streams that were cut to have left.

        Returns:
            Whether the block has the memory for itself.
        """
        is_alone = self.is_short
        with self._turn if is_alone else nullcontext():
            if is_alone:
                with self._left:
                    self._left.wait_for(lambda: not self._streams, LEAVE_SECONDS)
            yield is_alone

    def foresee(self, row_bytes: int, streams: int) -> None:
        """Lets no stream begin beside others, where their rows together would not fit.

        Args:
            row_bytes: The largest row of the stream that is about to begin.
            streams: How many may run at once.

        Raises:
            MemoryShort: If memory is short by now; again it has its turn.
        """
        facts = f"{streams} rows of {row_bytes // MIB} MiB at once"
        with self._lock:
            if row_bytes * streams > self.row_bytes:
                self._go_one_at_a_time(facts)
            if self.is_short:
                raise MemoryShort("memory is short", f"{facts}: {self.limit_bytes // MIB} MiB.")

    @contextmanager
    def watched(self, cut: Callable[[], None]) -> Iterator[None]:
        """Looks at the process for the length of the block.

        Args:
            cut: Ends the block's stream, from another thread.

        Raises:
            MemoryShort: If the stream was cut; again it has the memory for itself.
            MemoryExceeded: If it had.
        """
        stream = _Stream(cut)
        with self._lock:
            self._streams.add(stream)
            if self._looking is None:
                self._looking = threading.Thread(target=self._look, name="memory", daemon=True)
                self._looking.start()
        try:
            yield
        except Exception as error:
            self._forget(stream)
            if stream.error is not None:
                raise stream.error from error
            raise
        except BaseException:
            self._forget(stream)
            raise
        self._forget(stream)
        if stream.error is not None:  # it had just ended well, but its session is cut
            raise stream.error

    def _forget(self, stream: _Stream) -> None:
        with self._left:
            self._streams.discard(stream)
            self._left.notify_all()

    def _look(self) -> None:
        """Looks now and then, as long as there is a stream."""
        pause = threading.Event()
        trim_at = time.monotonic() + TRIM_SECONDS
        while not pause.wait(LOOK_SECONDS):
            if time.monotonic() > trim_at:
                _trim()
                trim_at = time.monotonic() + TRIM_SECONDS
            taken = resident_bytes()
            with self._lock:  # a stream that ended is not cut any more
                if not self._streams:
                    self._looking = None
                    return
                streams = [stream for stream in self._streams if stream.error is None]
                if streams and taken > self.limit_bytes:
                    self._cut(streams, taken)

    def _cut(self, streams: list[_Stream], taken: int) -> None:
        facts = f"The process took {taken // MIB} MiB of {self.limit_bytes // MIB}"
        is_alone = self.is_short and len(self._streams) == 1
        self._go_one_at_a_time(facts)
        for stream in streams:
            stream.error = (
                MemoryExceeded("a chunk does not fit into memory_limit_mb", f"{facts}.")
                if is_alone
                else MemoryShort("memory is short", f"{facts}, by several streams.")
            )
            stream.cut()

    def _go_one_at_a_time(self, why: str) -> None:
        if not self.is_short:
            logger.warning("memory is short: one chunk at a time from now on", extra={"why": why})
        self.is_short = True
