"""A stream below libpq is given up when nothing moves, and says who is to blame."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Any, cast

import pytest
from psycopg2 import sql

from extract_load.connection import Session
from extract_load.connection_parameters import ConnectionParameters
from extract_load.copies import CopyFrom, CopyTo
from extract_load.copy_frames import PassOn, Write
from extract_load.errors import (
    SourceUnavailable,
    TargetUnavailable,
    VerificationFailed,
)
from extract_load.frame_stream import move_below_libpq
from extract_load.memory import MemoryBudget
from extract_load.stream_watch import CopyStats, StreamWatch

QUERY = sql.SQL("COPY")


class Frames:
    """What a COPY TO brings: does as it is told."""

    def __init__(self, does: Callable[["Frames", Write], None]) -> None:
        self._does = does
        self.rows, self.bytes = 3, 4
        self.received_at = time.monotonic()

    def pass_on(self, write: Write) -> None:
        """Writes what it has."""
        self._does(self, write)


class End:
    """A session to either side, as far as a stream needs one."""

    def __init__(
        self,
        conn_id: str,
        does: Callable[[Frames, Write], None] = lambda _, write: write(memoryview(b"rows")),
        takes: Callable[["End", memoryview], None] = lambda _, __: None,
        rows: int = 3,
    ) -> None:
        self.parameters = ConnectionParameters(conn_id, "host", "database", "user")
        self.unsent_bytes = 0
        self.is_cut = threading.Event()
        self._frames = Frames(does)
        self._takes = takes
        self._rows = rows

    def sever(self) -> None:
        """Is cut."""
        self.is_cut.set()

    @contextmanager
    def frames_out(self, _query: sql.Composable, _doing: str) -> Iterator[Frames]:
        """The source's part."""
        yield self._frames

    def take_frames(self, _query: sql.Composable, pass_on: PassOn, _doing: str) -> int:
        """The target's part."""
        pass_on(lambda data: self._takes(self, data))
        return self._rows


@pytest.fixture
def memory() -> Iterator[MemoryBudget]:
    budget = MemoryBudget()
    with budget.granted(1024):
        yield budget


