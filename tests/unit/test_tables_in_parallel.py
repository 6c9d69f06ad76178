"""A signal in the middle of tables."""

import signal
import threading
import time
from collections.abc import Iterator

import pytest

from extract_load.sessions import SessionRegistry
from extract_load.tables_in_parallel import in_parallel

LONG_SECONDS = 10


class Told(BaseException):
    """What the signal raises."""


def tell(_number: int, _frame: object) -> None:
    raise Told


@pytest.fixture
def told_by_signal() -> Iterator[None]:
    before = signal.signal(signal.SIGUSR1, tell)
    yield
    signal.signal(signal.SIGUSR1, before)


@pytest.mark.usefixtures("told_by_signal")
def test_a_signal_that_the_system_gives_to_another_thread_ends_the_wait() -> None:
    """Its handler runs in the main thread, which nobody wakes for it."""
    is_over = threading.Event()

    def land(_table: str) -> None:
        time.sleep(0.3)  # until the main thread waits
        signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)
        is_over.wait(LONG_SECONDS)

    started = time.monotonic()
    try:
        with pytest.raises(Told):
            in_parallel(land, ["a table"], 1, SessionRegistry("test"))
        assert time.monotonic() - started < LONG_SECONDS / 2
    finally:
        is_over.set()


def test_results_are_in_the_order_of_their_tables() -> None:
    ended = {"first": threading.Event(), "second": threading.Event()}
    ended["second"].set()

    def land(table: str) -> str:
        assert ended[table].wait(LONG_SECONDS)
        ended["first"].set()
        return table

    tables = ["first", "second"]
    assert in_parallel(land, tables, 2, SessionRegistry("test")) == ("first", "second")
