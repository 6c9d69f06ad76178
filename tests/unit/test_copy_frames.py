"""The messages of a COPY, passed on unread: wherever they are cut, whatever their rows hold."""

import random
import struct
from collections.abc import Callable
from typing import Any

import psycopg2
import pytest

from extract_load.copy_frames import FramesIn, FramesOut, GoneWithAll, PassOn, Write
from extract_load.errors import SourceUnavailable
from extract_load.server_messages import BLOCK_BYTES, HELD_BYTES, ReportedError
from extract_load.wire import Wire, WireBroken

READY = b"Z\0\0\0\x05T"
READY_AFTER_ERROR = b"Z\0\0\0\x05E"


def message(kind: bytes, body: bytes = b"") -> bytes:
    return kind + struct.pack("!i", len(body) + 4) + body


def report(text: str, state: str = "57014", severity: str = "ERROR") -> bytes:
    fields = (f"S{severity}", f"V{severity}", f"C{state}", f"M{text}", "Dmore of it")
    return message(b"E", b"".join(each.encode() + b"\0" for each in fields) + b"\0")


class Server(Wire):
    """Answers one COPY, in pieces that end anywhere."""

    def __init__(self, answer: Callable[[bytes], bytes], chance: random.Random) -> None:
        self._answer = answer
        self._chance = chance
        self._sent = b""
        self.asked = b""

    def send(self, data: memoryview) -> None:
        """Takes the statement, and prepares what follows."""
        self.asked = bytes(data)
        word = self.asked.rpartition(b"; SELECT '")[2].removesuffix(b"'\0")
        self._sent = self._answer(word)

    def receive_into(self, room: memoryview) -> int:
        """Gives the next piece; after the last one the connection is closed."""
        if not self._sent:
            raise WireBroken("closed")
        size = min(self._chance.choice((1, 7, 100, 8192, BLOCK_BYTES)), len(self._sent), len(room))
        assert size, "no room was left for the server's bytes"
        room[:size] = self._sent[:size]
        self._sent = self._sent[size:]
        return size

    def is_silent(self, seconds: float) -> bool:
        """Whether it has said all; it never waits."""
        assert seconds > 0
        return not self._sent

    @property
    def is_read(self) -> bool:
        return not self._sent


def begun(*, is_binary: bool = True) -> bytes:
    """What comes before the rows: the ends of deferred statements, a row of one, a parameter."""
    before = message(b"C", b"SAVEPOINT\0") + message(b"T", b"\0\0") + message(b"D", b"\0\0")
    return before + message(b"S", b"x\0y\0") + message(b"H", bytes([is_binary, 0, 0]))


def answered(word: bytes, *, before_ready: bytes = b"") -> bytes:
    """What comes for the word."""
    column = struct.pack("!h", 1) + b"?column?\0" + struct.pack("!ihihih", 0, 0, 25, -1, -1, 0)
    row = struct.pack("!hi", 1, len(word)) + word
    ended = message(b"C", b"SELECT 1\0")
    return message(b"T", column) + message(b"D", row) + ended + before_ready + READY


def done(rows: int) -> bytes:
    return message(b"c") + message(b"C", f"COPY {rows}\0".encode())


def all_of(frames: FramesOut) -> bytes:
    found: list[bytes] = []
    frames.pass_on(lambda data: found.append(bytes(data)))
    return b"".join(found)


LOOKS_LIKE_AN_END = (
    READY_AFTER_ERROR,
    READY,
    done(3),
    report("a row's text") + READY_AFTER_ERROR[:-1],
    b"c\0\0\0\x04C\0\0\0\x0bCOPY 7\0" + answered(b"0" * 32),
)


