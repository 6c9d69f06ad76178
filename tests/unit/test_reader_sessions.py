"""The sessions that read in a snapshot: none is closed under who reads with it."""

from collections.abc import Iterator
from typing import Any, cast

import pytest

from extract_load.connection import Session
from extract_load.memory import MemoryBudget
from extract_load.readers import Readers
from extract_load.sessions import SessionRegistry


class Reader:
    """A session that does nothing."""

    def __init__(self) -> None:
        self.is_closed = False

    def remembered(self, _read: object) -> int:
        """Returns who serves it."""
        return 42

    def defer(self, _query: object) -> None:
        """Sends nothing."""

    def execute(self, _query: object) -> None:
        """Runs nothing."""


class Registry:
    """Closes sessions."""

    def close(self, session: Any) -> None:
        """Closes one."""
        session.is_closed = True


@pytest.fixture
def readers() -> Iterator[Readers]:
    memory = MemoryBudget()
    with memory.granted(1024):
        yield Readers(
            cast("SessionRegistry", Registry()),
            memory,
            1,
            lambda: cast("Session", Reader()),
            dict,
        )


def allowed() -> None:
    """Anything may be read."""


@pytest.mark.parametrize("by_one_clock", [True, False], ids=["clock", "any"])
def test_a_reader_that_is_at_work_is_closed_when_it_is_given_back(
    readers: Readers, by_one_clock: bool
) -> None:
    """Closed under it, its TLS session would be freed, from which it reads."""
    with readers.lent(allowed, by_one_clock=by_one_clock) as session:
        reader: Any = session
        with readers.looking(session):
            readers.close()
            assert not reader.is_closed
    assert reader.is_closed


def test_one_that_is_idle_is_closed_at_once(readers: Readers) -> None:
    with readers.lent(allowed, by_one_clock=True) as session:
        reader: Any = session
    readers.close()
    assert reader.is_closed
