"""Bytes from one COPY TO to one COPY FROM, through a pipe of the operating system.

No row becomes a Python object. The pipe bounds what is read ahead, and lets the source work while
the target does.
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
from dataclasses import dataclass
from typing import Protocol

from extract_load.batch_thread import be_batch
from extract_load.connection_parameters import ConnectionParameters
from extract_load.errors import (
    ExtractLoadError,
    SourceUnavailable,
    TargetUnavailable,
    VerificationFailed,
)
from extract_load.memory import MemoryBudget
from extract_load.spool import BLOCK_BYTES

PIPE_BYTES = 1 << 20
"""Linux's largest pipe for an ordinary user; elsewhere the system's own size stays."""

_F_SETPIPE_SZ = getattr(fcntl, "F_SETPIPE_SZ", None)
_F_GETPIPE_SZ = getattr(fcntl, "F_GETPIPE_SZ", None)
_JOIN_SECONDS = 60.0

CopyOut = Callable[["PipeWriter"], int]
"""Writes a COPY TO into a stream; returns its rows."""
CopyIn = Callable[["PipeReader"], int]
"""Reads a COPY FROM out of a stream; returns its rows."""


@dataclass(frozen=True)
class CopyStats:
    """What one COPY moved."""

    rows: int
    bytes: int

    def __add__(self, other: "CopyStats") -> "CopyStats":
        return CopyStats(self.rows + other.rows, self.bytes + other.bytes)


NOTHING_COPIED = CopyStats(0, 0)


class Side(Protocol):
    """One end of a stream, as far as it is told of and ended."""

    @property
    def parameters(self) -> ConnectionParameters:
        """Returns where it is."""

    def sever(self) -> None:
        """Cuts the connection, from another thread."""


class TargetSide(Side, Protocol):
    """The end that takes."""

    @property
    def unsent_bytes(self) -> int:
        """Returns what the system has of its bytes and could not deliver yet."""


@dataclass(frozen=True)
class StreamWatch:
    """What a stream may not exceed, and how it is ended."""

    stall_seconds: float
    """After so long without a byte it is given up."""
    source: Side
    target: TargetSide
    is_source_working: Callable[[], bool]
    """Whether a source that sends nothing still looks for rows."""
    pace: Callable[[int], None]
    """Waits until so many bytes may pass."""
    memory: MemoryBudget
    """Ends streams that take too much of it."""


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
        self._starves_since = None
        self._starved_seconds += time.monotonic() - started
        if data:
            self.bytes += len(data)
            self._pace(len(data))
            self.moved_at = time.monotonic()
            return data
        self.moved_at = time.monotonic()
        self._writer_ended.wait(_JOIN_SECONDS)
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


def move(copy_out: CopyOut, copy_in: CopyIn, watch: StreamWatch | None = None) -> CopyStats:
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
    watchdog = _Watchdog(reader, watch) if watch else None
    writer.start()
    try:
        rows = copy_in(reader)
    except BaseException as error:
        stalled = watchdog.stop() if watchdog else None
        os.close(read_end)  # the writer's next write fails, if it is still writing
        writer.join(_JOIN_SECONDS)
        if stalled is not None:
            raise stalled from error
        if isinstance(writer.error, ExtractLoadError) and not writer.was_cut_off:
            raise writer.error from error
        raise
    if watchdog is not None:
        watchdog.stop()
    os.close(read_end)
    writer.join(_JOIN_SECONDS)
    if writer.rows != rows:
        raise VerificationFailed(
            f"the source sent {writer.rows} rows, the target took {rows}",
            "The two COPY commands of one chunk disagree. The chunk was not loaded.",
            "Run again; if it happens again, please report it.",
        )
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


class _Watchdog(threading.Thread):
    """The thread that gives a stream up when nothing moves."""

    def __init__(self, reader: PipeReader, watch: StreamWatch) -> None:
        super().__init__(name="watchdog", daemon=True)
        self._reader = reader
        self._watch = watch
        self._ended = threading.Event()
        self._stalled: ExtractLoadError | None = None
        self.start()

    def stop(self) -> ExtractLoadError | None:
        """Ends the watch; returns what it gave the stream up for."""
        self._ended.set()
        self.join(_JOIN_SECONDS)
        return self._stalled

    def run(self) -> None:
        """Looks now and then; cuts the connection of the side that stalled."""
        limit, unsent = self._watch.stall_seconds, 0
        while not self._ended.wait(min(1.0, limit / 4)):
            before, unsent = unsent, self._watch.target.unsent_bytes
            if unsent < before:  # the last of a stream is megabytes in buffers of the system
                self._reader.moved_at = time.monotonic()
            if time.monotonic() < self._reader.moved_at + limit:
                continue
            is_target = not self._reader.is_starved
            if not is_target and _says_yes(self._watch.is_source_working, limit):
                self._reader.moved_at = time.monotonic()
                continue
            session = self._watch.target if is_target else self._watch.source
            self._stalled = _stalled(session, limit, is_target=is_target)
            session.sever()
            return


def _says_yes(ask: Callable[[], bool], seconds: float) -> bool:
    """Whether the answer is yes; none within the limit is a no."""
    answers: list[bool] = []
    asking = threading.Thread(target=lambda: answers.append(ask()), daemon=True)
    asking.start()
    asking.join(seconds)
    return answers == [True]


def _stalled(session: Side, seconds: float, *, is_target: bool) -> ExtractLoadError:
    kind = TargetUnavailable if is_target else SourceUnavailable
    side, verb = ("target", "took") if is_target else ("source", "sent")
    return kind(
        f'{side} "{session.parameters.conn_id}" stalled',
        f"It {verb} no byte for {seconds:g} s (stall_timeout). The connection was cut.",
        "It is tried again. Look at the server and the network if it happens often.",
    )


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
