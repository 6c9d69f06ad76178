"""What the ledger tells of a table's runs: memory, speed, failures; and how old ledgers get it."""

from typing import Any

import pytest

from demo.embedded_server import free_ports
from extract_load import ledger, table_health
from extract_load.connection import Session
from extract_load.connection_parameters import resolve_connection
from tests.support.landing import environment, land, land_one, settings
from tests.support.servers import Database
from tests.support.tables import FULL, RAW, create_items

BROKEN = {**FULL, "sync_mode": "incremental_sync", "incremental_field": "absent"}
METRICS = "SELECT {} FROM extract_load.table_metrics"


@pytest.fixture
def items(source: Database) -> Database:
    create_items(source, 2_000)
    return source


def session_to(database: Database) -> Session:
    names = environment(database, database)
    return Session(resolve_connection("postgres_default", names), "target")


def old_ledger(target: Database) -> None:
    """The ledger of the first version, with a run in it."""
    target.execute(
        "CREATE SCHEMA extract_load; CREATE SCHEMA extract_load_scratch;"
        "CREATE TABLE extract_load.ledger_version (version integer PRIMARY KEY,"
        " applied_at timestamptz NOT NULL DEFAULT clock_timestamp())"
    )
    target.execute(ledger.migrations()[0])
    target.execute(
        "INSERT INTO extract_load.ledger_version VALUES (1);"
        "INSERT INTO extract_load.runs (run_id, status, invoked_by, version)"
        " VALUES ('old', 'done', '{}', '0.1.0');"
        "INSERT INTO extract_load.table_runs (run_id, target_schema, target_table,"
        " source_connection, source_table, sync_mode, status, rows_read, seconds) VALUES"
        " ('old', 'raw_data', 'digitalocean_items', 'a', 'public.items', 'full_sync', 'done', 50,"
        " 0.5), ('old', 'raw_data', 'other', 'a', 'public.other', 'full_sync', 'running', 0, NULL)"
    )


def test_a_run_leaves_its_memory_and_speed(items: Database, target: Database) -> None:
    result = land_one(items, target, FULL)

    ((peak, speed, seconds),) = target.execute(
        "SELECT peak_rss_bytes, rows_per_second, seconds FROM extract_load.table_runs"
    )
    assert 10 << 20 < peak < 2 << 30
    assert speed == pytest.approx(2_000 / seconds)
    assert round(speed, 1) == result.rows_per_second


def test_an_old_ledger_is_updated_with_its_rows(items: Database, target: Database) -> None:
    old_ledger(target)

    with session_to(target) as session:
        ledger.migrate(session)
        ledger.migrate(session)

    versions = target.execute("SELECT version FROM extract_load.ledger_version ORDER BY 1")
    assert versions == [(number,) for number in range(1, len(ledger.migrations()) + 1)]
    assert len(versions) > 1
    assert target.execute(
        "SELECT target_table, rows_per_second, peak_rss_bytes FROM extract_load.table_runs "
        "ORDER BY 1"
    ) == [("digitalocean_items", 100.0, None), ("other", None, None)]
    land_one(items, target, FULL)
    columns = METRICS.format("target_table, status, runs, failures, error_rate")
    assert target.execute(f"{columns} ORDER BY 1") == [
        ("digitalocean_items", "done", 2, 0, 0.0),
        ("other", None, 0, 0, None),
    ]


def test_a_ledger_of_a_later_version_is_refused(items: Database, target: Database) -> None:
    land_one(items, target, FULL)
    target.execute("INSERT INTO extract_load.ledger_version VALUES (99)")

    (failed,) = land(items, target, FULL).tables

    assert 'the ledger in target "postgres_default" is newer' in str(failed.error)
    known = len(ledger.migrations())
    assert f"It is at version 99; this program knows {known}." in str(failed.error)


