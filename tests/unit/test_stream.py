"""The pipe between two COPY commands: what broke off must never look finished."""

import time

import pytest

from extract_load.errors import SourceUnavailable, TargetError, VerificationFailed
from extract_load.stream import PipeReader, PipeWriter, move

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
    stats = move(write_all, read_all)
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
        move(break_off, read)
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
        move(write, refuse)
    assert len(written) < 100


def test_two_counts_that_differ_are_an_error() -> None:
    def write(stream: PipeWriter) -> int:
        stream.write(PIECE)
        return 11

    with pytest.raises(VerificationFailed, match="the source sent 11 rows, the target took 10"):
        move(write, read_all)
