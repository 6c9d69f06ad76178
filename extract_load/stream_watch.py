"""What a stream between two servers is held to: that bytes move, and that both count the same."""

import threading
import time
from collections.abc import Callable
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


class Watchdog(threading.Thread):
    """The thread that gives a stream up when nothing moves."""

    def __init__(self, flow: Flow, watch: StreamWatch) -> None:
        """Begins to watch."""
        super().__init__(name="watchdog", daemon=True)
        self._flow = flow
        self._watch = watch
        self._ended = threading.Event()
        self._stalled: ExtractLoadError | None = None
        self.start()

    def stop(self) -> ExtractLoadError | None:
        """Ends the watch; returns what it gave the stream up for."""
        self._ended.set()
        self.join(JOIN_SECONDS)
        return self._stalled

    def run(self) -> None:
        """Looks now and then; cuts the connection of the side that stalled."""
        limit, unsent = self._watch.stall_seconds, 0
        while not self._ended.wait(min(1.0, limit / 4)):
            before, unsent = unsent, self._watch.target.unsent_bytes
            if unsent < before:  # the last of a stream is megabytes in buffers of the system
                self._flow.moved_at = time.monotonic()
            if time.monotonic() < self._flow.moved_at + limit:
                continue
            is_target = not self._flow.is_starved
            if not is_target and _says_yes(self._watch.is_source_working, limit):
                self._flow.moved_at = time.monotonic()
                continue
            session = self._watch.target if is_target else self._watch.source
            self._stalled = _stalled(session, limit, is_target=is_target)
            session.sever()
            if not self._ended.wait(limit):  # the other side has fallen silent too
                (self._watch.source if is_target else self._watch.target).sever()
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
