"""One read of a source table for several targets.

Targets whose runs would send the very same COPY, in the same snapshot, meet at each chunk: one of
them reads, and what it reads goes to all. Who keeps the others waiting, does not come to a meeting
in time, or takes no byte, is left out and reads by itself from then on.
"""

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

JOIN_SECONDS = 5.0
"""How long the first target waits for the others before it begins."""

HELD_UP_SECONDS = 5.0
"""A target for which the others waited so long in all, ..."""

HELD_UP_PART = 0.25
"""... and for more than this part of the time, reads by itself from then on."""

_LOOK_SECONDS = 0.25


class Sink(Protocol):
    """Where a target takes the rows of a chunk."""

    def write(self, data: bytes, /) -> int:
        """Takes all of it, and waits for room if it must."""

    @property
    def starved_seconds(self) -> float:
        """Returns how long its other end has waited for bytes."""


class TooSlow(Exception):
    """The others waited for this target; they go on without it."""


@dataclass(eq=False)
class _Meeting:
    """Those who want one chunk now."""

    sinks: dict[object, Sink]
    """By target."""
    came_at: list[float]
    left_out: dict[object, Exception] = field(default_factory=dict)
    has_begun: bool = False
    has_ended: bool = False
    rows: int = 0
    error: BaseException | None = None


class SharedRead:
    """Where the targets of one source table meet."""

    def __init__(self, members: Collection[object], patience_seconds: float) -> None:
        """Waits for nobody yet.

        Args:
            members: The targets, by any name.
            patience_seconds: How long a chunk waits for a target that wants it too.
        """
        self._coming = set(members)
        self._patience = patience_seconds
        self._wanted: dict[object, set[str]] = {}
        self._meetings: dict[str, _Meeting] = {}
        self._held_up: defaultdict[object, float] = defaultdict(float)
        self._alone: set[object] = set()
        self._began_at = time.monotonic()
        self._changed = threading.Condition()

    def leave(self, member: object) -> None:
        """Says that a target comes no more: it failed, or is done."""
        with self._changed:
            self._coming.discard(member)
            self._changed.notify_all()

    @contextmanager
    def joined(self, member: object, reads: Collection[str]) -> Iterator[None]:
        """Takes part for the length of the block; waits a moment for the others first.

        Args:
            member: Who.
            reads: What it is going to read: the same text is the same read.
        """
        with self._changed:
            self._wanted[member] = set(reads)
            self._coming.discard(member)
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._coming, JOIN_SECONDS)
            self._coming.clear()  # who is late finds the others at a later chunk, or reads alone
            self._began_at = time.monotonic()
        try:
            yield
        finally:
            with self._changed:
                del self._wanted[member]
                self._changed.notify_all()

    def copy(self, member: object, read: str, sink: Sink, copy_out: Callable[["Tee"], int]) -> int:
        """Returns the rows that went into a sink, read by this target or by another.

        Args:
            member: Who.
            read: What.
            sink: Where its rows go.
            copy_out: Reads them, if this target is the one.

        Raises:
            ExtractLoadError: What ended the read, in every target that waits for it.
            TooSlow: If the others go on without this target; it reads by itself when it asks again.
        """
        meeting, reads_itself = self._met(member, read, sink)
        if reads_itself:
            self._read_for_all(meeting, read, copy_out)
        else:
            with self._changed:
                self._changed.wait_for(lambda: meeting.has_ended or member in meeting.left_out)
        if member in meeting.left_out:
            raise meeting.left_out[member]
        if meeting.error is not None:
            raise meeting.error
        with self._changed:
            self._wanted.get(member, set()).discard(read)
        return meeting.rows

    def holds_up(self, member: object, seconds: float) -> bool:
        """Returns whether a target reads by itself from now on.

        Args:
            member: Who.
            seconds: How much longer the others have waited for it.
        """
        with self._changed:
            self._held_up[member] += seconds
            elapsed = time.monotonic() - self._began_at
            if self._held_up[member] < max(HELD_UP_SECONDS, HELD_UP_PART * elapsed):
                return False
            self.go_alone(member)
            return True

    def go_alone(self, member: object) -> None:
        """Lets a target read by itself from now on; nobody waits for it."""
        with self._changed:
            self._alone.add(member)
            self._wanted.get(member, set()).clear()
            self._changed.notify_all()

    def leave_out(self, meeting: _Meeting, member: object, error: Exception) -> None:
        """Lets a target end its part of a meeting, while the others go on."""
        with self._changed:
            meeting.left_out[member] = error
            self._changed.notify_all()

    def _met(self, member: object, read: str, sink: Sink) -> tuple[_Meeting, bool]:
        """The meeting for a chunk, and whether this target is the one that reads."""
        with self._changed:
            now = time.monotonic()
            if member in self._alone:
                return _Meeting({member: sink}, [now], has_begun=True), True
            meeting = self._meetings.get(read)
            if meeting is not None and not meeting.has_begun:
                meeting.sinks[member] = sink
                meeting.came_at.append(now)
                self._changed.notify_all()
                return meeting, False
            meeting = self._meetings[read] = _Meeting({member: sink}, [now])
            self._changed.wait_for(lambda: not self._absent(meeting, read), self._patience)
            for wanted in self._absent(meeting, read):
                wanted.clear()  # nobody waits for that target again
            meeting.has_begun = True
        if len(meeting.sinks) > 1:
            *_, last = meeting.sinks
            waited = meeting.came_at[-1] - meeting.came_at[-2]
            if self.holds_up(last, waited):
                self.leave_out(meeting, last, TooSlow())
        return meeting, True

    def _absent(self, meeting: _Meeting, read: str) -> list[set[str]]:
        """What the targets want that want a chunk and have not come."""
        return [
            wanted
            for member, wanted in self._wanted.items()
            if read in wanted and member not in meeting.sinks
        ]

    def _read_for_all(self, meeting: _Meeting, read: str, copy_out: Callable[["Tee"], int]) -> None:
        try:
            meeting.rows = copy_out(Tee(self, meeting))
        except BaseException as error:  # noqa: BLE001 - raised in every target that waits
            meeting.error = error
        finally:
            with self._changed:
                meeting.has_ended = True
                if self._meetings.get(read) is meeting:
                    del self._meetings[read]
                self._changed.notify_all()


