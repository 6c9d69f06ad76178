"""A source that falls silent between two reads: its snapshot's age ends what waits for it."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest

from extract_load.connection import Session
from extract_load.one_clock import FREE_LOCKS
from extract_load.report import TableResult
from extract_load.runner import RunOptions, run
from tests.support.landing import assert_equal, environment, settings
from tests.support.servers import Database
from tests.support.tables import FULL, create_items

MOMENTS = {
    "taking it": "pg_export_snapshot",
    "joining it": "SET TRANSACTION SNAPSHOT",
    "before a read": "SELECT pg_catalog.pg_backend_pid()",
    "freeing locks": FREE_LOCKS,
}
LIMIT_SECONDS = 30.0

Silence = Callable[[str], None]


@pytest.fixture
def falls_silent_at(monkeypatch: pytest.MonkeyPatch) -> Iterator[Silence]:
    """Returns what stops the source's process that is about to be sent a statement, once."""
    stopped: list[int] = []
    execute = Session.execute

    def silence(words: str) -> None:
        def stop_and_execute(session: Session, query: Any, *arguments: Any, **named: Any) -> Any:
            is_it = session.side == "source" and words in str(query)
            if is_it and not stopped:
                stopped.append(session.backend_pid)
                os.kill(session.backend_pid, signal.SIGSTOP)
            return execute(session, query, *arguments, **named)

        monkeypatch.setattr(Session, "execute", stop_and_execute)

    yield silence
    assert stopped, "the statement was never sent"
    with suppress(ProcessLookupError):
        os.kill(stopped[0], signal.SIGCONT)


def landed(source: Database, target: Database) -> TableResult:
    """Returns the result of a run whose snapshots may be two seconds old."""
    limited = settings({**FULL, "batch_size": 300}, snapshot_max_age="2s")
    (result,) = run(limited, environment(source, target), RunOptions()).tables
    return result


@pytest.mark.parametrize("moment", MOMENTS.values(), ids=MOMENTS)
def test_a_process_that_answers_no_more_keeps_no_run(
    moment: str, source: Database, target: Database, falls_silent_at: Silence
) -> None:
    create_items(source, 2_000)
    falls_silent_at(moment)
    started = time.monotonic()

    result = landed(source, target)

    assert time.monotonic() - started < LIMIT_SECONDS
    if moment == MOMENTS["taking it"]:
        assert result.error is not None
        assert result.error.retryable
        result = landed(source, target)
    assert result.error is None
    assert_equal(source, target, FULL)
