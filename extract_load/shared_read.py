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
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field

from extract_load import log
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

logger = log.get_logger(__name__)


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
    tee: Tee | None = None
    """Since it has begun."""
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
        self._at: dict[tuple[object, str], _Meeting] = {}
        """Where each target takes a chunk from just now."""
        self._kept: dict[tuple[object, str], _Meeting] = {}
        """Those that have a spool for a target."""
        self._held_up: defaultdict[object, float] = defaultdict(float)
        self._alone: dict[object, threading.Lock] = {}
        """Targets that read by themselves, one chunk at a time: a source has few sessions."""
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
            self._forget_spools(member, but=self._wanted[member])
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
            meeting = self._kept.get((member, read))
            is_reader = meeting is None
            if meeting is None:
                meeting, is_reader = self._met(member, read, pipe)
            self._at[member, read] = meeting
        try:
            if is_reader:
                with self._alone.get(member, nullcontext()):
                    self._read_for_all(meeting, copy_out)
            else:
                self._wait_for(meeting, member)
            rows = self._taken(meeting, member, pipe)
        finally:
            with self._changed:
                if self._at.get((member, read)) is meeting:
                    del self._at[member, read]
        with self._changed:
            self._wanted.get(member, set()).discard(read)
        return rows

    def go_alone(self, member: object) -> None:
        """Lets a target read by itself from now on, but for what is kept for it."""
        with self._changed:
            self._alone.setdefault(member, threading.Lock())
            self._wanted.get(member, set()).clear()
            self._changed.notify_all()

    def reading(self, member: object, read: str) -> Tee | None:
        """Returns what a target's chunk is read into just now, whoever reads it."""
        with self._changed:
            meeting = self._at.get((member, read))
            return None if meeting is None or meeting.has_ended else meeting.tee

    def cut(self, member: object, read: str) -> None:
        """Ends the read that a target takes part in, for all; or what it takes from disk."""
        with self._changed:
            meeting = self._at.get((member, read))
        if meeting is not None and meeting.tee is not None:
            meeting.tee.sever()
        if meeting is not None and member in meeting.spools:
            meeting.spools[member].cut()

    # ------------------------------------------------------------ meetings

    def _met(self, member: object, read: str, pipe: Pipe) -> tuple[_Meeting, bool]:
        """The meeting for a chunk, and whether this target is the one that reads."""
        now = time.monotonic()
        if member in self._alone:
            meeting = _Meeting(read, {member: pipe}, now)
            meeting.tee = self._tee_of(meeting)
            return meeting, True
        found = self._meetings.get(read)
        if found is not None and found.tee is None:
            self._holds_up(member, now - found.last_came_at)
            found.last_came_at = now
            found.pipes[member] = pipe
            self._changed.notify_all()
            return found, False
        meeting = self._meetings[read] = _Meeting(read, {member: pipe}, now)
        self._at[member, read] = meeting
        self._changed.wait_for(lambda: not self._awaited(meeting), HELD_UP_SECONDS)
        waited = time.monotonic() - meeting.last_came_at
        for absent in self._awaited(meeting):
            self._holds_up(absent, waited)
        for absent in self._absent(meeting):
            if (absent, read) not in self._kept:  # else an earlier read kept it
                self._new_spool(meeting, absent)
        meeting.tee = self._tee_of(meeting)
        return meeting, True

    def _absent(self, meeting: _Meeting) -> list[object]:
        """The targets that want a chunk, or may, and are not at it."""
        wanting = [one for one, reads in self._wanted.items() if meeting.read in reads]
        members = set(wanting) | self._coming
        return [
            one for one in members if one not in self._alone and (one, meeting.read) not in self._at
        ]

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

    def _tee_of(self, meeting: _Meeting) -> Tee:
        return Tee(
            meeting.pipes,
            meeting.spools,
            self._holds_up,
            lambda member: self._new_spool(meeting, member),
            lambda member, error: self._leave_out(meeting, member, error),
        )

    def _read_for_all(self, meeting: _Meeting, copy_out: CopyOut) -> None:
        tee = meeting.tee
        if tee is None:
            msg = "a chunk is read before its meeting began"
            raise RuntimeError(msg)
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
                for member in meeting.spools:
                    self._end_spool(meeting, member, meeting.rows, meeting.error)
                self._changed.notify_all()

    def _taken(self, meeting: _Meeting, member: object, pipe: Pipe) -> int:
        """The rows that a target got of a meeting, as soon as it has them all."""
        spool = meeting.spools.get(member)
        if spool is None:
            error = meeting.left_out.get(member) or meeting.error
            if error is not None:
                raise error
            return meeting.rows
        try:
            rows = spool.copy_to(pipe)
        except BaseException:
            if spool.has_failed:  # else its own COPY did: it takes it again
                self._drop_spool(meeting, member)
            raise
        self._drop_spool(meeting, member)
        return rows

    # ------------------------------------------------------------ who is behind

    def _holds_up(self, member: object, seconds: float) -> bool:
        """Whether the others go on without a target that let them wait for so much longer."""
        with self._changed:
            self._held_up[member] += seconds
            return self._is_behind(member)

    def _is_behind(self, member: object) -> bool:
        elapsed = time.monotonic() - self._began_at
        return self._held_up[member] >= max(HELD_UP_SECONDS, HELD_UP_PART * elapsed)

    def _new_spool(self, meeting: _Meeting, member: object) -> Spool | None:
        """A spool for a target; where there is no room, it reads by itself."""
        with self._changed:
            try:
                spool = meeting.spools[member] = Spool(self._space)
            except OSError as error:
                self._leave_out(meeting, member, error)
                return None
            self._kept[member, meeting.read] = meeting
            self._changed.notify_all()
            return spool

    def _leave_out(self, meeting: _Meeting, member: object, error: Exception) -> None:
        """Lets a target end its part of a meeting, while the others go on."""
        with self._changed:
            if not isinstance(error, BrokenPipeError):  # that is the end of its own COPY
                logger.info("not kept on disk", extra={"why": str(error)})
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
        meeting.spools[member].end(rows, error)
        if error is not None and (member, meeting.read) not in self._at:
            self._drop_spool(meeting, member)

    def _drop_spool(self, meeting: _Meeting, member: object) -> None:
        with self._changed:
            if self._kept.get((member, meeting.read)) is meeting:
                del self._kept[member, meeting.read]
            meeting.spools[member].close()

    def _forget_spools(self, member: object, but: Collection[str] = ()) -> None:
        for (one, read), meeting in list(self._kept.items()):
            if one == member and read not in but:
                self._drop_spool(meeting, member)
