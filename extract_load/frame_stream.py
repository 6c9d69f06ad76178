"""One COPY TO into one COPY FROM, below libpq, in the caller's thread.

The sockets of the system are the room between the two: the source fills the one while the other is
written. No row becomes an object; bytes stand in one buffer of 272 KiB.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from extract_load.copies import CopyFrom, CopyTo
from extract_load.copy_frames import FramesOut, Write
from extract_load.stream_watch import CopyStats, StreamWatch, Watchdog, require_equal


def move_below_libpq(copy_to: CopyTo, copy_from: CopyFrom, watch: StreamWatch) -> CopyStats:
    """Returns what it moved from one COPY to another, between sessions that have a wire.

    The source begins while the target does, and its locks are freed while the target takes the
    last rows.

    Raises:
        ExtractLoadError: What either side raised.
        SourceUnavailable: Or TargetUnavailable, if a side stalled.
        MemoryShort: Or MemoryExceeded, if the process takes too much.
        VerificationFailed: If the two servers counted different numbers of rows.
    """
    flow = _Flow(watch.pace)
    with watch.memory.watched(watch.source.sever):
        watchdog = Watchdog(flow, watch)
        try:
            moved = _moved(copy_to, copy_from, flow)
        except BaseException as error:
            stalled = watchdog.stop()
            if stalled is not None:
                raise stalled from error
            raise
        stalled = watchdog.stop()
        if stalled is not None:  # a connection was cut just as all was done
            raise stalled
    return moved


def _moved(copy_to: CopyTo, copy_from: CopyFrom, flow: "_Flow") -> CopyStats:
    reader, session = copy_to.reader, copy_from.session
    with ExitStack() as reading:
        with flow.starved():
            reading.enter_context(copy_to.holding())
            frames = reading.enter_context(reader.frames_out(copy_to.query, copy_to.doing))

        def pass_on(write: Write) -> None:
            with flow.starved():
                flow.pass_on(frames, write)
                reading.close()

        taken = session.take_frames(copy_from.query, pass_on, copy_from.doing)
    require_equal(frames.rows, taken)
    return CopyStats(frames.rows, frames.bytes)


class _Flow:
    """How far the stream is: the target is at work before its first byte, and after its last."""

    def __init__(self, pace: Callable[[int], None]) -> None:
        self._pace = pace
        self._frames: FramesOut | None = None
        self._moved_at = time.monotonic()
        self.is_starved = False

    @property
    def moved_at(self) -> float:
        """When the target last took bytes, or some came that are held back."""
        received_at = self._frames.received_at if self._frames is not None else 0.0
        return max(self._moved_at, received_at)

    @moved_at.setter
    def moved_at(self, at: float) -> None:
        self._moved_at = at

    @contextmanager
    def starved(self) -> Iterator[None]:
        """Says that the target waits for what the block does."""
        self._turn(is_starved=True)
        try:
            yield
        finally:
            self._turn(is_starved=False)

    def pass_on(self, frames: FramesOut, write: Write) -> None:
        """Passes all on; while a block is written, the target is at it."""

        def write_paced(data: memoryview) -> None:
            self.is_starved = False
            write(data)
            self._pace(len(data))
            self._turn(is_starved=True)

        self._frames = frames
        frames.pass_on(write_paced)

    def _turn(self, *, is_starved: bool) -> None:
        self._moved_at = time.monotonic()
        self.is_starved = is_starved
