"""Bytes from one COPY TO to one COPY FROM by way of libpq, through a pipe of the operating system.

The pipe bounds what is read ahead, and lets the source work while the target does.
"""

import fcntl
import io
import os
import select
import struct
import termios
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from extract_load.batch_thread import be_batch
from extract_load.errors import ExtractLoadError
from extract_load.spool import BLOCK_BYTES
from extract_load.stream_watch import (
    JOIN_SECONDS,
    CopyStats,
    StreamWatch,
    Watchdog,
    require_equal,
)

PIPE_BYTES = 1 << 20
"""Linux's largest pipe for an ordinary user; elsewhere the system's own size stays."""

_F_SETPIPE_SZ = getattr(fcntl, "F_SETPIPE_SZ", None)
_F_GETPIPE_SZ = getattr(fcntl, "F_GETPIPE_SZ", None)

CopyOut = Callable[["PipeWriter"], int]
"""Writes a COPY TO into a stream; returns its rows."""
CopyIn = Callable[["PipeReader"], int]
"""Reads a COPY FROM out of a stream; returns its rows."""


class PipeReader:
    """The read end of the pipe: counts bytes, and ends only when the writer ended well.

    A COPY whose input simply stops at a row's end is complete for PostgreSQL, in both formats. So
    when the source broke off, the end of the pipe must be an error, never an end of file.
    """

    def __init__(self, descriptor: int, pace: Callable[[int], None] = lambda _: None) -> None:
        self._descriptor = descriptor
        self._pace = pace
        self._writer_ended = threading.Event()
        self._writer_error: BaseException | None = None
        self._starved_seconds = 0.0
        self._starves_since: float | None = None
        self.bytes = 0
        self.moved_at = time.monotonic()
        """When the target last took bytes."""

    def read(self, size: int) -> bytes:
        """Returns up to `size` bytes; none at the end.

        Raises:
            ExtractLoadError: What stopped the writer, when it did not reach its end.
        """
        self._starves_since = started = time.monotonic()
        data = os.read(self._descriptor, size)
        self.moved_at = time.monotonic()  # first: else the target is blamed for the wait
        self._starves_since = None
        self._starved_seconds += self.moved_at - started
        if data:
            self.bytes += len(data)
            self._pace(len(data))
            self.moved_at = time.monotonic()
            return data
        self.moved_at = time.monotonic()
        self._writer_ended.wait(JOIN_SECONDS)
        if self._writer_error is not None:
            raise self._writer_error
        return b""

    @property
    def starved_seconds(self) -> float:
        """How long the target has waited for bytes."""
        since = self._starves_since
        return self._starved_seconds + (0.0 if since is None else time.monotonic() - since)

    @property
    def is_starved(self) -> bool:
        """Whether the target waits for bytes; else it is at those it has, and after the last."""
        return self._starves_since is not None

    def end(self, error: BaseException | None) -> None:
        """Says how the writer ended; to be called before its end of the pipe is closed."""
        self._writer_error = error
        self._writer_ended.set()


class PipeWriter:
    """The write end of the pipe.

    psycopg2 calls `write` for each row, so it is that of a plain BufferedWriter: a subclass of it
    looks up whether it is closed with every call.
    """

    def __init__(self, descriptor: int, reader: PipeReader) -> None:
        self._file = io.BufferedWriter(io.FileIO(descriptor, "wb"), BLOCK_BYTES)
        self._reader = reader
        self._descriptor = descriptor
        self._full_at = _pipe_bytes(descriptor) - 2 * BLOCK_BYTES
        self.write = self._file.write
        self.flush = self._file.flush
        self.close = self._file.close

    @property
    def starved_seconds(self) -> float:
        """How long the other end has waited for bytes."""
        return self._reader.starved_seconds

    @property
    def is_wide(self) -> bool:
        """Whether a block can go in without waiting at all."""
        return self._full_at >= 0

    @property
    def has_room(self) -> bool:
        """Whether a block goes in without waiting, and the one that may be in the buffer.

        Also where nobody reads any more: that writing fails is for the writer to find out.
        """
        return _waiting_bytes(self._descriptor) <= self._full_at or self._is_broken()

    def _is_broken(self) -> bool:
        looked_at = select.poll()
        looked_at.register(self._descriptor, 0)
        return bool(looked_at.poll(0))


