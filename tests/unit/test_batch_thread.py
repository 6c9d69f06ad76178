"""How a thread that reads from a server is scheduled: what it may set, and where it may not."""

import os
import threading
from collections.abc import Callable

import pytest

from extract_load.batch_thread import be_batch
from extract_load.shared_read import SharedRead
from extract_load.spool import SpoolSpace
from extract_load.stream import PipeReader, PipeWriter, move_by_libpq


def policy_after(act: Callable[[], None]) -> int:
    """The policy of a new thread once it has done something."""
    found: list[int] = []

    def run() -> None:
        act()
        found.append(os.sched_getscheduler(0))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(10)
    return found[0]


def test_a_thread_is_a_batch_thread() -> None:
    assert policy_after(be_batch) == os.SCHED_BATCH


def test_a_policy_that_was_chosen_stays() -> None:
    def be_idle_then_batch() -> None:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        be_batch()

    assert policy_after(be_idle_then_batch) == os.SCHED_IDLE


def test_where_the_system_allows_none_the_usual_one_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError("no")

    monkeypatch.setattr(os, "sched_setscheduler", refuse)
    assert policy_after(be_batch) == os.SCHED_OTHER


def test_where_the_system_has_none_the_usual_one_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "SCHED_BATCH")
    assert policy_after(be_batch) == os.SCHED_OTHER


def test_only_the_thread_that_reads_from_the_source_is_one() -> None:
    """The other is the caller's: a task of Airflow, or whoever uses us as a library."""
    policies: dict[str, int] = {}

    def copy_out(_: PipeWriter) -> int:
        policies["source"] = os.sched_getscheduler(0)
        return 0

    def copy_in(reader: PipeReader) -> int:
        reader.read(1)
        policies["target"] = os.sched_getscheduler(0)
        return 0

    move_by_libpq(copy_out, copy_in)
    assert policies == {"source": os.SCHED_BATCH, "target": os.SCHED_OTHER}


def test_the_thread_that_reads_for_several_targets_is_one_too() -> None:
    policies: list[int] = []
    shared = SharedRead(["one"], SpoolSpace(1 << 20))
    read_end, write_end = os.pipe()

    def copy_out(_: object) -> int:
        policies.append(os.sched_getscheduler(0))
        return 0

    with shared.joined("one", ["chunk"]):
        shared.copy("one", "chunk", PipeWriter(write_end, PipeReader(read_end)), copy_out)
    os.close(read_end)
    assert policies == [os.SCHED_BATCH]
