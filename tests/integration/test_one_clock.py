"""What asks for the time where the engine cannot put one in: within a function, or a view.

Each session's `now()` is another. Rows here leave one a millisecond, so that two clocks tell two
sets of them; all that one clock tells are the newest ones, without a gap.
"""

import time
from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest

from extract_load.errors import SnapshotLost, SourceError, SourceUnavailable
from extract_load.landing import LandingOptions
from extract_load.runner import RunOptions, run
from extract_load.snapshot import SourceSnapshot
from tests.support.interrupted import broken_off
from tests.support.landing import (
    SECOND_TARGET_ID,
    TARGET_ID,
    environment,
    land,
    prepared_run,
    settings,
)
from tests.support.servers import Database, fresh_database
from tests.support.tables import RAW, create_items

ROWS = 12_000
TABLES = f"""
CREATE TABLE public.base AS
    SELECT i AS id, now() + i * interval '1 ms' AS ends_at, repeat('x', 50) AS body
    FROM generate_series(1, {ROWS}) AS i ORDER BY i % 101;
ALTER TABLE public.base ADD PRIMARY KEY (id);
ANALYZE public.base;
CREATE FUNCTION public.is_open(timestamptz) RETURNS boolean STABLE LANGUAGE sql
    AS 'SELECT $1 > now()';
CREATE VIEW public.shown AS SELECT * FROM public.base WHERE ends_at > now()
"""
BY_FUNCTION: dict[str, Any] = {
    "source": "public.base",
    "target": RAW,
    "sync_mode": "full_sync",
    "custom_where": "public.is_open(ends_at)",
    "batch_size": 1000,
    "parallel_workers": 2,
    "max_delete_ratio": 1,
}
BY_VIEW: dict[str, Any] = {
    "source": "public.shown",
    "target": RAW,
    "sync_mode": "full_sync",
    "primary_key": "id",
    "max_delete_ratio": 1,
}


@pytest.fixture
def leaving(source: Database) -> Database:
    """Rows that end one after the other."""
    source.execute(TABLES)
    return source


def assert_one_moment(target: Database, raw: str = RAW) -> int:
    """Returns the first row that had not ended, having seen all that follow it and no other."""
    ids = [number for (number,) in target.execute(f"SELECT id FROM {raw} ORDER BY id")]
    assert ids
    assert ids == list(range(ids[0], ROWS + 1))
    return int(ids[0])


def end_readers(source: Database) -> None:
    """Ends every session that reads in a snapshot and does nothing now, but for its holder."""
    source.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
        " AND state = 'idle in transaction' AND query ~ 'SAVEPOINT looking'"
    )


@pytest.mark.parametrize("verify", ["count", "off", "checksum"])
def test_a_function_asks_for_the_time(verify: str, leaving: Database, target: Database) -> None:
    table = {**BY_FUNCTION, "verify": verify}
    firsts = []
    for _ in range(3):
        (result,) = land(leaving, target, table).tables
        assert (result.error, result.retries) == (None, 0)
        firsts.append(assert_one_moment(target))

    assert firsts == sorted(set(firsts))


@pytest.mark.parametrize("connections", [3, 4])
def test_a_view_asks_for_the_time_beside_other_tables(
    connections: int, leaving: Database, target: Database
) -> None:
    create_items(leaving, 3000)
    others = [
        {"source": "public.items", "target": f"raw_data.items_{n}", "batch_size": 300}
        for n in range(2)
    ]
    chosen = settings(
        *({"sync_mode": "full_sync", **other} for other in others),
        {**BY_VIEW, "verify": "checksum"},
        tables_in_parallel=3,
        source_max_connections=connections,
    )
    for _ in range(2):
        report = run(chosen, environment(leaving, target), RunOptions())
        assert [(result.error, result.retries) for result in report.tables] == [(None, 0)] * 3
        assert_one_moment(target)


@pytest.mark.parametrize("table", [BY_FUNCTION, BY_VIEW], ids=["function", "view"])
def test_two_targets_of_a_table_have_one_clock(
    table: dict[str, Any], leaving: Database, target: Database, target_server: Any
) -> None:
    with fresh_database(target_server, "second") as second:
        targets = [
            {"conn_id": TARGET_ID, "table": RAW},
            {"conn_id": SECOND_TARGET_ID, "table": RAW},
        ]
        shared = {key: value for key, value in table.items() if key != "target"}
        report = run(
            settings({**shared, "targets": targets}),
            environment(leaving, target, second),
            RunOptions(landing=LandingOptions(wait_seconds=10)),
        )

        assert [result.error for result in report.tables] == [None, None]
        assert assert_one_moment(target) == assert_one_moment(second)


@pytest.mark.parametrize("verify", ["count", "off"])
def test_the_session_with_the_clock_is_cut_between_two_chunks(
    verify: str, leaving: Database, target: Database
) -> None:
    """No other session's clock would fit what is loaded: it starts over in a new snapshot."""
    calls = count()

    def cut(chunks: int) -> None:
        if chunks >= 4 and next(calls) == 0:
            end_readers(leaving)
            time.sleep(0.05)

    table = {**BY_FUNCTION, "verify": verify, "max_retries": 1}
    (result,) = land(leaving, target, table, after_chunk=cut).tables

    assert result.error is None
    assert result.retries
    assert_one_moment(target)


def test_a_crashed_run_is_not_gone_on_from(leaving: Database, target: Database) -> None:
    table = {**BY_FUNCTION, "verify": "off"}
    broken_off(leaving, target, table, after=4)

    (result,) = land(leaving, target, table).tables

    assert (result.error, result.chunks_resumed) == (None, 0)
    assert_one_moment(target)


NOW = "SELECT now()"


@pytest.fixture
def snapshot(leaving: Database, target: Database) -> Iterator[SourceSnapshot]:
    """The snapshot of a run that has done nothing else."""
    run_ = prepared_run(leaving, target, BY_FUNCTION)
    taken = run_._source(settings(BY_FUNCTION).tables[0])
    yield taken
    taken.close()


def test_a_failed_statement_leaves_the_clock(snapshot: SourceSnapshot) -> None:
    """As a read does that is ended for somebody who waits for its lock."""
    with snapshot.looking(by_one_clock=True) as reader:
        before = reader.execute(NOW)
    with snapshot.looking() as reader:
        assert reader.execute(NOW) != before

    with pytest.raises(SourceError), snapshot.looking(by_one_clock=True) as reader:
        reader.execute("SELECT 1 / 0")

    with snapshot.looking(by_one_clock=True) as reader:
        assert reader.execute(NOW) == before


def test_no_other_session_takes_the_place_of_a_lost_one(snapshot: SourceSnapshot) -> None:
    with snapshot.looking(by_one_clock=True) as lost:
        before = lost.execute(NOW)
    lost.sever()
    with pytest.raises(SourceUnavailable), snapshot.looking(by_one_clock=True):
        pass

    with pytest.raises(SnapshotLost), snapshot.looking(by_one_clock=True):
        pass
    with snapshot.looking() as one, snapshot.looking() as another:  # its slot is free again
        assert before not in (one.execute(NOW), another.execute(NOW))


def test_the_time_of_a_condition_itself_is_the_snapshots_for_all(
    leaving: Database, target: Database
) -> None:
    """It stands in the text: several sessions may read, and do."""
    table = {**BY_FUNCTION, "custom_where": "ends_at > now()", "verify": "checksum"}

    assert land(leaving, target, table).tables[0].error is None
    assert_one_moment(target)
