"""Those who share a read each get all of it, whoever is late, slow or gone."""

import io
import random
import resource
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any, cast

import pytest

from extract_load import shared_read
from extract_load.connection import Session
from extract_load.shared_read import CopyOut, NotKept, SharedRead
from extract_load.spool import BLOCK_BYTES, SpoolSpace
from extract_load.tee import Pipe, Tee

CHUNKS = [f"chunk {number}" for number in range(12)]
LIMIT_SECONDS = 60
ROOM = SpoolSpace(1 << 30)
BLOCKS = 50


class Taking(io.BytesIO):
    """A pipe whose reader never waits."""

    starved_seconds = 0.0
    has_room = True
    is_wide = True


class Fitful(Taking):
    """A pipe that is full at times, and whose reader may go away."""

    def __init__(self, dice: random.Random, *, breaks: bool, full: float) -> None:
        super().__init__()
        self._dice = dice
        self._breaks = breaks
        self._full = full

    @property
    def has_room(self) -> bool:  # type: ignore[override]
        return self._breaks or self._dice.random() >= self._full

    @property
    def starved_seconds(self) -> float:  # type: ignore[override]
        return time.monotonic()

    def write(self, data: bytes | memoryview, /) -> int:  # type: ignore[override]
        if self._breaks:
            raise BrokenPipeError
        return super().write(data)


def content(chunk: str) -> bytes:
    """Some blocks, of which no two are alike."""
    return b"".join(f"{row} of {chunk}\n".encode() for row in range(15_000))


def reading(chunk: str, count: list[str], fails: float, dice: random.Random) -> CopyOut:
    def read(stream: "io.BufferedWriter[Tee]") -> int:
        count.append(chunk)
        rows = content(chunk)
        for at in range(0, len(rows), 50_000):
            stream.write(rows[at : at + 50_000])
            if dice.random() < fails:
                raise ConnectionError(chunk)
        return len(chunk)

    return read


class Alone(io.RawIOBase):
    """What a target reads by itself goes to its own pipe."""

    def __init__(self, pipe: Pipe) -> None:
        super().__init__()
        self._pipe = pipe

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        return self._pipe.write(bytes(data))


def copied(shared: SharedRead, member: object, chunk: str, pipe: Pipe, read: CopyOut) -> int:
    """The rows a target got, as `load_chunk` gets them."""
    if not shared.is_alone(member, chunk):
        return shared.copy(member, chunk, pipe, read)
    with shared.turn:
        stream = io.BufferedWriter(Alone(pipe), BLOCK_BYTES)
        rows = read(cast("io.BufferedWriter[Tee]", stream))
        stream.flush()
        return rows


