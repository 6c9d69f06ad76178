"""A stream into several: each at its own speed, none at the speed of the slowest."""

import io
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

from extract_load.connection import Session
from extract_load.spool import BLOCK_BYTES, Sink, Spool

_LOOK_SECONDS = 0.002
"""Between two looks whether a full pipe has room again. What it holds keeps its target busy for
about ten times as long."""


class Pipe(Sink, Protocol):
    """Where a target takes bytes; it holds some, and is full at times."""

    @property
    def is_wide(self) -> bool:
        """Returns whether blocks can go in without waiting at all."""

    @property
    def has_room(self) -> bool:
        """Returns whether a block goes in without waiting."""

    @property
    def starved_seconds(self) -> float:
        """Returns how long its other end has waited for bytes."""


class Tee(io.RawIOBase):
    """Writes blocks to the pipes of targets, and to spools of those that cannot keep up.

    While one pipe is full and the targets of others starve, its target holds them up. How much of
    that is too much says `holds_up`; then the target gets a spool in the place of its pipe.
    """

    def __init__(
        self,
        pipes: Mapping[object, Pipe],
        spools: Mapping[object, Spool],
        holds_up: Callable[[object, float], bool],
        new_spool: Callable[[object], Spool | None],
        leave_out: Callable[[object, Exception], None],
    ) -> None:
        """Writes nothing yet.

        Args:
            pipes: Of the targets that take bytes now.
            spools: Of those that will.
            holds_up: Told for how many more seconds a target let others wait; whether to go on
                without it.
            new_spool: Returns a spool for a target that held up others; None: there is no room.
            leave_out: Told of a target that gets no more bytes, and why.
        """
        super().__init__()
        self._pipes = dict(pipes)
        self._spools = dict(spools)
        self._holds_up = holds_up
        self._new_spool = new_spool
        self._leave_out = leave_out
        self._pace: Callable[[int], None] = lambda _: None
        self._lock = threading.Lock()
        self._is_over = False
        self._is_cut = False
        self.reader: Session | None = None
        """Who reads just now."""
        self.is_writing = False
        """Whether a block is paced or passed on now."""
        self.moved_at = time.monotonic()
        """When a block was last written to all."""
        for member in [m for m, pipe in pipes.items() if self._has_others and not pipe.is_wide]:
            self._go_on_without(member, memoryview(b""))

    @contextmanager
    def read_by(self, reader: Session, pace: Callable[[int], None]) -> Iterator[None]:
        """Says who writes into this for the length of the block.

        Args:
            reader: Whom `sever` cuts.
            pace: Waits until so many bytes may pass; told once of what goes to all.
        """
        self._pace = pace
        with self._lock:
            self.reader = reader
            if self._is_cut:
                reader.sever()
        try:
            yield
        finally:
            with self._lock:  # after it, the session is somebody else's
                self.reader = None

    def sever(self) -> None:
        """Cuts the connection of who reads just now, or will."""
        with self._lock:
            self._is_cut = True
            if self.reader is not None:
                self.reader.sever()

    def writable(self) -> bool:
        """Returns True."""
        return True

    def write(self, data: Any, /) -> int:
        """Writes a block, the first of the bytes it is given, to all that still take it.

        Raises:
            BrokenPipeError: If nobody does.
        """
        block = memoryview(data)[:BLOCK_BYTES]
        if self._is_over:
            return len(block)
        self.is_writing = True
        self._pace(len(block))
        for member in list(self._spools):
            self._keep(member, block)
        self._pass_on(block)
        self.moved_at = time.monotonic()
        self.is_writing = False
        if not self._pipes and not self._spools:
            raise BrokenPipeError
        return len(block)

    def end(self) -> None:
        """Drops what is still in the buffer: the reading is over, well or not."""
        self._is_over = True

    def _pass_on(self, block: memoryview) -> None:
        """Writes to each pipe that has room, until none is left that has yet to get the block."""
        full = self._written(block, self._pipes)
        starved = self._starved_seconds() if full else {}
        while full:
            time.sleep(_LOOK_SECONDS)
            before, starved = starved, self._starved_seconds()
            others = [starved[one] - before.get(one, 0.0) for one in starved if one not in full]
            lost = max(others, default=0.0)
            for member in [one for one in full if lost and self._holds_up(one, lost)]:
                del full[member]
                self._go_on_without(member, block)
            full = self._written(block, full)

    def _written(self, block: memoryview, pipes: Mapping[object, Pipe]) -> dict[object, Pipe]:
        """Those of some pipes that had no room."""
        full = {}
        for member, pipe in list(pipes.items()):
            if self._has_others and not pipe.has_room:
                full[member] = pipe
                continue
            try:
                pipe.write(block)
            except OSError as error:
                del self._pipes[member]
                self._leave_out(member, error)
        return full

    @property
    def _has_others(self) -> bool:
        return len(self._pipes) + len(self._spools) > 1

    def _starved_seconds(self) -> dict[object, float]:
        taking: dict[object, Pipe | Spool] = {**self._pipes, **self._spools}
        return {member: one.starved_seconds for member, one in taking.items()}

    def _go_on_without(self, member: object, block: memoryview) -> None:
        """Lets a spool take what a pipe had no room for, and all that follows."""
        del self._pipes[member]
        spool = self._new_spool(member)
        if spool is not None:
            self._spools[member] = spool
            self._keep(member, block)

    def _keep(self, member: object, block: memoryview) -> None:
        try:
            self._spools[member].write(block)
        except OSError as error:
            del self._spools[member]
            self._leave_out(member, error)