@pytest.mark.parametrize("seed", range(60))
def test_rows_pass_as_they_are_wherever_they_are_cut(seed: int) -> None:
    chance = random.Random(seed)
    bodies = [
        chance.choice(LOOKS_LIKE_AN_END)
        if chance.random() < 0.1
        else chance.randbytes(chance.choice((0, 1, 60, 3000, 40_000)))
        for _ in range(chance.choice((0, 1, 40)))
    ]
    trailer = message(b"d", b"\xff\xff")
    sent = b"".join(message(b"d", body) for body in bodies) + trailer
    changed = message(b"S", b"in_hot_standby\0off\0") if chance.random() < 0.3 else b""

    def answer(word: bytes) -> bytes:
        return begun() + sent + done(len(bodies)) + answered(word, before_ready=changed)

    server = Server(answer, chance)
    frames = FramesOut(server, b"COPY t TO STDOUT (FORMAT binary)")

    assert all_of(frames) == sent
    assert (frames.rows, frames.bytes) == (len(bodies), sum(map(len, bodies)) + 2)
    assert frames.is_over
    assert server.is_read


def test_a_row_larger_than_any_buffer_passes() -> None:
    body = random.Random(1).randbytes(5 * BLOCK_BYTES + HELD_BYTES)
    sent = message(b"d", body) + message(b"d", b"\xff\xff")
    server = Server(lambda word: begun() + sent + done(1) + answered(word), random.Random(2))

    assert all_of(FramesOut(server, b"COPY t TO STDOUT")) == sent


def test_text_has_no_trailer() -> None:
    sent = message(b"d", b"1\tone\n") + message(b"d", b"2\ttwo\n")
    server = Server(
        lambda word: begun(is_binary=False) + sent + done(2) + answered(word), random.Random(3)
    )
    frames = FramesOut(server, b"COPY t TO STDOUT")

    assert all_of(frames) == sent
    assert frames.bytes == len(b"1\tone\n2\ttwo\n")


def test_a_text_without_rows_is_nothing() -> None:
    server = Server(
        lambda word: begun(is_binary=False) + done(0) + answered(word), random.Random(4)
    )
    frames = FramesOut(server, b"COPY t TO STDOUT")

    assert all_of(frames) == b""
    assert (frames.rows, frames.bytes) == (0, 0)


def test_the_word_is_another_one_each_time() -> None:
    asked = set()
    for _ in range(3):
        server = Server(lambda word: begun() + done(0) + answered(word), random.Random(5))
        all_of(FramesOut(server, b"COPY t TO STDOUT"))
        asked.add(server.asked)
    assert len(asked) == 3


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("rows", [0, 3, 400])
def test_an_error_between_rows_is_told_as_the_server_did(rows: int, seed: int) -> None:
    sent = message(b"d", b"x" * 900) * rows
    reset = message(b"S", b"TimeZone\0Etc/UTC\0") * (seed % 3)  # SET LOCAL ends with it
    failed = report("canceling statement due to user request") + reset + READY_AFTER_ERROR
    server = Server(lambda _: begun() + sent + failed, random.Random(seed))
    frames = FramesOut(server, b"COPY t TO STDOUT")

    with pytest.raises(ReportedError, match="canceling statement") as caught:
        all_of(frames)

    assert caught.value.pgcode == "57014"
    assert caught.value.diag.message_primary == "canceling statement due to user request"
    assert caught.value.diag.message_detail == "more of it"
    assert frames.is_over, "the connection can go on"


def test_an_error_before_the_first_row_leaves_the_connection_usable() -> None:
    failed = report("relation does not exist", "42P01") + READY_AFTER_ERROR
    frames = FramesOut(Server(lambda _: failed, random.Random(6)), b"COPY t TO STDOUT")

    with pytest.raises(ReportedError, match="does not exist"):
        all_of(frames)
    assert frames.is_over


def test_an_error_after_the_last_row_is_one_too() -> None:
    failed = report("canceling statement due to statement timeout") + READY_AFTER_ERROR
    sent = message(b"d", b"x" * 900) * 3 + done(3)
    frames = FramesOut(Server(lambda _: begun() + sent + failed, random.Random(7)), b"COPY")

    with pytest.raises(ReportedError, match="statement timeout"):
        all_of(frames)


def test_an_error_after_the_word_is_one_too() -> None:
    def answer(word: bytes) -> bytes:
        whole = begun() + done(0) + answered(word).removesuffix(READY)
        return whole + report("terminating connection", "57P01", "FATAL")

    frames = FramesOut(Server(answer, random.Random(8)), b"COPY")
    with pytest.raises(ReportedError, match="terminating connection"):
        all_of(frames)
    assert not frames.is_over, "the server hung up"


