"""One read of a source table for several targets.

Targets whose runs would send the very same COPY, in the same snapshot, meet at each chunk: one of
them reads, and what it reads goes to all. Who is late or slow holds up the others for a moment
only: what it has yet to take waits on disk. Where that has no room, it reads by itself.
"""

import io
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from extract_load.spool import BLOCK_BYTES, Spool, SpoolSpace
from extract_load.tee import Pipe, Tee

JOIN_SECONDS = 0.5
"""How long the first target waits for the others before it begins."""

HELD_UP_SECONDS = 0.5
"""A target for which the others waited so long in all, ..."""

HELD_UP_PART = 0.05
"""... and for more than this part of the time, is not waited for."""

CopyOut = Callable[["io.BufferedWriter[Tee]"], int]
"""Writes a COPY TO into a stream; returns its rows."""


class TooSlow(Exception):
    """The others go on without this target, and there is no room for what it has yet to take."""


@dataclass(eq=False)
class _Meeting:
    """Those who want one chunk now."""

    read: str
    pipes: dict[object, Pipe]
    """By target."""
    last_came_at: float
    spools: dict[object, Spool] = field(default_factory=dict)
    """Of targets that take it later."""
    left_out: dict[object, Exception] = field(default_factory=dict)
    has_begun: bool = False
    has_ended: bool = False
    rows: int = 0
    error: BaseException | None = None