def moved(
    source: End,
    target: End,
    memory: MemoryBudget,
    pace: Callable[[int], None] = lambda _: None,
    *,
    is_working: bool = False,
    holding: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> CopyStats:
    watch = StreamWatch(
        stall_seconds=0.2,
        source=source,
        target=target,
        is_source_working=lambda: is_working,
        pace=pace,
        memory=memory,
    )

    ends: Any = source, target
    reader, session = cast("tuple[Session, Session]", ends)
    copy_out = CopyTo(reader, QUERY, "read", holding)
    return move_below_libpq(copy_out, CopyFrom(session, QUERY, "write"), watch)


def until_cut(end: End) -> None:
    assert end.is_cut.wait(10), "nobody ends it"
    raise ConnectionError


def test_what_moved_is_told_and_paced(memory: MemoryBudget) -> None:
    paced: list[int] = []
    assert moved(End("source"), End("target"), memory, paced.append) == CopyStats(3, 4)
    assert paced == [4]


def test_two_counts_that_differ_are_an_error(memory: MemoryBudget) -> None:
    with pytest.raises(VerificationFailed, match="the source sent 3 rows, the target took 2"):
        moved(End("source"), End("target", rows=2), memory)


def test_a_source_that_falls_silent_is_cut(memory: MemoryBudget) -> None:
    source, target = End("source", lambda *_: until_cut(source)), End("target")

    with pytest.raises(SourceUnavailable, match='source "source" stalled'):
        moved(source, target, memory)
    assert not target.is_cut.is_set()


def test_a_source_that_looks_for_rows_is_waited_for(memory: MemoryBudget) -> None:
    source, target = End("source", lambda *_: time.sleep(0.8)), End("target")
    assert moved(source, target, memory, is_working=True) == CopyStats(3, 4)
    assert not source.is_cut.is_set()


def test_bytes_that_are_held_back_are_a_sign_of_life(memory: MemoryBudget) -> None:
    def trickle(frames: Frames, _write: Write) -> None:
        for _ in range(16):
            time.sleep(0.05)
            frames.received_at = time.monotonic()

    source = End("source", trickle)
    assert moved(source, End("target"), memory) == CopyStats(3, 4)
    assert not source.is_cut.is_set()


def test_a_target_that_takes_nothing_is_cut(memory: MemoryBudget) -> None:
    source, target = End("source"), End("target", takes=lambda end, _: until_cut(end))

    with pytest.raises(TargetUnavailable, match='target "target" stalled'):
        moved(source, target, memory)
    assert not source.is_cut.is_set()


def test_so_is_one_that_does_not_come_to_its_end(memory: MemoryBudget) -> None:
    """All is sent; what is still on its way is in buffers of the system."""

    class Silent(End):
        def take_frames(self, _query: sql.Composable, pass_on: PassOn, _doing: str) -> int:
            pass_on(lambda _: None)
            until_cut(self)
            return 0

    with pytest.raises(TargetUnavailable, match='target "target" stalled'):
        moved(End("source"), Silent("target"), memory)


def test_a_throttle_is_no_stall(memory: MemoryBudget) -> None:
    """All pauses together last longer than a stall may; none does by itself."""

    def three(_frames: Frames, write: Write) -> None:
        for _ in range(3):
            write(memoryview(b"rows"))

    source, target = End("source", three), End("target")
    moved(source, target, memory, lambda _: time.sleep(0.1))
    assert not source.is_cut.is_set()
    assert not target.is_cut.is_set()


def test_when_the_other_side_falls_silent_too_it_is_cut_as_well(memory: MemoryBudget) -> None:
    """A network that is gone takes both; cutting one does not wake who waits for the other."""
    target = End("target")

    def both_silent(_frames: Frames, _write: Write) -> None:
        until_cut(target)

    source = End("source", both_silent)
    with pytest.raises(SourceUnavailable, match='source "source" stalled'):
        moved(source, target, memory)
    assert source.is_cut.is_set()


def test_a_target_that_does_not_begin_is_the_one_that_stalled(memory: MemoryBudget) -> None:
    class Stuck(End):
        def take_frames(self, _query: sql.Composable, _pass_on: PassOn, _doing: str) -> int:
            until_cut(self)
            return 0

    source = End("source")
    with pytest.raises(TargetUnavailable, match='target "target" stalled'):
        moved(source, Stuck("target"), memory)
    assert not source.is_cut.is_set()


def test_so_is_one_that_says_nothing_after_the_source_failed(memory: MemoryBudget) -> None:
    class Mute(End):
        def take_frames(self, _query: sql.Composable, pass_on: PassOn, _doing: str) -> int:
            with suppress(ValueError):
                pass_on(lambda _: None)
            until_cut(self)
            return 0

    def fail(_frames: Frames, _write: Write) -> None:
        raise ValueError

    with pytest.raises(TargetUnavailable, match='target "target" stalled'):
        moved(End("source", fail), Mute("target"), memory)


def test_the_source_is_held_until_its_rows_are_passed_on_and_no_longer(
    memory: MemoryBudget,
) -> None:
    happened: list[str] = []

    @contextmanager
    def holding() -> Iterator[None]:
        happened.append("held")
        yield
        happened.append("freed")

    class Told(End):
        def take_frames(self, query: sql.Composable, pass_on: PassOn, doing: str) -> int:
            happened.append("target begins")
            rows = super().take_frames(query, pass_on, doing)
            happened.append("target ends")
            return rows

    moved(End("source"), Told("target"), memory, holding=holding)
    assert happened == ["held", "target begins", "freed", "target ends"]


def test_what_fails_while_it_is_held_is_told_to_who_holds_it(memory: MemoryBudget) -> None:
    told: list[BaseException] = []

    @contextmanager
    def holding() -> Iterator[None]:
        try:
            yield
        except ValueError as error:
            told.append(error)
            raise

    def fail(_frames: Frames, _write: Write) -> None:
        raise ValueError("a row")

    with pytest.raises(ValueError, match="a row"):
        moved(End("source", fail), End("target"), memory, holding=holding)
    assert len(told) == 1
