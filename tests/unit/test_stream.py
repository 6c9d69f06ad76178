"""The pipe between two COPY commands: what broke off must never look finished."""

import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from extract_load.connection_parameters import ConnectionParameters
from extract_load.errors import (
    SourceUnavailable,
    TargetError,
    TargetUnavailable,
    VerificationFailed,
)
from extract_load.memory import MemoryBudget
from extract_load.stream import PipeReader, PipeWriter, move_by_libpq
from extract_load.stream_watch import CopyStats, StreamWatch

PIECE = b"x" * 100_000


def read_all(reader: PipeReader) -> int:
    while reader.read(1 << 16):
        pass
    return 10


def write_all(stream: PipeWriter) -> int:
    for _ in range(50):
        stream.write(PIECE)
    return 10


def test_all_bytes_arrive_and_are_counted() -> None:
    stats = move_by_libpq(write_all, read_all)
    assert (stats.rows, stats.bytes) == (10, 50 * len(PIECE))


def test_a_source_that_breaks_off_is_an_error_for_the_target() -> None:
    """PostgreSQL takes an early end at a row's end for the whole table."""
    ended: list[str] = []

    def break_off(stream: PipeWriter) -> int:
        stream.write(PIECE)
        stream.flush()
        time.sleep(0.05)
        raise SourceUnavailable("the source is gone")

    def read(reader: PipeReader) -> int:
        try:
            read_all(reader)
        except SourceUnavailable:
            ended.append("error")
            raise
        ended.append("end of file")
        return 1

    with pytest.raises(SourceUnavailable, match="the source is gone"):
        move_by_libpq(break_off, read)
    assert ended == ["error"]


def test_a_target_that_breaks_off_stops_the_source() -> None:
    written: list[int] = []

    def write(stream: PipeWriter) -> int:
        for number in range(10_000):
            stream.write(PIECE)
            written.append(number)
        return 1

    def refuse(reader: PipeReader) -> int:
        reader.read(10)
        raise TargetError("no space left")

    with pytest.raises(TargetError, match="no space left"):
        move_by_libpq(write, refuse)
    assert len(written) < 100


def test_two_counts_that_differ_are_an_error() -> None:
    def write(stream: PipeWriter) -> int:
        stream.write(PIECE)
        return 11

    with pytest.raises(VerificationFailed, match="the source sent 11 rows, the target took 10"):
        move_by_libpq(write, read_all)


class End:
    """One side of a stream: told of, and cut."""

    def __init__(self, conn_id: str) -> None:
        self.parameters = ConnectionParameters(conn_id, "host", "database", "user")
        self.unsent_bytes = 0
        self.is_cut = threading.Event()

    def sever(self) -> None:
        self.is_cut.set()


@pytest.fixture
def memory() -> Iterator[MemoryBudget]:
    budget = MemoryBudget()
    with budget.granted(1024):
        yield budget


def watched(source: End, target: End, stall_seconds: float, memory: MemoryBudget) -> StreamWatch:
    return StreamWatch(
        stall_seconds=stall_seconds,
        source=source,
        target=target,
        is_source_working=lambda: False,
        pace=lambda _: None,
        memory=memory,
    )


def test_a_target_that_falls_silent_with_the_last_bytes_is_the_one_that_stalled(
    memory: MemoryBudget,
) -> None:
    """All is read by then; what is still on its way is in buffers of the system."""
    source, target = End("source"), End("target")

    def copy_in(stream: PipeReader) -> int:
        read_all(stream)
        assert target.is_cut.wait(10), "nobody ends it"
        raise ConnectionError

    with pytest.raises(TargetUnavailable, match="stalled"):
        move_by_libpq(
            lambda stream: stream.write(b"rows"), copy_in, watched(source, target, 0.2, memory)
        )
    assert not source.is_cut.is_set()


def test_a_source_that_has_no_row_yet_is_cut_when_its_target_is_gone(memory: MemoryBudget) -> None:
    """It learns of that with its next row, maybe minutes later, in a connection freed by then."""
    source, target = End("source"), End("target")

    def copy_out(_stream: PipeWriter) -> int:
        assert source.is_cut.wait(30), "nobody ends it"
        raise SourceUnavailable("the connection was cut")

    def copy_in(_stream: PipeReader) -> int:
        raise TargetError("no space left")

    started = time.monotonic()
    with pytest.raises(TargetError, match="no space left"):
        move_by_libpq(copy_out, copy_in, watched(source, target, 60, memory))
    assert time.monotonic() - started < 10
    assert not target.is_cut.is_set()


def test_a_source_that_others_read_from_is_not_cut_for_one_target(memory: MemoryBudget) -> None:
    source, target = End("source"), End("target")

    def copy_out(_stream: PipeWriter) -> int:
        source.is_cut.wait(3)
        return 10

    def copy_in(_stream: PipeReader) -> int:
        raise TargetError("no space left")

    shared = replace(watched(source, target, 60, memory), owns_source=False)
    with pytest.raises(TargetError, match="no space left"):
        move_by_libpq(copy_out, copy_in, shared)
    assert not source.is_cut.is_set(), "cut for all"


def test_so_is_one_that_takes_a_block_and_no_more(memory: MemoryBudget) -> None:
    """The pipe is empty, but nobody asks the source for more."""
    source, target = End("source"), End("target")

    def copy_out(stream: PipeWriter) -> int:
        stream.write(b"rows")
        stream.flush()
        assert target.is_cut.wait(10), "nobody ends it"
        return 1

    def copy_in(stream: PipeReader) -> int:
        stream.read(1 << 16)
        assert target.is_cut.wait(10), "nobody ends it"
        raise ConnectionError

    with pytest.raises(TargetUnavailable, match="stalled"):
        move_by_libpq(copy_out, copy_in, watched(source, target, 0.2, memory))
    assert not source.is_cut.is_set()


def test_a_target_whose_last_bytes_are_still_on_their_way_has_not_stalled(
    memory: MemoryBudget,
) -> None:
    """A slow line empties what the system has buffered, and that may be megabytes."""
    source, target = End("source"), End("target")

    def copy_in(stream: PipeReader) -> int:
        read_all(stream)
        for left in range(10, -1, -1):
            target.unsent_bytes = left
            time.sleep(0.1)
        return 4

    stats = move_by_libpq(
        lambda stream: stream.write(b"rows"), copy_in, watched(source, target, 0.4, memory)
    )
    assert stats == CopyStats(rows=4, bytes=4)
    assert not target.is_cut.is_set()
    assert not source.is_cut.is_set()