class SharedRead:
    """Where the targets of one source table meet."""

    def __init__(self, members: Collection[object], space: SpoolSpace) -> None:
        """Waits for nobody yet.

        Args:
            members: The targets, by any name.
            space: Where rows wait for those that are behind.
        """
        self._space = space
        self._coming = set(members)
        self._wanted: dict[object, set[str]] = {}
        self._meetings: dict[str, _Meeting] = {}
        self._spools: dict[tuple[object, str], Spool] = {}
        self._held_up: defaultdict[object, float] = defaultdict(float)
        self._copying: set[tuple[object, str]] = set()
        self._alone: set[object] = set()
        self._began_at = time.monotonic()
        self._changed = threading.Condition()

    def leave(self, member: object) -> None:
        """Says that a target comes no more: it failed, or is done."""
        with self._changed:
            self._coming.discard(member)
            self._forget_spools(member)
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
            self._forget_spools(member, kept=self._wanted[member])
            self._coming.discard(member)
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._coming, JOIN_SECONDS)
        try:
            yield
        finally:
            with self._changed:
                del self._wanted[member]
                self._forget_spools(member)
                self._changed.notify_all()

    def copy(self, member: object, read: str, pipe: Pipe, copy_out: CopyOut) -> int:
        """Returns the rows that went into a pipe, read by this target or by another.

        Args:
            member: Who.
            read: What.
            pipe: Where its rows go.
            copy_out: Reads them, if this target is the one.

        Raises:
            ExtractLoadError: What ended the read, in every target that waits for it.
            TooSlow: If the others go on without this target, and nothing keeps its rows; it reads
                by itself when it asks again.
        """
        with self._changed:  # at once: between the two, others could begin and keep it a spool
            self._copying.add((member, read))
            spool = self._spools.get((member, read))
            if spool is None:
                meeting, reads_itself = self._met(member, read, pipe)
        try:
            if spool is None:
                if reads_itself:
                    self._read_for_all(meeting, copy_out)
                else:
                    self._wait_for(meeting, member)
                spool = meeting.spools.get(member)
            if spool is not None:
                rows = spool.copy_to(pipe)
            elif member in meeting.left_out:
                raise meeting.left_out[member]
            elif meeting.error is not None:
                raise meeting.error
            else:
                rows = meeting.rows
        finally:
            with self._changed:
                self._copying.discard((member, read))
                if spool is not None:
                    self._drop_spool(member, read, spool)
        with self._changed:
            self._wanted.get(member, set()).discard(read)
        return rows

    def go_alone(self, member: object) -> None:
        """Lets a target read by itself from now on, but for what is kept for it."""
        with self._changed:
            self._alone.add(member)
            self._wanted.get(member, set()).clear()
            self._changed.notify_all()

    # ------------------------------------------------------------ meetings

    def _met(self, member: object, read: str, pipe: Pipe) -> tuple[_Meeting, bool]:
        """The meeting for a chunk, and whether this target is the one that reads."""
        now = time.monotonic()
        if member in self._alone:
            return _Meeting(read, {member: pipe}, now, has_begun=True), True
        meeting = self._meetings.get(read)
        if meeting is not None and not meeting.has_begun:
            self._holds_up(member, now - meeting.last_came_at)
            meeting.last_came_at = now
            meeting.pipes[member] = pipe
            self._changed.notify_all()
            return meeting, False
        meeting = self._meetings[read] = _Meeting(read, {member: pipe}, now)
        self._changed.wait_for(lambda: not self._awaited(meeting), HELD_UP_SECONDS)
        waited = time.monotonic() - meeting.last_came_at
        for absent in self._awaited(meeting):
            self._holds_up(absent, waited)
        for absent in self._absent(meeting):
            if (absent, read) not in self._spools:  # else an earlier read kept it
                self._spool_for(meeting, absent)
        meeting.has_begun = True
        return meeting, True

    def _absent(self, meeting: _Meeting) -> list[object]:
        """The targets that want a chunk, or may, and are not at it."""
        wanting = [one for one, reads in self._wanted.items() if meeting.read in reads]
        members = (*wanting, *self._coming)
        return [one for one in members if (one, meeting.read) not in self._copying]

    def _awaited(self, meeting: _Meeting) -> list[object]:
        """Those of them that are not behind."""
        return [
            one
            for one in self._absent(meeting)
            if one not in self._coming and not self._is_behind(one)
        ]

    def _wait_for(self, meeting: _Meeting, member: object) -> None:
        """Waits until another has read a chunk for a target, or goes on without it."""
        with self._changed:
            self._changed.wait_for(
                lambda: meeting.has_ended or member in meeting.left_out or member in meeting.spools
            )

    def _read_for_all(self, meeting: _Meeting, copy_out: CopyOut) -> None:
        tee = Tee(
            meeting.pipes,
            meeting.spools,
            self._holds_up,
            lambda member: self._spool_for(meeting, member),
            lambda member, error: self._leave_out(meeting, member, error),
        )
        try:
            stream = io.BufferedWriter(tee, BLOCK_BYTES)
            meeting.rows = copy_out(stream)
            stream.flush()
        except BaseException as error:  # noqa: BLE001 - raised in every target that waits
            meeting.error = error
        finally:
            tee.end()
            with self._changed:
                meeting.has_ended = True
                if self._meetings.get(meeting.read) is meeting:
                    del self._meetings[meeting.read]
                for member in list(meeting.spools):
                    self._end_spool(meeting, member, meeting.rows, meeting.error)
                self._changed.notify_all()

    # ------------------------------------------------------------ who is behind

    def _holds_up(self, member: object, seconds: float) -> bool:
        """Whether the others go on without a target that let them wait for so much longer."""
        with self._changed:
            self._held_up[member] += seconds
            return self._is_behind(member)

    def _is_behind(self, member: object) -> bool:
        elapsed = time.monotonic() - self._began_at
        return self._held_up[member] >= max(HELD_UP_SECONDS, HELD_UP_PART * elapsed)

    def _spool_for(self, meeting: _Meeting, member: object) -> Spool | None:
        """A new spool for a target; where there is no room, it reads by itself."""
        with self._changed:
            try:
                spool = Spool(self._space)
            except OSError as error:
                self._leave_out(meeting, member, error)
                return None
            self._spools[member, meeting.read] = meeting.spools[member] = spool
            self._changed.notify_all()
            return spool

    def _leave_out(self, meeting: _Meeting, member: object, error: Exception) -> None:
        """Lets a target end its part of a meeting, while the others go on."""
        with self._changed:
            if not isinstance(error, BrokenPipeError):  # that is the end of its own COPY
                error = TooSlow()
                self.go_alone(member)
            meeting.left_out[member] = error
            if member in meeting.spools:
                self._end_spool(meeting, member, 0, error)
            self._changed.notify_all()

    def _end_spool(
        self, meeting: _Meeting, member: object, rows: int, error: BaseException | None
    ) -> None:
        """Says that a spool has all, or why not; one that lacks something waits for nobody."""
        spool = meeting.spools[member]
        spool.end(rows, error)
        if error is not None and (member, meeting.read) not in self._copying:
            self._drop_spool(member, meeting.read, spool)

    def _drop_spool(self, member: object, read: str, spool: Spool) -> None:
        if self._spools.get((member, read)) is spool:
            del self._spools[member, read]
        spool.close()

    def _forget_spools(self, member: object, kept: Collection[str] = ()) -> None:
        for (one, read), spool in list(self._spools.items()):
            if one == member and read not in kept:
                self._drop_spool(one, read, spool)
