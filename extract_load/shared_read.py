"""One read of a source table for several targets.

Targets whose runs would send the very same COPY, in the same snapshot, meet at each chunk: it is
read once, and goes to all. Who is late or slow holds up the others for a moment only: what it has
yet to take waits on disk. Where that has no room, it reads by itself.
"""

import io
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass, field

from extract_load import log
from extract_load.batch_thread import be_batch
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


class NotKept(Exception):
    """The others went on without this target, and there is no room for what it has yet to take."""


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
    is_cut: bool = False
    has_ended: bool = False
    rows: int = 0
    error: BaseException | None = None


@dataclass(eq=False)
class _Attempt:
    """One target's try to take a chunk; the next may begin before the one before it has noticed."""

    meeting: _Meeting


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
        self._attempts: dict[tuple[object, str], _Attempt] = {}
        self._spooled: dict[tuple[object, str], _Meeting] = {}
        """Those that keep a whole chunk for a target."""
        self._held_up: defaultdict[object, float] = defaultdict(float)
        self._alone: set[object] = set()
        self._began_at = time.monotonic()
        self._changed = threading.Condition()
        self.turn = threading.Lock()
        """For who reads by itself: one at a time, since a source has few sessions."""

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
        """Returns the rows that went into a pipe, read for this target or for several.

        Args:
            member: Who.
            read: What.
            pipe: Where its rows go.
            copy_out: Reads them, if nobody does yet; run in a thread that is no target's.

        Raises:
            BaseException: What ended the read, in every target that waits for it.
            BrokenPipeError: If nobody takes from the pipe.
            NotKept: If the target has to read by itself: the others are ahead.
        """
        with self._changed:  # at once: between the two, others could begin and keep it a spool
            meeting = self._spooled.get((member, read)) or self._join(member, read, pipe, copy_out)
            attempt = self._attempts[member, read] = _Attempt(meeting)
        try:
            return self._take(meeting, member, pipe)
        finally:
            self._end_attempt(member, attempt)

    def done(self, member: object, read: str) -> None:
        """Says that a target has a chunk, and committed it."""
        with self._changed:
            self._wanted.get(member, set()).discard(read)
            if (member, read) in self._spooled:
                self._drop_spool(self._spooled[member, read], member)

    def go_alone(self, member: object) -> None:
        """Lets a target read by itself from now on, but for what is kept for it."""
        with self._changed:
            self._alone.add(member)
            self._wanted.get(member, set()).clear()
            self._changed.notify_all()

    def is_alone(self, member: object, read: str) -> bool:
        """Returns whether a target reads a chunk by itself."""
        with self._changed:
            return member in self._alone and (member, read) not in self._spooled

    def reading(self, member: object, read: str) -> Tee | None:
        """Returns what a target's chunk is read into just now."""
        with self._changed:
            attempt = self._attempts.get((member, read))
            return None if attempt is None or attempt.meeting.has_ended else attempt.meeting.tee

    def cut(self, member: object, read: str) -> None:
        """Ends the read that a target takes part in, for all; or what it takes from disk."""
        with self._changed:
            attempt = self._attempts.get((member, read))
            if attempt is None:
                return
            meeting = attempt.meeting
            meeting.is_cut = True
            if meeting.tee is not None:
                meeting.tee.sever()
            if member in meeting.spools:
                meeting.spools[member].cut()

    # ------------------------------------------------------------ meetings

    def _join(self, member: object, read: str, pipe: Pipe, copy_out: CopyOut) -> _Meeting:
        """The meeting for a chunk: one that others wait in, or a new one, which begins."""
        if member in self._alone:
            raise NotKept
        now = time.monotonic()
        meeting = self._meetings.get(read)
        if meeting is not None and meeting.tee is None:
            self._holds_up(member, now - meeting.last_came_at)
            meeting.last_came_at = now
            meeting.pipes[member] = pipe
            self._changed.notify_all()
            return meeting
        meeting = self._meetings[read] = _Meeting(read, {member: pipe}, now)
        self._attempts[member, read] = _Attempt(meeting)
        self._changed.wait_for(lambda: not self._awaited(meeting), HELD_UP_SECONDS)
        waited = time.monotonic() - meeting.last_came_at
        for absent in self._awaited(meeting):
            self._holds_up(absent, waited)
        for absent in self._absent(meeting):
            self._new_spool(meeting, absent)
        self._begin(meeting, copy_out)
        return meeting

    def _begin(self, meeting: _Meeting, copy_out: CopyOut) -> None:
        """Reads for all, in a thread of its own: a target may go while others take."""
        tee = meeting.tee = Tee(
            meeting.pipes,
            meeting.spools,
            self._holds_up,
            lambda member: self._new_spool(meeting, member),
            lambda member, error: self._leave_out(meeting, member, error),
        )
        if meeting.is_cut:
            tee.sever()
        reading = threading.Thread(
            target=copy_context().run,
            args=(self._read_for_all, meeting, tee, copy_out),
            name="shared-read",
            daemon=True,
        )
        try:
            reading.start()
        except RuntimeError as error:  # no more threads
            self._end(meeting, error)

    def _absent(self, meeting: _Meeting) -> list[object]:
        """The targets that want a chunk, or may, and neither are at it nor have it on disk."""
        wanting = {one for one, reads in self._wanted.items() if meeting.read in reads}
        at_it = {one for one, read in (*self._attempts, *self._spooled) if read == meeting.read}
        return list((wanting | self._coming) - at_it - self._alone)

    def _awaited(self, meeting: _Meeting) -> list[object]:
        """Those of them that are not behind."""
        absent = self._absent(meeting)
        return [one for one in absent if one not in self._coming and not self._is_behind(one)]

    def _read_for_all(self, meeting: _Meeting, tee: Tee, copy_out: CopyOut) -> None:
        be_batch()
        error: BaseException | None = None
        try:
            stream = io.BufferedWriter(tee, BLOCK_BYTES)
            meeting.rows = copy_out(stream)
            stream.flush()
        except BaseException as ended:  # noqa: BLE001 - raised in every target that waits
            error = ended
        finally:
            tee.end()
            self._end(meeting, error)

    def _end(self, meeting: _Meeting, error: BaseException | None) -> None:
        with self._changed:
            meeting.error = error
            meeting.has_ended = True
            if self._meetings.get(meeting.read) is meeting:
                del self._meetings[meeting.read]
            for member in meeting.spools:
                self._end_spool(meeting, member, meeting.rows, error)
            self._changed.notify_all()

    def _take(self, meeting: _Meeting, member: object, pipe: Pipe) -> int:
        """The rows that a target got of a meeting, as soon as it has them all."""
        with self._changed:
            self._changed.wait_for(
                lambda: meeting.has_ended or member in meeting.left_out or member in meeting.spools
            )
        spool = meeting.spools.get(member)
        if spool is None:
            error = meeting.left_out.get(member) or meeting.error
            if error is not None:
                raise error
            return meeting.rows
        try:
            return spool.copy_to(pipe)
        finally:
            is_kept = self._spooled.get((member, meeting.read)) is meeting
            if spool.has_failed or not is_kept:
                self._drop_spool(meeting, member)

    def _end_attempt(self, member: object, attempt: _Attempt) -> None:
        """Forgets who is at it; a read that nobody is at any more is ended."""
        meeting = attempt.meeting
        with self._changed:
            if self._attempts.get((member, meeting.read)) is attempt:
                del self._attempts[member, meeting.read]
            is_deserted = all(one.meeting is not meeting for one in self._attempts.values())
            if is_deserted and not meeting.has_ended and meeting.tee is not None:
                meeting.tee.sever()

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
        """A spool for a target; where there is no room, it reads by itself.

        That of a target which takes part already lacks what went into its pipe: it is for this
        attempt only. That of another has all of the chunk, and is kept until it is committed.
        """
        with self._changed:
            try:
                spool = meeting.spools[member] = Spool(self._space)
            except OSError as error:
                self._leave_out(meeting, member, error)
                return None
            if member not in meeting.pipes:
                self._spooled[member, meeting.read] = meeting
            self._changed.notify_all()
            return spool

    def _leave_out(self, meeting: _Meeting, member: object, error: Exception) -> None:
        """Lets a target end its part of a meeting, while the others go on."""
        with self._changed:
            if not isinstance(error, BrokenPipeError):  # that is the end of its own COPY
                logger.info("not kept on disk", extra={"why": str(error)})
                error = NotKept()
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
        if error is not None and (member, meeting.read) not in self._attempts:
            self._drop_spool(meeting, member)

    def _drop_spool(self, meeting: _Meeting, member: object) -> None:
        with self._changed:
            if self._spooled.get((member, meeting.read)) is meeting:
                del self._spooled[member, meeting.read]
            meeting.spools[member].close()

    def _forget_spools(self, member: object, but: Collection[str] = ()) -> None:
        for (one, read), meeting in list(self._spooled.items()):
            if one == member and read not in but:
                self._drop_spool(meeting, member)
