"""What a stream between two servers is held to: that bytes move, and that both count the same."""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from extract_load.connection_parameters import ConnectionParameters
from extract_load.errors import (
    ExtractLoadError,
    SourceUnavailable,
    TargetUnavailable,
    VerificationFailed,
)
from extract_load.memory import MemoryBudget

JOIN_SECONDS = 60.0
"""How long a thread that was told to end is waited for."""


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
    owns_source: bool = True
    """Whether nobody else reads from the source's connection, which is given up with the stream."""


class Flow(Protocol):
    """How far a stream is."""

    moved_at: float
    """When the target last took bytes, on the monotonic clock."""

    @property
    def is_starved(self) -> bool:
        """Returns whether the target waits for bytes; else it is at those it has."""


def require_equal(sent: int | None, taken: int) -> None:
    """Lets both ends of a stream agree on its rows.

    Raises:
        VerificationFailed: If they do not.
    """
    if sent != taken:
        raise VerificationFailed(
            f"the source sent {sent} rows, the target took {taken}",
            "The two COPY commands of one chunk disagree. The chunk was not loaded.",
            "Run again; if it happens again, please report it.",
        )


class Watchdog:
    """Gives one stream up when nothing moves."""

    def __init__(self, flow: Flow, watch: StreamWatch) -> None:
        """Begins to watch."""
        self._flow = flow
        self._watch = watch
        self._unsent_bytes = 0
        self._ended = threading.Event()
        self._looking = threading.Lock()
        self._judge: threading.Thread | None = None
        self._stalled: ExtractLoadError | None = None
        _ROUND.add(self)

    def stop(self) -> ExtractLoadError | None:
        """Ends the watch; returns what it gave the stream up for."""
        with self._looking:
            self._ended.set()
        _ROUND.remove(self)
        if self._judge is not None and self._stalled is not None:  # it is at the connections
            self._judge.join(JOIN_SECONDS)
        return self._stalled

    @property
    def pause_seconds(self) -> float:
        """Between two looks, at most."""
        return min(1.0, self._watch.stall_seconds / 4)

    def look(self) -> None:
        """Looks whether something moved; where nothing did for too long, begins to judge."""
        with self._looking:
            is_judged = self._stalled is not None or (self._judge and self._judge.is_alive())
            if self._ended.is_set() or is_judged:
                return
            before, self._unsent_bytes = self._unsent_bytes, self._watch.target.unsent_bytes
            if self._unsent_bytes < before:  # a stream's last megabytes are in the system's buffers
                self._flow.moved_at = time.monotonic()
            if self._has_moved():
                return
            is_target = not self._flow.is_starved
            judge = threading.Thread(target=self._decide, args=(is_target,), daemon=True)
            with suppress(RuntimeError):  # no more threads: the next look tries again
                judge.start()
                self._judge = judge

    def _has_moved(self) -> bool:
        return time.monotonic() < self._flow.moved_at + self._watch.stall_seconds

    def _decide(self, is_target: bool) -> None:
        """Cuts the connection of the side that stalled; nothing where it is right to wait."""
        limit = self._watch.stall_seconds
        if not is_target and _says_yes(self._watch.is_source_working, limit):
            self._flow.moved_at = time.monotonic()
            return
        stalled, other = self._watch.source, self._watch.target
        if is_target:
            stalled, other = other, stalled
        with self._looking:
            is_other_turn = self._flow.is_starved == is_target
            if self._ended.is_set() or self._has_moved() or is_other_turn:  # while it was asked
                return
            self._stalled = _stalled(stalled, limit, is_target=is_target)
        stalled.sever()
        if not self._ended.wait(limit):  # the other side has fallen silent too
            other.sever()


class _Round:
    """The one thread that looks at all streams now and then, while there are any.

    One for each stream would take a chunk 0.17 ms to begin and to end.
    """

    def __init__(self) -> None:
        self._watchdogs: set[Watchdog] = set()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def add(self, watchdog: Watchdog) -> None:
        """Looks at one more stream."""
        with self._changed:
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._go, name="watchdog", daemon=True)
                self._thread.start()
            soonest = min((each.pause_seconds for each in self._watchdogs), default=0.0)
            self._watchdogs.add(watchdog)
            if watchdog.pause_seconds < soonest:
                self._changed.notify()

    def remove(self, watchdog: Watchdog) -> None:
        """Looks at it no more."""
        with self._changed:
            self._watchdogs.discard(watchdog)

    def _go(self) -> None:
        while True:
            with self._changed:
                if not self._watchdogs:
                    self._thread = None
                    return
                self._changed.wait(min(each.pause_seconds for each in self._watchdogs))
                watchdogs = tuple(self._watchdogs)
            for watchdog in watchdogs:
                watchdog.look()


_ROUND = _Round()


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
