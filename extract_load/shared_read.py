"""One read of a source table for several targets.

Targets whose runs would send the very same COPY, in the same snapshot, meet at each chunk: one of
them reads, and what it reads goes to all. The slowest sets the pace; one that does not come to a
meeting in time, or takes no byte, is left out and reads by itself from then on.
"""

import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import BinaryIO

JOIN_SECONDS = 5.0
"""How long the first target waits for the others before it begins."""


@dataclass(eq=False)
class _Meeting:
    """Those who want one chunk now."""

    streams: dict[object, BinaryIO]
    """By target."""
    left_out: dict[BinaryIO, OSError] = field(default_factory=dict)
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
        try:
            yield
        finally:
            with self._changed:
                del self._wanted[member]
                self._changed.notify_all()

    def copy(
        self, member: object, read: str, stream: BinaryIO, copy_out: Callable[["Tee"], int]
    ) -> int:
        """Returns the rows that went into a stream, read by this target or by another.

        Args:
            member: Who.
            read: What.
            stream: Where its rows go.
            copy_out: Reads them, if this target is the one.

        Raises:
            ExtractLoadError: What ended the read, in every target that waits for it.
        """
        meeting, reads_itself = self._met(member, read, stream)
        if reads_itself:
            self._read_for_all(meeting, read, copy_out)
        else:
            with self._changed:
                self._changed.wait_for(lambda: meeting.has_ended)
        if stream in meeting.left_out:
            raise meeting.left_out[stream]
        if meeting.error is not None:
            raise meeting.error
        with self._changed:
            self._wanted.get(member, set()).discard(read)
        return meeting.rows

    def _met(self, member: object, read: str, stream: BinaryIO) -> tuple[_Meeting, bool]:
        """The meeting for a chunk, and whether this target is the one that reads."""
        with self._changed:
            meeting = self._meetings.get(read)
            if meeting is not None and not meeting.has_begun:
                meeting.streams[member] = stream
                self._changed.notify_all()
                return meeting, False
            meeting = self._meetings[read] = _Meeting({member: stream})
            self._changed.wait_for(lambda: not self._absent(meeting, read), self._patience)
            for wanted in self._absent(meeting, read):
                wanted.clear()  # nobody waits for that target again
            meeting.has_begun = True
            return meeting, True

    def _absent(self, meeting: _Meeting, read: str) -> list[set[str]]:
        """What the targets want that want a chunk and have not come."""
        return [
            wanted
            for member, wanted in self._wanted.items()
            if read in wanted and member not in meeting.streams
        ]

    def _read_for_all(self, meeting: _Meeting, read: str, copy_out: Callable[["Tee"], int]) -> None:
        try:
            meeting.rows = copy_out(Tee(meeting))
        except BaseException as error:  # noqa: BLE001 - raised in every target that waits
            meeting.error = error
        finally:
            with self._changed:
                meeting.has_ended = True
                if self._meetings.get(read) is meeting:
                    del self._meetings[read]
                self._changed.notify_all()


class Tee:
    """A stream into several; one that breaks is left out, and the others go on."""

    def __init__(self, meeting: _Meeting) -> None:
        self._meeting = meeting
        self._open = list(meeting.streams.values())
        self.is_writing = False
        """Whether somebody is to take bytes now."""

    def write(self, data: bytes) -> int:
        """Writes to all that still take it.

        Raises:
            BrokenPipeError: If nobody does.
        """
        self.is_writing = True
        for stream in list(self._open):
            try:
                stream.write(data)
            except OSError as error:
                self._meeting.left_out[stream] = error
                self._open.remove(stream)
        self.is_writing = False
        if not self._open:
            raise BrokenPipeError
        return len(data)
