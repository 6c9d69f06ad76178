"""What gives a stream up: one thread looks at all of them."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from extract_load.errors import SourceUnavailable, TargetUnavailable
from extract_load.memory import MemoryBudget
from extract_load.stream_watch import StreamWatch, Watchdog
from tests.unit.test_stream import End

LONG = 60.0


@dataclass
class Still:
    """A stream of which nothing moves."""

    is_starved: bool = True
    moved_at: float = field(default_factory=time.monotonic)


def watched(
    stall_seconds: float,
    is_source_working: Callable[[], bool] = lambda: False,
    flow: Still | None = None,
    target: End | None = None,
) -> tuple[Watchdog, End]:
    source = End("source")
    watch = StreamWatch(
        stall_seconds=stall_seconds,
        source=source,
        target=target or End("target"),
        is_source_working=is_source_working,
        pace=lambda _: None,
        memory=MemoryBudget(),
    )
    return Watchdog(flow or Still(), watch), source


def watching() -> int:
    return sum(thread.name == "watchdog" for thread in threading.enumerate())


def test_one_thread_looks_at_all_streams_and_ends_with_them() -> None:
    watchdogs = [watched(LONG)[0] for _ in range(50)]
    assert watching() == 1

    assert all(watchdog.stop() is None for watchdog in watchdogs)

    deadline = time.monotonic() + 5
    while watching() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert watching() == 0
    watchdog, source = watched(0.1)
    assert source.is_cut.wait(5), "the next stream is looked at again"
    assert watchdog.stop() is not None


def test_a_short_limit_does_not_wait_for_a_long_one() -> None:
    patient, other = watched(LONG)
    watchdog, source = watched(0.1)

    assert source.is_cut.wait(0.9), "the patient one is looked at once a second"

    assert watchdog.stop() is not None
    assert patient.stop() is None
    assert not other.is_cut.is_set()


def test_a_stream_is_judged_while_another_ones_source_does_not_answer() -> None:
    answer = threading.Event()

    def silent() -> bool:
        return answer.wait(LONG)

    asked, slow = watched(1.5, silent)
    time.sleep(2.0)
    watchdog, source = watched(0.1)

    assert source.is_cut.wait(5)

    assert not slow.is_cut.is_set()
    assert slow.is_cut.wait(5), "no answer is a no"
    answer.set()
    assert watchdog.stop() is not None
    assert asked.stop() is not None


def test_a_source_that_still_looks_for_rows_is_waited_for_again_and_again() -> None:
    asked: list[float] = []

    def working() -> bool:
        asked.append(time.monotonic())
        return len(asked) < 3

    watchdog, source = watched(0.5, working)

    assert source.is_cut.wait(10)
    assert watchdog.stop() is not None
    assert len(asked) == 3


def test_nothing_is_cut_once_the_stream_has_ended() -> None:
    is_asked, answer = threading.Event(), threading.Event()

    def ask() -> bool:
        is_asked.set()
        answer.wait(LONG)
        return False

    watchdog, source = watched(1.0, ask)
    assert is_asked.wait(5)

    before = time.monotonic()
    assert watchdog.stop() is None
    assert time.monotonic() - before < 0.5, "nobody waits for the answer"
    answer.set()

    assert not source.is_cut.wait(0.3)


def test_nothing_is_cut_that_moved_while_its_source_was_asked() -> None:
    flow = Still()

    def ask() -> bool:
        flow.moved_at = time.monotonic() + LONG
        return False

    watchdog, source = watched(0.5, ask, flow)
    deadline = time.monotonic() + 5
    while flow.moved_at < time.monotonic() and time.monotonic() < deadline:
        time.sleep(0.01)

    assert flow.moved_at > time.monotonic(), "it was asked"
    assert not source.is_cut.wait(0.3)
    assert watchdog.stop() is None


def test_a_source_is_not_blamed_for_a_target_that_hangs_since() -> None:
    flow = Still()

    def ask() -> bool:
        flow.is_starved = False  # the last bytes came, and the target does not take them
        return False

    target = End("target")
    watchdog, source = watched(1.0, ask, flow, target)

    assert target.is_cut.wait(10)
    assert isinstance(watchdog.stop(), TargetUnavailable)
    assert not source.is_cut.is_set()


def test_the_first_verdict_stands() -> None:
    flow = Still()
    watchdog, source = watched(0.1, flow=flow)
    assert source.is_cut.wait(5)
    flow.is_starved = False  # as the stream unwinds

    time.sleep(0.5)

    assert isinstance(watchdog.stop(), SourceUnavailable)