@pytest.mark.parametrize("space", [0, 500_000, 1 << 30])
@pytest.mark.parametrize("seed", range(20))
def test_each_gets_all_of_every_chunk(
    seed: int, space: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever is late, slow, or broken, whatever fails, and however little fits on the disk."""
    monkeypatch.setattr(shared_read, "JOIN_SECONDS", 0.02)
    monkeypatch.setattr(shared_read, "HELD_UP_SECONDS", 0.01)
    dice = random.Random(seed)
    fails, breaks = dice.choice([0.0, 0.02]), dice.choice([0.0, 0.2])
    members = range(dice.randrange(2, 5))
    workers = dice.randrange(1, 4)
    room = SpoolSpace(space)
    shared = SharedRead(list(members), room)
    count: list[str] = []
    got: dict[tuple[int, str], bytes] = {}

    def bring(member: int, chunk: str) -> None:
        for _ in range(100):
            time.sleep(dice.random() * 0.002)
            full = dice.choice([0.0, 0.5, 0.9])
            pipe = Fitful(dice, breaks=dice.random() < breaks, full=full)
            try:
                rows = copied(shared, member, chunk, pipe, reading(chunk, count, fails, dice))
            except (ConnectionError, NotKept):
                continue
            assert rows == len(chunk)
            if dice.random() < fails:  # its commit does not come through
                continue
            shared.done(member, chunk)
            got[member, chunk] = pipe.getvalue()
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
        shared.leave(member)

    wanted: set[tuple[int, str]] = set()
    in_parallel(land, members)

    assert set(got) == wanted
    assert all(got[member, chunk] == content(chunk) for member, chunk in wanted)
    assert not room.is_used


def in_parallel(land: Callable[[Any], object], members: Sequence[object]) -> None:
    with ThreadPoolExecutor(len(members)) as pool:
        for done in [pool.submit(land, member) for member in members]:
            done.result(timeout=LIMIT_SECONDS)


def test_equal_wishes_are_one_read() -> None:
    shared = SharedRead(["a", "b", "c"], ROOM)
    count: list[str] = []

    def land(member: object) -> None:
        with shared.joined(member, CHUNKS):
            for chunk in CHUNKS:
                pipe = Taking()
                shared.copy(member, chunk, pipe, reading(chunk, count, 0, random.Random()))
                assert pipe.getvalue() == content(chunk)

    in_parallel(land, "abc")
    assert count == CHUNKS


def test_who_joins_late_finds_what_was_read_meanwhile() -> None:
    shared = SharedRead(["quick", "late"], ROOM)
    count: list[str] = []

    def land(member: str) -> float:
        started = time.monotonic()
        with shared.joined(member, CHUNKS):
            for chunk in CHUNKS:
                pipe = Taking()
                shared.copy(member, chunk, pipe, reading(chunk, count, 0, random.Random()))
                assert pipe.getvalue() == content(chunk)
        return time.monotonic() - started

    took = land("quick")
    land("late")
    assert shared_read.JOIN_SECONDS <= took < 2 * shared_read.JOIN_SECONDS
    assert count == CHUNKS


def test_what_was_kept_for_a_target_that_never_came_is_gone() -> None:
    room = SpoolSpace(1 << 30)
    shared = SharedRead(["a", "down"], room)
    with shared.joined("a", CHUNKS):
        for chunk in CHUNKS:
            shared.copy("a", chunk, Taking(), reading(chunk, [], 0, random.Random()))
        assert room.is_used
    shared.leave("down")
    assert not room.is_used


class Slow:
    """A pipe of a moment's length, whose reader takes a while for each block."""

    is_wide = True

    def __init__(self, seconds_each: float) -> None:
        self.seconds_each = seconds_each
        self.data = b""
        self._takes_again_at = self._idle_since = time.monotonic()
        self._starved = 0.0

    @property
    def has_room(self) -> bool:
        return time.monotonic() >= self._takes_again_at

    @property
    def starved_seconds(self) -> float:
        return self._starved + max(time.monotonic() - self._takes_again_at, 0.0)

    def write(self, data: bytes | memoryview, /) -> int:
        self._starved = self.starved_seconds
        now = time.monotonic()
        time.sleep(max(self._takes_again_at - now, 0.0))
        self._takes_again_at = time.monotonic() + self.seconds_each
        self.data += data
        return len(data)


def copied_by(shared: SharedRead, member: str, chunk: str, pipe: Slow, reads: list[str]) -> bool:
    """Whether a member got a chunk of many blocks; else it is to read by itself."""

    def read(stream: "io.BufferedWriter[Tee]") -> int:
        reads.append(chunk)
        for _ in range(BLOCKS):
            stream.write(b"r" * BLOCK_BYTES)
        return BLOCKS

    try:
        return copied(shared, member, chunk, pipe, read) == BLOCKS
    except NotKept:
        return False


@pytest.mark.parametrize("first", ["slow", "quick"])
def test_the_others_go_on_without_the_slow_one(first: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it has yet to take waits on disk, and nothing is read twice."""
    monkeypatch.setattr(shared_read, "HELD_UP_SECONDS", 0.2)
    shared = SharedRead(["quick", "slow"], ROOM)
    pipes = {"slow": Slow(0.02), "quick": Slow(0.001)}
    took: dict[object, float] = {}
    reads: list[str] = []

    def land(member: str) -> None:
        with shared.joined(member, CHUNKS[:3]):
            started = time.monotonic()
            if member != first:
                time.sleep(0.05)
            for chunk in CHUNKS[:3]:
                assert copied_by(shared, member, chunk, pipes[member], reads)
            took[member] = time.monotonic() - started

    in_parallel(land, list(pipes))
    assert all(pipe.data == b"r" * (3 * BLOCKS * BLOCK_BYTES) for pipe in pipes.values())
    assert reads == CHUNKS[:3]
    assert took["quick"] < 1.5 < 3 * BLOCKS * 0.02 * 0.9 < took["slow"]


def test_where_the_disk_has_no_room_the_slow_one_reads_by_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shared_read, "HELD_UP_SECONDS", 0.2)
    shared = SharedRead(["quick", "slow"], SpoolSpace(3 * BLOCK_BYTES))
    pipes = {"slow": Slow(0.02), "quick": Slow(0.001)}
    got: dict[str, list[bool]] = {"slow": [], "quick": []}
    reads: list[str] = []

    def land(member: str) -> None:
        with shared.joined(member, CHUNKS[:3]):
            for chunk in CHUNKS[:3]:
                got[member].append(copied_by(shared, member, chunk, pipes[member], reads))

    in_parallel(land, list(pipes))
    assert got == {"quick": [True] * 3, "slow": [False, True, True]}
    assert sorted(reads) == sorted([*CHUNKS[:3], *CHUNKS[1:3]])


def test_who_comes_late_each_time_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_read, "HELD_UP_SECONDS", 0.2)
    shared = SharedRead(["quick", "late"], ROOM)
    took: dict[str, float] = {}
    reads: list[str] = []

    def land(member: str) -> None:
        with shared.joined(member, CHUNKS):
            started = time.monotonic()
            for chunk in CHUNKS:
                if member == "late":
                    time.sleep(0.15)
                assert copied_by(shared, member, chunk, Slow(0.0), reads)
            took[member] = time.monotonic() - started

    in_parallel(land, ["quick", "late"])
    assert reads == CHUNKS
    assert took["quick"] < took["late"] / 2


# ---------------------------------------------------------------- one that is sick harms nobody


class Wire:
    """A session of the source that can be cut."""

    def __init__(self) -> None:
        self.is_cut = threading.Event()

    def sever(self) -> None:
        self.is_cut.set()


def silent_read(wire: Wire, is_silent: threading.Event) -> CopyOut:
    """A read that sends a block and then nothing, until its session is cut."""

    def read(stream: "io.BufferedWriter[Tee]") -> int:
        with stream.raw.read_by(cast(Session, wire), lambda _: None):
            stream.write(b"r" * 2 * BLOCK_BYTES)
            is_silent.set()
            assert wire.is_cut.wait(LIMIT_SECONDS)
            raise ConnectionError

    return read


def test_a_read_that_nobody_waits_for_any_more_is_ended() -> None:
    shared = SharedRead(["a", "late"], ROOM)
    wire = Wire()
    broken = Fitful(random.Random(), breaks=True, full=0)
    with shared.joined("a", CHUNKS[:1]), pytest.raises(BrokenPipeError):
        shared.copy("a", CHUNKS[0], broken, silent_read(wire, threading.Event()))
    assert wire.is_cut.wait(LIMIT_SECONDS)
    shared.leave("late")
    assert not ROOM.is_used


def test_a_cut_before_the_reading_began_is_no_less_one() -> None:
    shared = SharedRead(["a", "b"], ROOM)
    wire = Wire()
    with shared.joined("b", CHUNKS[:1]), shared.joined("a", CHUNKS[:1]):
        cutting = threading.Timer(0.1, lambda: shared.cut("a", CHUNKS[0]))  # it waits for b
        cutting.start()
        with pytest.raises(ConnectionError):
            shared.copy("a", CHUNKS[0], Taking(), silent_read(wire, threading.Event()))
    cutting.join()


@pytest.mark.parametrize("gone", ["first", "other"])
def test_a_silent_read_is_cut_by_who_still_takes_part(gone: str) -> None:
    """Whoever began it: the others would wait for it for good."""
    shared = SharedRead(["first", "other"], ROOM)
    left = "other" if gone == "first" else "first"
    wire = Wire()
    is_silent = threading.Event()

    def land(member: str) -> None:
        with shared.joined(member, CHUNKS[:1]):
            if member == "other":
                time.sleep(0.1)
            pipe = Fitful(random.Random(), breaks=member == gone, full=0)
            with pytest.raises(OSError, match=r"^$"):
                shared.copy(member, CHUNKS[0], pipe, silent_read(wire, is_silent))

    def watch(_: object) -> None:
        assert is_silent.wait(LIMIT_SECONDS)
        tee = shared.reading(left, CHUNKS[0])
        assert tee is not None
        assert tee.reader is cast(Session, wire)
        assert time.monotonic() - tee.moved_at < 5
        shared.cut(left, CHUNKS[0])

    with ThreadPoolExecutor(3) as pool:
        landing = [pool.submit(land, member) for member in ("first", "other")]
        for done in [*landing, pool.submit(watch, None)]:
            done.result(timeout=LIMIT_SECONDS)
    assert shared.reading(left, CHUNKS[0]) is None


def test_what_is_read_once_is_paced_once() -> None:
    """And a wait for the pace is nobody's fault."""
    shared = SharedRead(["a", "b"], ROOM)
    paced: list[int] = []

    def pace(bytes_: int) -> None:
        paced.append(bytes_)
        time.sleep(0.02)

    def read(stream: "io.BufferedWriter[Tee]") -> int:
        with stream.raw.read_by(cast(Session, Wire()), pace):
            for _ in range(BLOCKS):
                stream.write(b"r" * BLOCK_BYTES)
            return BLOCKS

    def land(member: str) -> None:
        with shared.joined(member, CHUNKS[:1]):
            assert shared.copy(member, CHUNKS[0], Slow(0.0), read) == BLOCKS

    in_parallel(land, "ab")
    assert sum(paced) == BLOCKS * BLOCK_BYTES
    assert not ROOM.is_used


def drained(shared: SharedRead, count: list[str], pipe: Pipe, member: str = "late") -> int:
    return shared.copy(member, CHUNKS[0], pipe, reading(CHUNKS[0], count, 0, random.Random()))


def test_what_was_kept_is_taken_again_after_a_failure_of_the_target() -> None:
    shared = SharedRead(["quick", "late"], ROOM)
    count: list[str] = []
    with shared.joined("quick", CHUNKS[:1]):
        drained(shared, count, Taking(), "quick")
    with shared.joined("late", CHUNKS[:1]):
        with pytest.raises(BrokenPipeError):
            drained(shared, count, Fitful(random.Random(), breaks=True, full=0))
        pipe = Taking()
        drained(shared, count, pipe)
        again = Taking()  # what it got was not committed
        drained(shared, count, again)
        shared.done("late", CHUNKS[0])
    assert again.getvalue() == content(CHUNKS[0])
    assert pipe.getvalue() == content(CHUNKS[0])
    assert count == CHUNKS[:1]
    assert not ROOM.is_used


class Full(Taking):
    """A pipe that is full after its first block."""

    @property
    def has_room(self) -> bool:  # type: ignore[override]
        return not self.getvalue()


class Starving(Taking):
    """A pipe whose target waits whenever somebody asks."""

    @property
    def starved_seconds(self) -> float:  # type: ignore[override]
        return time.monotonic()


@pytest.mark.parametrize("breaks", [False, True])
def test_what_was_spooled_from_the_middle_on_is_read_again_after_a_failure(
    *, breaks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its beginning went into the pipe: a next attempt would miss that."""
    monkeypatch.setattr(shared_read, "HELD_UP_SECONDS", 0.01)
    shared = SharedRead(["quick", "slow"], ROOM)
    count: list[str] = []

    class First(Full):
        def write(self, data: bytes | memoryview, /) -> int:  # type: ignore[override]
            if breaks and self.getvalue():
                raise BrokenPipeError
            return super().write(data)

    def land(member: str) -> None:
        with shared.joined(member, CHUNKS[:1]):
            if member == "quick":
                drained(shared, count, Starving(), member)
                shared.done(member, CHUNKS[0])
                return
            pipe = First()
            with pytest.raises(BrokenPipeError) if breaks else nullcontext():
                drained(shared, count, pipe, member)
                assert pipe.getvalue() == content(CHUNKS[0])  # and then its commit fails
            again = Taking()
            drained(shared, count, again, member)
            assert again.getvalue() == content(CHUNKS[0])

    monkeypatch.setattr(shared_read, "HELD_UP_PART", 0.0)
    in_parallel(land, ["quick", "slow"])
    assert count == [CHUNKS[0]] * 2
    assert not ROOM.is_used


def test_who_takes_from_disk_is_cut_at_once_where_memory_is_short() -> None:
    shared = SharedRead(["quick", "late"], ROOM)
    count: list[str] = []
    with shared.joined("quick", CHUNKS[:1]):
        drained(shared, count, Taking(), "quick")
    cutting = threading.Timer(0.1, lambda: shared.cut("late", CHUNKS[0]))
    cutting.start()
    started = time.monotonic()
    with shared.joined("late", CHUNKS[:1]):
        with pytest.raises(BrokenPipeError):
            drained(shared, count, Slow(0.2))
        assert time.monotonic() - started < 1
        drained(shared, count, Taking())
    assert count == [CHUNKS[0]] * 2
    cutting.join()
    assert not ROOM.is_used


def test_a_pipe_that_is_too_small_for_a_block_stops_nobody() -> None:
    """An ordinary user's 65th pipe has 8 KiB (pipe(7)): to write a block waits for the target."""

    class Small(Slow):
        is_wide = False
        has_room = True

    shared = SharedRead(["quick", "small"], ROOM)
    pipes = {"quick": Slow(0.0), "small": Small(0.02)}
    took: dict[str, float] = {}
    reads: list[str] = []

    def land(member: str) -> None:
        with shared.joined(member, CHUNKS[:1]):
            started = time.monotonic()
            assert copied_by(shared, member, CHUNKS[0], pipes[member], reads)
            took[member] = time.monotonic() - started

    in_parallel(land, list(pipes))
    assert took["quick"] < 0.5 < took["small"]
    assert len(reads) == 1
    assert pipes["small"].data == pipes["quick"].data


def test_spools_leave_open_files_for_sessions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (40, 40))
    shared = SharedRead(["quick", "late"], ROOM)
    count: list[str] = []
    with shared.joined("quick", CHUNKS):
        for chunk in CHUNKS:
            shared.copy("quick", chunk, Taking(), reading(chunk, count, 0, random.Random()))
    with shared.joined("late", CHUNKS):
        for chunk in CHUNKS:
            copied(shared, "late", chunk, Taking(), reading(chunk, count, 0, random.Random()))
            shared.done("late", chunk)
    assert count == [*CHUNKS, *CHUNKS[10:]]
    assert not ROOM.is_used
