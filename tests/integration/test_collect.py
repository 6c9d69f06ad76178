"""What dead runs left and nobody came back for, and how long the ledger remembers."""

from typing import Any

import pytest

from extract_load import connection
from extract_load.runner import RunOptions, run
from tests.support.interrupted import broken_off
from tests.support.landing import assert_equal, environment, land_one, settings
from tests.support.servers import Database
from tests.support.tables import FULL, RAW, change_items, create_items, leftovers

SMALL = {**FULL, "batch_size": 200}
OTHER: dict[str, Any] = {"source": "public.other"}
LONG_AGO = "UPDATE extract_load.table_runs SET started_at = started_at - interval '4 days'"


@pytest.fixture
def items(source: Database) -> Database:
    create_items(source, 2_000)
    source.execute("CREATE TABLE public.other (id int PRIMARY KEY)")
    return source


@pytest.mark.parametrize("is_refresh", [False, True], ids=["first load", "refresh"])
def test_what_a_dead_run_left_is_collected_by_another_tables_run(
    items: Database, target: Database, is_refresh: bool
) -> None:
    if is_refresh:
        land_one(items, target, FULL)
        change_items(items)
    broken_off(items, target, SMALL, after=3)
    target.execute(
        "INSERT INTO extract_load.leases"
        " (target_schema, target_table, token, run_id, backend_pid, backend_start)"
        " VALUES ('raw_data', 'digitalocean_items', gen_random_uuid(), 'dead', 1, now())"
    )
    land_one(items, target, OTHER)
    assert len(leftovers(target)) == 3, "it may still be gone on from"

    target.execute(LONG_AGO)
    land_one(items, target, OTHER)

    assert leftovers(target) == []
    assert target.execute("SELECT to_regclass(%s) IS NOT NULL", (RAW,)) == [(is_refresh,)]
    land_one(items, target, FULL)
    assert_equal(items, target, FULL)


def test_a_run_that_is_alive_is_left_alone(items: Database, target: Database) -> None:
    broken_off(items, target, SMALL, after=3)
    target.execute(LONG_AGO)
    alive = target.connect()
    with alive.cursor() as cursor:
        cursor.execute(
            "INSERT INTO extract_load.leases"
            " (target_schema, target_table, token, run_id, backend_pid, backend_start)"
            " SELECT 'raw_data', 'digitalocean_items', gen_random_uuid(), 'alive', pid,"
            " backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid()"
        )
    land_one(items, target, OTHER)
    assert len(leftovers(target)) == 3
    alive.close()


def test_what_cannot_be_collected_now_stops_nobody(
    items: Database,
    target: Database,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    broken_off(items, target, SMALL, after=3)
    target.execute(LONG_AGO)
    ((scratch,),) = target.execute("SELECT relname FROM pg_class WHERE relname LIKE '\\_el\\_%'")
    monkeypatch.setitem(connection._LIMITS["target"], "lock_timeout", "300ms")
    reader = target.connect()
    with reader.cursor() as cursor:
        cursor.execute(f"BEGIN; SELECT FROM raw_data.{scratch} LIMIT 1")

    land_one(items, target, OTHER)

    (told,) = [record for record in caplog.records if record.msg == "not collected"]
    assert "lock timeout" in told.why  # type: ignore[attr-defined]
    reader.close()


def test_the_ledger_forgets_old_runs(items: Database, target: Database) -> None:
    land_one(items, target, FULL)
    target.execute("UPDATE extract_load.runs SET started_at = started_at - interval '401 days'")

    report = run(settings(OTHER), environment(items, target), RunOptions())

    assert report.status == "done"
    assert target.execute("SELECT run_id FROM extract_load.runs") == [(report.run_id,)]
    assert target.execute("SELECT count(*) FROM extract_load.table_runs") == [(1,)]
    assert target.execute("SELECT count(*) FROM extract_load.watermarks") == [(2,)]
    assert not land_one(items, target, {**FULL, "sync_mode": "xmin_incremental"}).baseline


def test_how_long_may_be_said(items: Database, target: Database) -> None:
    land_one(items, target, FULL)
    target.execute("UPDATE extract_load.runs SET started_at = started_at - interval '3 days'")

    run(settings(OTHER, ledger_retention="2 days"), environment(items, target), RunOptions())

    assert target.execute("SELECT count(*) FROM extract_load.runs") == [(1,)]