def test_the_metrics_are_those_of_the_last_twenty_finished_runs(
    items: Database, target: Database
) -> None:
    land_one(items, target, FULL)
    # 25 runs more, every second one failed, and one that was killed.
    target.execute(
        "INSERT INTO extract_load.runs (run_id, status, invoked_by, version)"
        " SELECT 'r' || i, 'failed', '{}', '0' FROM generate_series(1, 26) AS i;"
        "INSERT INTO extract_load.table_runs (run_id, target_schema, target_table,"
        " source_connection, source_table, sync_mode, status, started_at, rows_read, seconds,"
        " error) SELECT 'r' || i, 'raw_data', 'digitalocean_items', 'a', 'public.items',"
        " 'full_sync', CASE WHEN i = 26 THEN 'running' WHEN i % 2 = 0 THEN 'failed' ELSE 'done'"
        " END, now() + i * interval '1 h', i, 2, CASE WHEN i % 2 = 0 THEN"
        " jsonb_build_object('primary', 'no. ' || i) END FROM generate_series(1, 26) AS i"
    )
    columns = (
        "run_id, status, rows_per_second, runs, failures, error_rate, last_error ->> 'primary'"
    )

    assert target.execute(METRICS.format(columns)) == [("r25", "done", 12.5, 20, 10, 0.5, "no. 24")]


def healths(source: Database, target: Database, *tables: Any, over: int = 20) -> Any:
    return table_health(settings(*tables), environment(source, target), over)


def test_the_health_of_a_table(items: Database, target: Database) -> None:
    land_one(items, target, FULL)
    land(items, target, BROKEN)
    land(items, target, BROKEN)
    land_one(items, target, FULL, full_refresh=True)

    (health,) = healths(items, target, FULL)

    assert (health.source, health.target) == ("public.items", 'raw_data."digitalocean_items"')
    assert health.target_connection == "postgres_default"
    assert (health.runs, health.error_count, health.success_rate) == (4, 2, 0.5)
    assert health.last_status == "done"
    assert health.rows_per_second == pytest.approx(2_000 / health.seconds)
    assert health.peak_rss_bytes > 10 << 20
    assert health.published_at.endswith("Z")
    assert 0 <= health.age_seconds < 60
    assert health.last_error["primary"] == '"public.items" has no column "absent"'
    assert health.error is None
    (newest,) = healths(items, target, FULL, over=1)
    assert (newest.runs, newest.success_rate, newest.last_error) == (1, 1.0, None)


def test_age_is_told_by_the_targets_clock(items: Database, target: Database) -> None:
    land_one(items, target, FULL)
    target.execute(
        "UPDATE extract_load.watermarks SET published_at = clock_timestamp() - interval '2 h'"
    )
    (health,) = healths(items, target, FULL)
    assert 7200 <= health.age_seconds < 7260


def test_a_table_that_never_ran_and_one_that_is_off(items: Database, target: Database) -> None:
    other = {"source": "public.other"}
    off = {"source": "public.off", "enabled": False}
    before = healths(items, target, FULL, other, off)
    land_one(items, target, FULL)
    after = healths(items, target, FULL, other, off)

    assert [health.source for health in before] == ["public.items", "public.other"]
    for health in (*before, after[1]):
        assert (health.runs, health.success_rate, health.age_seconds) == (0, None, None)
        assert health.error is None
    assert after[0].runs == 1
    assert target.execute("SELECT to_regclass(%s) IS NOT NULL", [RAW]) == [(True,)]


def test_targets_that_cannot_be_asked_hide_no_other(
    items: Database, target: Database, source: Database
) -> None:
    land_one(items, target, FULL)
    old_ledger(source)
    (closed,) = free_ports(1)
    landed = [
        {"conn_id": name, "table": "raw_data.digitalocean_items"}
        for name in ("postgres_default", "down", "old", "unknown")
    ]
    names = environment(items, target)
    names["AIRFLOW_CONN_OLD"] = source.uri
    names["AIRFLOW_CONN_DOWN"] = target.uri.replace(f":{target.port}/", f":{closed}/")

    found = table_health(settings({"source": "public.items", "targets": landed}), names, 20)

    assert [health.runs for health in found] == [1, 0, 0, 0]
    assert [health.error and health.error.primary for health in found] == [
        None,
        'could not connect to target "down"',
        'the ledger in target "old" has no metrics yet',
        'connection "unknown" is not defined',
    ]
