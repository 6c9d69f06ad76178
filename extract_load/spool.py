"""Rows that were read and that a slow target has yet to take: in a file without a name.

It is gone with the process, whatever ends that; nothing relies on it after a crash.
"""

import os
import resource
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
"""... and of what is free of it when the first one is written."""


class Sink(Protocol):
    """Where bytes go."""

    def write(self, data: bytes | memoryview, /) -> int:
        """Takes all of it, and waits for room if it must."""


class SpoolFull(OSError):
    """A spool could not take its bytes: no room left for it, or the disk's own error."""


class SpoolSpace:
    """How much of the disk, and how many open files, the spools of a run may take together."""

    def __init__(self, limit_bytes: int | None = None) -> None:
        """Takes nothing yet.

        Args:
            limit_bytes: None: `MOST_BYTES`, or `PART_OF_FREE` of what is free where Python puts
                temporary files (TMPDIR).
        """
        self._limit = limit_bytes
        self._taken = 0
        self._files = 0
        self._lock = threading.Lock()

    @property
    def is_used(self) -> bool:
        """Returns whether anything is taken."""
        return bool(self._taken or self._files)

    def take(self, bytes_: int) -> None:
        """Takes so many bytes.

        Raises:
            SpoolFull: If so many are not free.
        """
        with self._lock:
            if self._limit is None:
                free = shutil.disk_usage(tempfile.gettempdir()).free
                self._limit = min(MOST_BYTES, int(PART_OF_FREE * free))
            if self._taken + bytes_ > self._limit:
                raise SpoolFull(f"spools may take {self._limit >> 20} MiB of the disk")
            self._taken += bytes_

    def take_file(self) -> None:
        """Takes one open file; the sessions of a run need some too.

        Raises:
            SpoolFull: If a quarter of those that the process may open is taken.
        """
        soft_limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        with self._lock:
            if soft_limit != resource.RLIM_INFINITY and self._files >= soft_limit // 4:
                raise SpoolFull(f"spools may take a quarter of {soft_limit} open files (ulimit -n)")
            self._files += 1

    def give_back(self, bytes_: int, files: int = 0) -> None:
        """Frees what was taken."""
        with self._lock:
            self._taken -= bytes_
            self._files -= files


class Spool:
    """One chunk for one target: written by who reads it, taken while or after that goes on."""

    def __init__(self, space: SpoolSpace) -> None:
        """Opens its file.

        Raises:
            OSError: If there can be none.
        """
        space.take_file()
        try:
            self._file = tempfile.TemporaryFile(buffering=0, prefix="extract-load-")  # noqa: SIM115
        except OSError:
            space.give_back(0, files=1)
            raise
        self._space = space
        self._changed = threading.Condition()
        self._bytes = 0
        self._rows: int | None = None
        self._error: BaseException | None = None
        self._is_closed = False
        self._starved_seconds = 0.0
        self._starves_since: float | None = None

    @property
    def has_failed(self) -> bool:
        """Returns whether it will never hold all of its chunk."""
        return self._error is not None

    @property
    def starved_seconds(self) -> float:
        """Returns how long who takes it has waited for bytes."""
        since = self._starves_since
        return self._starved_seconds + (0.0 if since is None else time.monotonic() - since)

    def write(self, data: bytes | memoryview, /) -> int:
        """Takes bytes, and waits for nobody.

        Raises:
            SpoolFull: If there is no room for them.
            BrokenPipeError: If nobody wants them any more.
        """
        with self._changed:
            if self._is_closed or self.has_failed:
                raise BrokenPipeError
            self._space.take(len(data))
            try:
                written = 0
                while written < len(data):
                    written += os.write(self._file.fileno(), data[written:])
            except OSError as error:
                self._space.give_back(len(data))
                raise SpoolFull(str(error)) from error
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

    def cut(self) -> None:
        """Lets who takes it fail at once, also where all was written."""
        with self._changed:
            self._rows, self._error = self._rows or 0, self._error or BrokenPipeError()
            self._changed.notify_all()

    def copy_to(self, sink: Sink) -> int:
        """Returns the rows that went on into a sink, all of them. It may be copied again.

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
            self._starves_since = None
            self._starved_seconds += time.monotonic() - started
            if self._error is not None:
                raise self._error
            if self._is_closed:
                raise BrokenPipeError
            return os.pread(self._file.fileno(), BLOCK_BYTES, offset)

    def close(self) -> None:
        """Gives its place on the disk back; closed twice is closed."""
        with self._changed:
            if not self._is_closed:
                self._is_closed = True
                self._file.close()
                self._space.give_back(self._bytes, files=1)