@pytest.mark.parametrize("seed", range(10))
def test_a_fatal_error_is_told_although_the_connection_ended_with_it(seed: int) -> None:
    sent = message(b"d", b"x" * 900) * 40
    failed = report("terminating connection due to administrator command", "57P01", "FATAL")
    frames = FramesOut(Server(lambda _: begun() + sent + failed, random.Random(seed)), b"COPY")

    with pytest.raises(ReportedError, match="administrator command") as caught:
        all_of(frames)
    assert caught.value.pgcode == "57P01"
    assert not frames.is_over


@pytest.mark.parametrize("seed", range(40))
def test_a_source_that_goes_anywhere_has_not_ended_well(seed: int) -> None:
    chance = random.Random(seed)

    def answer(word: bytes) -> bytes:
        whole = begun() + message(b"d", b"x" * 900) * 30 + done(30) + answered(word)
        return whole[: chance.randrange(len(whole))]

    frames = FramesOut(Server(answer, chance), b"COPY t TO STDOUT")
    with pytest.raises(psycopg2.OperationalError):
        all_of(frames)
    assert not frames.is_over


@pytest.mark.parametrize("seed", range(20))
def test_a_row_that_is_an_error_to_the_letter_is_a_row(seed: int) -> None:
    """And ends where a block does: after a true one, nothing more comes."""
    forged = message(b"d", (message(b"E", b"M\0") + READY_AFTER_ERROR) * 20_000)
    sent = forged + message(b"d", b"\xff\xff")
    server = Server(lambda word: begun() + sent + done(1) + answered(word), random.Random(seed))

    assert all_of(FramesOut(server, b"COPY t TO STDOUT")) == sent


def test_an_error_whose_report_is_too_long_is_one_although_it_cannot_be_read() -> None:
    failed = report("a long story" * 5000) + READY_AFTER_ERROR
    frames = FramesOut(Server(lambda _: begun() + failed, random.Random(9)), b"COPY")

    with pytest.raises(ReportedError, match="an error came that cannot be read") as caught:
        all_of(frames)
    assert caught.value.pgcode == "08P01"
    assert not frames.is_over


def test_a_word_that_stands_elsewhere_is_no_end() -> None:
    """An extension may tell the client of the statement (auto_explain.log_level = info)."""
    server = Server(
        lambda word: begun() + message(b"N", b"MQuery: SELECT '" + word + b"'\0\0"),
        random.Random(9),
    )
    with pytest.raises(ReportedError, match="the end of a COPY cannot be read") as caught:
        all_of(FramesOut(server, b"COPY"))
    assert caught.value.pgcode == "08P01"


def test_a_statement_that_copies_nothing_is_refused() -> None:
    frames = FramesOut(
        Server(lambda word: message(b"C", b"SET\0") + answered(word), random.Random(10)), b"SET x"
    )
    with pytest.raises(ReportedError, match="no COPY TO STDOUT"):
        all_of(frames)
    assert frames.is_over


def test_a_message_of_no_length_is_refused() -> None:
    frames = FramesOut(Server(lambda _: b"C\0\0\0\0rest", random.Random(11)), b"COPY")
    with pytest.raises(ReportedError, match="a message of 0 bytes cannot be read"):
        all_of(frames)


def test_a_connection_that_is_gone_takes_no_statement() -> None:
    class Gone(Server):
        def send(self, data: memoryview) -> None:
            del data
            raise WireBroken("Broken pipe")

    with pytest.raises(psycopg2.OperationalError, match="Broken pipe"):
        FramesOut(Gone(lambda _: b"", random.Random(12)), b"COPY")


class Target(Wire):
    """Takes messages, until it has had enough."""

    def __init__(self, says: bytes = b"", takes: int = 1 << 30) -> None:
        self._says = says
        self._takes = takes
        self.got = b""
        self.is_cut = False

    def peek(self) -> bytes:
        return self._says[:1]

    def is_silent(self, seconds: float) -> bool:
        """Whether it has said all; it never waits."""
        assert seconds > 0
        return not self._says

    def receive_into(self, room: memoryview) -> int:
        """Gives what it says, three bytes at a time."""
        piece, self._says = self._says[:3], self._says[3:]
        if not piece:
            raise WireBroken("closed")
        room[: len(piece)] = piece
        return len(piece)

    def send(self, data: memoryview) -> None:
        """Takes some, or breaks."""
        if len(self.got) + len(data) > self._takes:
            raise WireBroken("Broken pipe")
        self.got += bytes(data)

    def cut(self) -> None:
        """Is told nothing more."""
        self.is_cut = True