class Tee:
    """A stream into several; one that breaks or is too slow is left out, and the others go on."""

    def __init__(self, shared: SharedRead, meeting: _Meeting) -> None:
        self._shared = shared
        self._meeting = meeting
        self._open = {m: sink for m, sink in meeting.sinks.items() if m not in meeting.left_out}
        self._look_at = 0.0
        self._begin_to_look()
        self.is_writing = False
        """Whether somebody is to take bytes now."""

    def write(self, data: bytes) -> int:
        """Writes to all that still take it.

        Raises:
            BrokenPipeError: If nobody does.
        """
        self.is_writing = True
        began = time.monotonic()
        for member, sink in list(self._open.items()):
            try:
                sink.write(data)
            except OSError as error:
                self._leave_out(member, error)
            ended = time.monotonic()
            self._blocked[member] += ended - began
            began = ended
        self.is_writing = False
        if not self._open:
            raise BrokenPipeError
        if began > self._look_at:
            self._look()
        return len(data)

    def _leave_out(self, member: object, error: Exception) -> None:
        del self._open[member]
        self._shared.leave_out(self._meeting, member, error)

    def _look(self) -> None:
        """Leaves out whom the others wait for: it is full, and meanwhile they starve."""
        starved = {m: sink.starved_seconds - self._starved[m] for m, sink in self._open.items()}
        for member in list(self._open):
            others = [seconds for other, seconds in starved.items() if other != member]
            waited = min(self._blocked[member], max(others, default=0.0))
            if waited and self._shared.holds_up(member, waited):
                self._leave_out(member, TooSlow())
        self._begin_to_look()

    def _begin_to_look(self) -> None:
        self._look_at = time.monotonic() + _LOOK_SECONDS
        self._blocked = dict.fromkeys(self._open, 0.0)
        self._starved = {member: sink.starved_seconds for member, sink in self._open.items()}
