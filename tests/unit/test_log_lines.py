"""What the log says while a run works: facts behind a message, and progress now and then."""

import logging
import time
from collections.abc import Callable

import pytest

from extract_load import message_and_facts, progress_lines
from extract_load.chunk_loading import LandingCounts, Progress
from extract_load.log import KeyValueFormatter, bound
from extract_load.planner import plan_table
from extract_load.stream_watch import CopyStats
from extract_load.table_plan import TablePlan, TargetState
from tests.unit.test_planner import CUT, SCHEMA, settings

Records = Callable[[], list[str]]


def plan_of(batch_size: int = 100, table: str = "raw_data.items") -> TablePlan:
    chosen = settings(batch_size=batch_size, target=table)
    return plan_table(chosen, SCHEMA, CUT, TargetState(None, None))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The progress lines' clock, to be set."""
    now = [1000.0]
    monkeypatch.setattr("extract_load.progress.time.monotonic", lambda: now[0])
    return now


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Records:
    """Returns the lines logged since the last call."""
    caplog.set_level(logging.INFO, "extract_load")

    def taken() -> list[str]:
        found = [message_and_facts(record) for record in caplog.records]
        caplog.clear()
        return found

    return taken


def load_chunk(tell: Progress, plan: TablePlan, counts: LandingCounts) -> None:
    counts.add(CopyStats(1000, 1))
    counts.add_chunk()
    tell(plan, counts)


def test_a_record_is_its_message_and_its_facts(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "extract_load")
    with bound(run="1f3a", table="public.a b"):
        logging.getLogger("extract_load.x").info("read %s", 3, extra={"rows": 8, "seconds": 0.123})
        (record,) = caplog.records
        line = message_and_facts(record)
        assert line == 'read 3 run=1f3a table="public.a b" rows=8 seconds=0.12'
        assert KeyValueFormatter().format(record).endswith(f"Z INFO  {line}")


def test_first_and_last_chunk_and_one_line_in_five_seconds(
    clock: list[float], lines: Records
) -> None:
    plan, counts, tell = (
        plan_of(),
        LandingCounts(chunks_planned=10, loading_since=999.0),
        progress_lines(5),
    )
    assert len(plan.chunks) == 10
    told = []
    for _ in plan.chunks:
        load_chunk(tell, plan, counts)
        told.append([line.split(" peak_mib=")[0] for line in lines()])
        clock[0] += 2.0

    assert told == [
        ["loading chunk=1/10 rows=1000 rows_per_second=1000"],
        *([], []),
        ["loading chunk=4/10 rows=4000 rows_per_second=571"],
        *([], []),
        ["loading chunk=7/10 rows=7000 rows_per_second=538"],
        *([], []),
        ["loading chunk=10/10 rows=10000 rows_per_second=526"],
    ]


def test_each_table_is_told_by_itself(clock: list[float], lines: Records) -> None:  # noqa: ARG001
    tell = progress_lines(5)
    for table in ("raw_data.one", "raw_data.two"):
        load_chunk(tell, plan_of(table=table), LandingCounts(chunks_planned=10))
    (one, two) = lines()
    assert one.startswith("loading chunk=1/10")
    assert two.startswith("loading chunk=1/10")
    assert 5 < int(one.rpartition("peak_mib=")[2]) < 2000


def test_workers_that_end_together_tell_the_last_chunk_once(
    clock: list[float],  # noqa: ARG001
    lines: Records,
) -> None:
    plan, counts, tell = plan_of(), LandingCounts(chunks=10, chunks_planned=10), progress_lines(5)
    tell(plan, counts)
    tell(plan, counts)
    assert len(lines()) == 1


def test_a_table_of_one_chunk_has_no_line(lines: Records) -> None:
    load_chunk(progress_lines(5), plan_of(batch_size=50_000), LandingCounts(chunks_planned=1))
    assert lines() == []


def test_it_costs_nothing(lines: Records) -> None:
    """A chunk takes milliseconds at least; being told of it takes microseconds."""
    plan, counts, tell = plan_of(), LandingCounts(chunks=1, chunks_planned=10), progress_lines(5)
    started = time.perf_counter()
    for _ in range(1000):
        tell(plan, counts)
    assert (time.perf_counter() - started) / 1000 < 100e-6
    assert len(lines()) == 1