class Libpq:
    """What psycopg2 does with a COPY FROM, over a wire that may have been cut."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self.rowcount = 7

    def copy_expert(self, _statement: bytes, stream: FramesIn) -> None:
        """Reads until nothing comes."""
        while stream.read(8192):
            pass
        if self._target.is_cut:
            raise psycopg2.OperationalError("server closed the connection unexpectedly")


def copied(target: Target, pass_on: PassOn) -> int:
    frames = FramesIn(target, pass_on)
    cursor: Any = Libpq(target)
    try:
        return frames.take(cursor, b"COPY t FROM STDIN")
    except psycopg2.Error:
        frames.raise_error()
        raise


def test_a_target_gets_all_and_then_the_end() -> None:
    target = Target()
    assert copied(target, lambda write: write(memoryview(b"rows"))) == 7
    assert (target.got, target.is_cut) == (b"rows", False)


def test_a_source_that_broke_off_never_looks_finished() -> None:
    """Or libpq would send its CopyDone after what came so far."""

    def pass_on(write: Write) -> None:
        write(memoryview(b"half a mess"))
        raise SourceUnavailable("the source is gone")

    target = Target()
    with pytest.raises(SourceUnavailable, match="the source is gone"):
        copied(target, pass_on)
    assert target.is_cut


def test_a_cut_that_libpq_did_not_notice_is_one() -> None:
    class Careless(Target):
        def cut(self) -> None:
            """Does nothing."""

    with pytest.raises(psycopg2.OperationalError, match="broke off"):
        copied(Careless(takes=2), lambda write: write(memoryview(b"rows")))


def ten_times(write: Write) -> None:
    for _ in range(10):
        write(memoryview(b"rows"))


def test_a_target_that_refuses_is_heard_out_and_sent_no_more() -> None:
    """Its first report counts: of several, psycopg2 would raise the last, and print the others."""
    said = report("null value", "23502") + report("connection lost", "08P01", "FATAL")
    target = Target(says=said)

    with pytest.raises(ReportedError, match="null value") as caught:
        copied(target, ten_times)
    assert caught.value.pgcode == "23502"
    assert target.got == b""
    assert target.is_cut


def test_what_a_target_said_before_its_error_is_no_error() -> None:
    target = Target(says=message(b"N", b"Mhello\0\0") + report("no room", "53100"), takes=6)
    with pytest.raises(ReportedError, match="no room"):
        copied(target, ten_times)


def test_a_target_that_cannot_be_heard_out_is_cut_all_the_same() -> None:
    class Costly(Target):
        def is_silent(self, seconds: float) -> bool:
            raise MemoryError(seconds)

    target = Costly(says=report("no room", "53100"))
    with pytest.raises(MemoryError):
        copied(target, ten_times)
    assert target.is_cut


@pytest.mark.parametrize("says", [b"", b"E\0\0", b"E\0\0\0\0"], ids=["silent", "half", "bad"])
def test_a_target_that_is_gone_without_a_word_is_told_by_libpq(says: bytes) -> None:
    with pytest.raises(psycopg2.OperationalError, match="closed the connection"):
        copied(Target(says, takes=0), ten_times)


def test_a_target_that_goes_when_it_has_all_may_have_refused_it() -> None:
    class Going(Target):
        def send(self, data: memoryview) -> None:
            """Takes it, and is gone."""
            super().send(data)
            self.is_cut = True

    with pytest.raises(GoneWithAll, match="closed the connection unexpectedly"):
        copied(Going(), lambda write: write(memoryview(b"rows")))


def test_a_target_that_says_something_else_gets_its_rows() -> None:
    target = Target(says=b"N")
    copied(target, lambda write: write(memoryview(b"rows")))
    assert target.got == b"rows"
