"""Those who share a read each get all of it, whoever is late, slow or gone."""

import io
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from extract_load import shared_read
from extract_load.shared_read import SharedRead, Tee, TooSlow

CHUNKS = [f"chunk {number}" for number in range(12)]


class Taking(io.BytesIO):
    """A stream whose reader never waits."""

    starved_seconds = 0.0


class Breaking(Taking):
    """A stream whose reader goes away."""

    def __init__(self, *, breaks: bool) -> None:
        super().__init__()
        self.breaks = breaks

    def write(self, data: bytes) -> int:  # type: ignore[override]
        if self.breaks:
            raise BrokenPipeError
        return super().write(data)


def reading(
    chunk: str, count: list[str], fails: float, dice: random.Random
) -> Callable[[Tee], int]:
    def read(tee: Tee) -> int:
        count.append(chunk)
        for part in (b"rows of ", chunk.encode()):
            tee.write(part)
            if dice.random() < fails:
                raise ConnectionError(chunk)
        return len(chunk)

    return read


@pytest.mark.parametrize("seed", range(30))
def test_each_gets_all_of_every_chunk(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_read, "JOIN_SECONDS", 0.05)
    dice = random.Random(seed)
    fails, breaks = dice.choice([0.0, 0.1]), dice.choice([0.0, 0.2])
    members = range(dice.randrange(2, 5))
    workers = dice.randrange(1, 4)
    shared = SharedRead(list(members), 0.2)
    count: list[str] = []
    got: dict[tuple[int, str], bytes] = {}

    def bring(member: int, chunk: str) -> None:
        for _ in range(100):
            time.sleep(dice.random() * 0.002)
            stream = Breaking(breaks=dice.random() < breaks)
            try:
                rows = shared.copy(member, chunk, stream, reading(chunk, count, fails, dice))
            except (ConnectionError, BrokenPipeError):
                continue
            assert rows == len(chunk)
            got[member, chunk] = stream.getvalue()
            return

    def land(member: int) -> None:
        mine = [chunk for chunk in CHUNKS if dice.random() < 0.9]
        time.sleep(dice.choice([0.0, 0.1]))
        if dice.random() < 0.1:
            shared.leave(member)
            return
        with shared.joined(member, mine), ThreadPoolExecutor(workers) as pool:
            for done in [pool.submit(bring, member, chunk) for chunk in mine]:
                done.result()
        wanted.update((member, chunk) for chunk in mine)

    wanted: set[tuple[int, str]] = set()
    with ThreadPoolExecutor(len(members)) as pool:
        for done in [pool.submit(land, member) for member in members]:
            done.result(timeout=60)

    assert got == {(member, chunk): f"rows of {chunk}".encode() for member, chunk in wanted}


def test_equal_wishes_are_one_read() -> None:
    shared = SharedRead(["a", "b", "c"], 5)
    count: list[str] = []

    def land(member: str) -> None:
        with shared.joined(member, CHUNKS):
            for chunk in CHUNKS:
                stream = Taking()
                read = reading(chunk, count, 0, random.Random())
                shared.copy(member, chunk, stream, read)
                assert stream.getvalue() == f"rows of {chunk}".encode()

    with ThreadPoolExecutor(3) as pool:
        for done in [pool.submit(land, member) for member in "abc"]:
            done.result(timeout=30)
    assert count == CHUNKS


def test_who_does_not_come_is_not_waited_for_twice() -> None:
    shared = SharedRead(["a", "late"], 0.3)
    is_over = threading.Event()

    def stay_away() -> None:
        with shared.joined("late", CHUNKS):
            is_over.wait(30)

    absent = threading.Thread(target=stay_away)
    absent.start()
    started = time.monotonic()
    with shared.joined("a", CHUNKS):
        for chunk in CHUNKS:
            read = reading(chunk, [], 0, random.Random())
            shared.copy("a", chunk, Taking(), read)
    is_over.set()
    absent.join(10)
    assert 0.3 <= time.monotonic() - started < 2


class Pipe:
    """A stream whose reader takes a while, and starves while others are full."""

    def __init__(self, seconds_each: float, world: "list[Pipe]") -> None:
        self.seconds_each = seconds_each
        self.starved_seconds = 0.0
        self.data = b""
        self._world = world
        world.append(self)

    def write(self, data: bytes, /) -> int:
        time.sleep(self.seconds_each)
        for other in self._world:
            other.starved_seconds += max(self.seconds_each - other.seconds_each, 0.0)
        self.data += data
        return len(data)


def copied_by(shared: SharedRead, member: str, chunk: str, pipe: Pipe) -> bool:
    """Whether a member got a chunk that is written in many pieces; else it is left out."""

    def read(tee: Tee) -> int:
        for _ in range(100):
            tee.write(b"row")
        return 100

    try:
        return shared.copy(member, chunk, pipe, read) == 100
    except TooSlow:
        return False


@pytest.mark.parametrize(("seconds_each", "is_left_out"), [(0.02, True), (0.0, False)])
@pytest.mark.parametrize("first", ["slow", "quick"])
def test_who_keeps_the_others_waiting_reads_by_itself(
    seconds_each: float, is_left_out: bool, first: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_read, "HELD_UP_SECONDS", 0.3)
    shared = SharedRead(["quick", "slow"], 5)
    world: list[Pipe] = []
    pipes = {"slow": Pipe(seconds_each, world), "quick": Pipe(0.0, world)}
    got: dict[str, list[bool]] = {"slow": [], "quick": []}

    def land(member: str) -> None:
        with shared.joined(member, CHUNKS[:2]):
            if member != first:
                time.sleep(0.05)
            for chunk in CHUNKS[:2]:
                got[member].append(copied_by(shared, member, chunk, pipes[member]))

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(land, member) for member in pipes]:
            done.result(timeout=30)
    assert got == {"quick": [True, True], "slow": [not is_left_out, True]}
    assert pipes["quick"].data == b"row" * 200


def test_who_comes_late_each_time_reads_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_read, "HELD_UP_SECONDS", 0.2)
    shared = SharedRead(["quick", "late"], 5)
    world: list[Pipe] = []
    got: dict[str, list[bool]] = {"late": [], "quick": []}

    def land(member: str) -> None:
        with shared.joined(member, CHUNKS[:5]):
            for chunk in CHUNKS[:5]:
                if member == "late":
                    time.sleep(0.09)
                got[member].append(copied_by(shared, member, chunk, Pipe(0.0, world)))

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(land, member) for member in got]:
            done.result(timeout=30)
    assert got["quick"] == [True] * 5
    assert got["late"].count(False) == 1
