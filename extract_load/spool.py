"""Rows that were read and that a slow target has yet to take: in a file without a name.

It is gone with the process, whatever ends that; nothing relies on it after a crash.
"""

import os
import shutil
import tempfile
import threading
import time
from typing import Protocol

BLOCK_BYTES = 1 << 16
"""What is written to a stream or a file at a time."""

MOST_BYTES = 4 << 30
"""What all spools of a run may take of the disk, ..."""

PART_OF_FREE = 0.25
"""... and of what was free of it when the run began."""


class Sink(Protocol):
    """Where bytes go."""

    def write(self, data: bytes | memoryview, /) -> int:
        """Takes all of it, and waits for room if it must."""


class SpoolFull(OSError):
    """A spool could not take its bytes: no room left for it, or the disk's own error."""


class SpoolSpace:
    """How much of the disk the spools of a run may take together."""

    def __init__(self, limit_bytes: int | None = None) -> None:
        """Takes nothing yet.

        Args:
            limit_bytes: None: `MOST_BYTES`, or `PART_OF_FREE` of what is free where Python puts
                temporary files (TMPDIR).
        """
        self._limit = limit_bytes
        self._taken = 0
        self._lock = threading.Lock()

    def take(self, bytes_: int) -> bool:
        """Returns whether so many bytes are free; they are taken then."""
        with self._lock:
            if self._limit is None:
                free = shutil.disk_usage(tempfile.gettempdir()).free
                self._limit = min(MOST_BYTES, int(PART_OF_FREE * free))
            if self._taken + bytes_ > self._limit:
                return False
            self._taken += bytes_
            return True

    def give_back(self, bytes_: int) -> None:
        """Frees bytes that were taken."""
        with self._lock:
            self._taken -= bytes_


class Spool:
    """One chunk for one target: written by who reads it, taken while or after that goes on."""

    def __init__(self, space: SpoolSpace) -> None:
        """Opens its file.

        Raises:
            OSError: If there can be none.
        """
        self._space = space
        self._file = tempfile.TemporaryFile(buffering=0, prefix="extract-load-")  # noqa: SIM115
        self._changed = threading.Condition()
        self._bytes = 0
        self._rows: int | None = None
        self._error: BaseException | None = None
        self._is_closed = False
        self._starved_seconds = 0.0
        self._starves_since: float | None = None

    def write(self, data: bytes | memoryview, /) -> int:
        """Takes bytes, and waits for nobody.

        Raises:
            SpoolFull: If there is no room for them.
            BrokenPipeError: If nobody wants them any more.
        """
        with self._changed:
            if self._is_closed:
                raise BrokenPipeError
            if not self._space.take(len(data)):
                raise SpoolFull
            try:
                written = 0
                while written < len(data):
                    written += os.write(self._file.fileno(), data[written:])
            except OSError as error:
                self._space.give_back(len(data))
                raise SpoolFull from error
            self._bytes += len(data)
            self._changed.notify_all()
        return len(data)

    def end(self, rows: int, error: BaseException | None) -> None:
        """Says that no byte comes any more; the first to say so knows why.

        Args:
            rows: How many were written.
            error: Why some are missing; None: none is.
        """
        with self._changed:
            if self._rows is None:
                self._rows, self._error = rows, error
                self._changed.notify_all()

    def copy_to(self, sink: Sink) -> int:
        """Returns the rows that went on into a sink, all of them.

        Raises:
            BaseException: What the reading ended with.
        """
        offset = 0
        while data := self._after(offset):
            sink.write(data)
            offset += len(data)
        return self._rows or 0

    def _after(self, offset: int) -> bytes:
        """What follows, when it is there; nothing at the end."""
        with self._changed:
            self._starves_since = started = time.monotonic()
            self._changed.wait_for(lambda: self._bytes > offset or self._rows is not None)
            self._starved_seconds += time.monotonic() - started
            self._starves_since = None
            if self._error is not None:
                raise self._error
            return os.pread(self._file.fileno(), BLOCK_BYTES, offset)

    @property
    def starved_seconds(self) -> float:
        """How long who takes it has waited for bytes."""
        since = self._starves_since
        return self._starved_seconds + (0.0 if since is None else time.monotonic() - since)

    def close(self) -> None:
        """Gives its place on the disk back; closed twice is closed."""
        with self._changed:
            if not self._is_closed:
                self._is_closed = True
                self._file.close()
                self._space.give_back(self._bytes)