_WRITES_AGAIN_SECONDS = 1.0
"""How long a writer whose reader gave up has until its next row, before its source is cut."""


def move_by_libpq(
    copy_out: CopyOut, copy_in: CopyIn, watch: StreamWatch | None = None
) -> CopyStats:
    """Returns what it moved from one COPY to another, both running at the same time.

    Args:
        copy_out: Run in a thread of its own.
        copy_in: Run in the caller's thread.
        watch: What the stream may not exceed.

    Raises:
        ExtractLoadError: What either side raised; the source's error where both failed.
        SourceUnavailable: Or TargetUnavailable, if a side stalled.
        MemoryShort: Or MemoryExceeded, if rows are too large for the process.
        VerificationFailed: If the two servers counted different numbers of rows.
    """
    if watch is None:
        return _moved(copy_out, copy_in, None)
    with watch.memory.watched(watch.source.sever):
        return _moved(copy_out, copy_in, watch)


def _moved(copy_out: CopyOut, copy_in: CopyIn, watch: StreamWatch | None) -> CopyStats:
    read_end, write_end = os.pipe()
    _widen(write_end)
    reader = PipeReader(read_end, watch.pace) if watch else PipeReader(read_end)
    writer = _Writer(copy_out, write_end, reader)
    writer.start()
    watchdog: Watchdog | None = None
    try:
        watchdog = Watchdog(reader, watch) if watch else None
        rows = copy_in(reader)
    except BaseException as error:
        stalled = watchdog.stop() if watchdog else None
        os.close(read_end)  # the writer's next write fails, if it is still writing
        writer.join(_WRITES_AGAIN_SECONDS)
        was_cut_off = writer.was_cut_off or (writer.is_alive() and writer.error is None)
        if watch is not None and watch.owns_source and writer.is_alive():
            watch.source.sever()  # it waits for a row, in memory that its connection's end frees
        writer.join(JOIN_SECONDS)
        if stalled is not None:
            raise stalled from error
        if isinstance(writer.error, ExtractLoadError) and not was_cut_off:
            raise writer.error from error
        raise
    stalled = watchdog.stop() if watchdog else None
    os.close(read_end)
    writer.join(JOIN_SECONDS)
    if stalled is not None:  # a connection was cut just as all was done
        raise stalled
    require_equal(writer.rows, rows)
    return CopyStats(rows, reader.bytes)


def _widen(pipe: int) -> None:
    """Makes a pipe as large as it may be; an ordinary user has room for 64 of these (pipe(7))."""
    if _F_SETPIPE_SZ is not None:
        with suppress(PermissionError):
            fcntl.fcntl(pipe, _F_SETPIPE_SZ, PIPE_BYTES)


def _waiting_bytes(pipe: int) -> int:
    size = fcntl.ioctl(pipe, termios.FIONREAD, b"\0" * 4)
    return int(struct.unpack("i", size)[0])


def _pipe_bytes(pipe: int) -> int:
    return fcntl.fcntl(pipe, _F_GETPIPE_SZ) if _F_GETPIPE_SZ is not None else 0


class _Writer(threading.Thread):
    """The thread that runs the COPY TO."""

    def __init__(self, copy_out: CopyOut, descriptor: int, reader: PipeReader) -> None:
        super().__init__(name="copy-out", daemon=True)
        self._copy_out = copy_out
        self._descriptor = descriptor
        self._reader = reader
        self.rows: int | None = None
        self.error: BaseException | None = None
        self.was_cut_off = False

    def run(self) -> None:
        """Copies; every ending is told to the reader before the pipe is closed."""
        be_batch()
        stream = PipeWriter(self._descriptor, self._reader)
        try:
            self.rows = self._copy_out(stream)
            stream.flush()
        except BaseException as error:  # noqa: BLE001 - it is raised in the reader's thread
            self.error = error
            self.was_cut_off = isinstance(error.__cause__ or error, BrokenPipeError)
        finally:
            self._reader.end(self.error)
            self._close(stream)

    def _close(self, stream: PipeWriter) -> None:
        try:
            stream.close()
        except BrokenPipeError:
            self.was_cut_off = True
