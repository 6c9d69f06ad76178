"""A table landed as a task: what it returns, what it tells, and how it fails."""

import json
import logging
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk import DAG
from airflow.sdk.exceptions import AirflowException, AirflowFailException
from airflow.sdk.execution_time.context import OutletEventAccessors
from psycopg2 import sql

from common.airflow_lookup import airflow_connection
from common.checks import ConnectionCheckOperator
from common.operator import ExtractLoadOperator
from common.target_profile import TargetProfileMapping
from demo.embedded_server import free_ports
from tests.support.landing import SOURCE_ID, TARGET_ID, environment, settings
from tests.support.servers import PASSWORD, Database

Landed = Callable[..., tuple[Any, Any]]
"""Lands a table and returns the report and what the asset's event carries."""

TABLE = {"source": "public.users", "sync_mode": "xmin_incremental"}
SECRET = "geheim"


@pytest.fixture
def landed(source: Database, target: Database, monkeypatch: pytest.MonkeyPatch) -> Landed:
    """Runs the task; its connections come from the environment, through Airflow."""
    source.execute("CREATE TABLE users (id int PRIMARY KEY); INSERT INTO users VALUES (1), (2)")
    for name, uri in environment(source, target).items():
        monkeypatch.setenv(name, uri)

    def run(
        params: dict[str, Any] | None = None, try_number: int = 2, **table: Any
    ) -> tuple[Any, Any]:
        task = load_task(**table)
        events = OutletEventAccessors()
        report: Any = task.execute({**context(try_number, params), "outlet_events": events})
        return report, events[task.outlets[0]].extra if task.outlets else None

    return run


def load_task(**table: Any) -> ExtractLoadOperator:
    return ExtractLoadOperator(task_id="load", settings=settings({**TABLE, **table}))


def context(try_number: int = 1, params: dict[str, Any] | None = None) -> dict[str, Any]:
    """What Airflow tells a task about itself."""
    names = {"dag_id": "a_dag", "run_id": "a_run", "task_id": "load"}
    return {
        "ti": SimpleNamespace(**names, try_number=try_number),
        "params": params or {},
        "outlet_events": OutletEventAccessors(),
    }


def test_the_task_returns_the_report_and_tells_the_assets_readers(
    landed: Landed, target: Database
) -> None:
    report, extra = landed()
    assert json.loads(json.dumps(report))["tables"][0]["rows_inserted"] == 2
    assert extra["run_id"] == report["run_id"]
    assert extra["watermark"] == report["tables"][0]["window"]["high"] is not None
    assert {name: extra[name] for name in ("rows_read", "rows_inserted", "rows_deleted")} == {
        "rows_read": 2,
        "rows_inserted": 2,
        "rows_deleted": 0,
    }
    assert target.execute("SELECT count(*) FROM raw_data.digitalocean_users") == [(2,)]


def test_the_ledger_knows_which_try_of_which_task_it_was(landed: Landed, target: Database) -> None:
    report, _ = landed()
    rows = target.execute("SELECT run_id, invoked_by FROM extract_load.runs")
    invoked_by = {"dag_id": "a_dag", "run_id": "a_run", "task_id": "load", "try_number": 2}
    assert rows == [(report["run_id"], invoked_by)]


def test_the_log_has_the_engines_lines_and_the_report(
    landed: Landed, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        landed()
    messages = [record.getMessage() for record in caplog.records]
    assert [m for m in messages if m.startswith("published ") and "rows=2" in m]
    assert [m for m in messages if m.startswith("public.users ") and m.endswith(" done")]
    assert not [m for m in messages if not m.strip()]
    assert PASSWORD not in caplog.text


def test_the_log_has_the_error_rate_also_of_a_run_that_failed(
    landed: Landed, source: Database, caplog: pytest.LogCaptureFixture
) -> None:
    landed()
    source.execute("DELETE FROM users")
    with caplog.at_level(logging.INFO), pytest.raises(AirflowFailException):
        landed()
    assert "in postgres_default: 50% (1 of its last 2 runs failed)" in caplog.text


def test_what_would_fail_again_is_not_tried_again(
    landed: Landed, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(AirflowFailException, match="error: ") as raised:
        landed(source="public.nowhere")
    assert "error: " in str(raised.value)
    assert "\nhint: " in str(raised.value)
    assert "public.nowhere" in caplog.text


def test_a_wrong_password_is_refused_without_showing_it(
    landed: Landed,
    source: Database,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    wrong = replace(source, password=SECRET)
    monkeypatch.setenv(f"AIRFLOW_CONN_{SOURCE_ID.upper()}", wrong.uri)
    with pytest.raises(AirflowFailException, match="refused the connection") as raised:
        landed()
    assert SECRET not in str(raised.value) + caplog.text


def test_a_dags_default_args_decide_how_often_it_is_tried_again() -> None:
    with DAG("a_dag", schedule=None, default_args={"retries": 5}):
        load, check = load_task(), ConnectionCheckOperator(task_id="check", conn_id=SOURCE_ID)
    assert (load.retries, check.retries) == (5, 5)
    assert (load_task().retries, load_task().retry_delay) == (1, timedelta(minutes=5))


def test_what_may_succeed_later_is_tried_again(
    landed: Landed,
    source: Database,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (nobody_listens,) = free_ports(1)
    monkeypatch.setenv(
        f"AIRFLOW_CONN_{SOURCE_ID.upper()}", replace(source, port=nobody_listens).uri
    )
    with pytest.raises(AirflowException, match="could not connect to source") as raised:
        landed()
    assert not isinstance(raised.value, AirflowFailException)


@pytest.mark.parametrize("text", ["", "mysql://a:geheim@b/c", "postgresql://a:/geheim@b:5432/c"])
def test_a_connection_nobody_can_read_fails_once_and_keeps_its_secret(
    landed: Landed,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    text: str,
) -> None:
    monkeypatch.setenv(f"AIRFLOW_CONN_{SOURCE_ID.upper()}", text)
    with pytest.raises(AirflowFailException, match=f'connection "{SOURCE_ID}"') as raised:
        landed()
    assert SECRET not in str(raised.value) + caplog.text


def test_airflows_connection_is_read_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    fields = {
        "conn_type": "postgres",
        "host": "db.example.com",
        "schema": "shop",
        "login": "reader",
        "password": SECRET,
        "port": 25060,
        "extra": {"sslmode": "verify-full", "sslrootcert": "/ca.crt"},
    }
    monkeypatch.setenv("AIRFLOW_CONN_FS2_POSTGRES", json.dumps(fields))
    found = airflow_connection("fs2_postgres")
    assert found is not None
    assert found.address == "db.example.com:25060/shop"
    assert (found.user, found.password) == ("reader", SECRET)
    assert dict(found.libpq) == {"sslmode": "verify-full", "sslrootcert": "/ca.crt"}
    assert SECRET not in repr(found)


def test_airflow_knows_no_connection_of_that_name() -> None:
    assert airflow_connection("nobody_has_me") is None


@pytest.mark.parametrize(
    ("host", "query", "sslmode"),
    [
        ("db.example.com", "", "require"),
        ("db.example.com", "?sslmode=verify-full&sslrootcert=%2Fca.crt", "verify-full"),
        ("127.0.0.1", "", "prefer"),
    ],
    ids=["by default", "as asked for", "this machine"],
)
def test_dbt_encrypts_as_the_engine_does(
    monkeypatch: pytest.MonkeyPatch, host: str, query: str, sslmode: str
) -> None:
    uri = f"postgresql://owner:geheim@{host}:5433/dwh{query}"
    monkeypatch.setenv(f"AIRFLOW_CONN_{TARGET_ID.upper()}", uri)
    mapping = TargetProfileMapping(TARGET_ID, profile_args={"schema": "dev"})
    profile = mapping.profile
    assert profile["sslmode"] == sslmode
    assert (profile["host"], profile["port"], profile["dbname"]) == (host, 5433, "dwh")
    assert profile.get("sslrootcert") == ("/ca.crt" if query else None)
    assert "geheim" not in json.dumps(profile)
    assert mapping.env_vars == {"COSMOS_CONN_POSTGRES_PASSWORD": "geheim"}


def test_dbt_reads_the_variables_of_env_where_airflow_knows_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in (("HOST", "localhost"), ("USER", "airflow"), ("DB", "dwh")):
        monkeypatch.setenv(f"POSTGRES_{name}", value)
    monkeypatch.setenv("POSTGRES_PASSWORD", "geheim")
    monkeypatch.setenv("POSTGRES_PORT", "15432")
    profile = TargetProfileMapping("postgres_default", profile_args={"schema": "dev"}).profile
    assert (profile["host"], profile["port"], profile["user"]) == ("localhost", 15432, "airflow")


TWO_TARGETS = [
    {"conn_id": TARGET_ID, "table": "raw_data.users_local"},
    {"conn_id": "fs2_postgres", "table": "raw_data.users_fs2"},
]


def test_a_table_with_two_targets_is_one_task_with_two_assets(
    landed: Landed, target: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_FS2_POSTGRES", target.uri)
    report, _ = landed(targets=TWO_TARGETS)
    assert [table["status"] for table in report["tables"]] == ["done", "done"]
    assert target.execute("SELECT count(*) FROM raw_data.users_fs2") == [(2,)]


def test_one_target_that_is_down_fails_the_task_by_name_and_leaves_the_other_published(
    landed: Landed, target: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    (nobody_listens,) = free_ports(1)
    monkeypatch.setenv("AIRFLOW_CONN_FS2_POSTGRES", replace(target, port=nobody_listens).uri)
    with pytest.raises(AirflowException, match='could not connect to target "fs2_postgres"'):
        landed(targets=TWO_TARGETS)
    assert target.execute("SELECT count(*) FROM raw_data.users_local") == [(2,)]


def test_a_retry_works_on_the_missing_target_and_tells_of_both(
    landed: Landed,
    target: Database,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (nobody_listens,) = free_ports(1)
    with monkeypatch.context() as down, fresh_beside(target) as fs2:
        down.setenv("AIRFLOW_CONN_FS2_POSTGRES", replace(fs2, port=nobody_listens).uri)
        with pytest.raises(AirflowException, match="could not connect"):
            landed(targets=TWO_TARGETS, try_number=1)
        down.setenv("AIRFLOW_CONN_FS2_POSTGRES", fs2.uri)
        task = load_task(targets=TWO_TARGETS)
        with caplog.at_level(logging.INFO):
            report: Any = task.execute(context(try_number=2))
        assert [table["target_connection"] for table in report["tables"]] == ["fs2_postgres"]
        assert "published by an earlier try, left alone: raw_data.users_local" in caplog.text
        assert len(task.outlets) == 2, "the first try's event was lost with its failure"
        assert fs2.execute("SELECT count(*) FROM raw_data.users_fs2") == [(2,)]
        ledger = "SELECT status FROM extract_load.table_runs"
        assert target.execute(ledger) == fs2.execute(ledger) == [("done",)]

        # Cleared after all is well, the task lands everything again.
        again: Any = load_task(targets=TWO_TARGETS).execute(context(try_number=3))
        assert [table["status"] for table in again["tables"]] == ["done", "done"]


@contextmanager
def fresh_beside(database: Database) -> Iterator[Database]:
    """Another database of the same server."""
    other = replace(database, name=f"{database.name}_fs2")
    database.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(other.name)))
    try:
        yield other
    finally:
        drop = sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(other.name))
        database.execute(drop)


def test_a_table_that_was_not_selected_is_left_alone(
    landed: Landed, target: Database, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        report, extra = landed(params={"select": ["public.orders"]})
    assert report is extra is None, "nothing was published, so no asset has an event"
    assert "not selected in the trigger form: nothing is done" in caplog.text
    assert target.execute("SELECT to_regclass('raw_data.digitalocean_users')") == [(None,)]
    report, _ = landed(params={"select": ["public.users"]})
    assert report["tables"][0]["status"] == "done"


def test_the_trigger_form_asks_for_a_baseline(landed: Landed) -> None:
    landed()
    assert not landed()[0]["tables"][0]["baseline"]
    assert landed(params={"full_refresh": True})[0]["tables"][0]["baseline"]


def test_the_trigger_form_allows_deletes(landed: Landed, source: Database) -> None:
    landed()
    source.execute("DELETE FROM users")
    with pytest.raises(AirflowFailException, match="is empty"):
        landed()
    report, _ = landed(params={"allow_deletes": True})
    assert report["tables"][0]["rows_deleted"] == 2


def test_the_trigger_form_allows_a_rewrite(landed: Landed, source: Database) -> None:
    landed()
    source.execute("ALTER TABLE users ALTER id TYPE bigint")
    with pytest.raises(AirflowFailException, match="follows only under a lock"):
        landed()
    report, _ = landed(params={"allow_rewrite": True})
    assert report["tables"][0]["status"] == "done"


def test_since_is_for_tables_with_a_cursor(
    landed: Landed, source: Database, target: Database
) -> None:
    landed(params={"since": "1"})
    keys = {"sync_mode": "incremental_sync", "incremental_field": "id"}
    raw = "raw_data.digitalocean_users_by_id"
    landed(**keys, target=raw)
    source.execute("DELETE FROM users WHERE id = 1; INSERT INTO users VALUES (0)")
    landed(**keys, target=raw)
    assert target.execute(f"SELECT min(id) FROM {raw}") == [(1,)]
    landed(**keys, target=raw, params={"since": "0"})
    assert target.execute(f"SELECT min(id) FROM {raw}") == [(0,)]


def test_a_table_that_is_switched_off_has_no_event(landed: Landed) -> None:
    report, extra = landed(enabled=False)
    assert report["tables"][0]["status"] == "skipped"
    assert extra is None


@pytest.mark.usefixtures("landed")
def test_a_task_that_is_killed_ends_its_load(source: Database) -> None:
    """As Airflow does it: a signal, whose handler calls on_kill in the main thread."""
    source.execute("INSERT INTO users SELECT n FROM generate_series(3, 100) AS n")
    source.execute(
        "CREATE FUNCTION public.slow(int) RETURNS boolean LANGUAGE sql STABLE "
        "AS 'SELECT pg_sleep(0.1) IS NOT NULL'"
    )
    task = load_task(custom_where="public.slow(id)", sync_mode="full_sync")
    previous = signal.signal(signal.SIGALRM, lambda *_: task.on_kill())
    signal.alarm(2)
    started = time.monotonic()
    try:
        with pytest.raises(AirflowException, match="stopped from outside"):
            task.execute(context())
    finally:
        signal.signal(signal.SIGALRM, previous)
    assert time.monotonic() - started < 8
    task.on_kill()  # between loads it does nothing


def test_the_time_limit_is_the_one_that_holds_when_the_task_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    task = load_task()
    limits = json.dumps({"dags": {"a_dag": {"max_execution_seconds": 90}}})
    monkeypatch.setenv("AIRFLOW_VAR_EXECUTION_MONITORING_CONFIGS", limits)
    task.pre_execute(context())
    assert task.execution_timeout == timedelta(seconds=90)


def test_a_changed_variable_works_on_the_next_run(
    landed: Landed, monkeypatch: pytest.MonkeyPatch, target: Database
) -> None:
    """Without a deployment: the task itself is the same."""

    def change(**keys: Any) -> None:
        entries = {"a_dag": [{"source": "public.users", **keys}]}
        monkeypatch.setenv("AIRFLOW_VAR_TABLE_CONFIGS", json.dumps(entries))

    def run() -> dict[str, Any]:
        return dict(landed({"allow_deletes": True})[0]["tables"][0])

    assert (run()["rows_read"], run()["sync_mode"]) == (2, "xmin_incremental")
    change(custom_where="id > 1")
    assert run()["rows_deleted"] == 1
    change(sync_mode="full_sync", batch_size=1, chunk_mode=True)
    report = run()
    assert (report["rows_read"], report["sync_mode"]) == (2, "full_sync")
    change(sync_mode="full")
    with pytest.raises(AirflowFailException) as failed:
        run()
    assert 'table_configs.a_dag.public.users.sync_mode: "full" is no sync mode' in str(failed.value)
    assert "hint: Mend the key under Admin > Variables" in str(failed.value)
    assert target.execute("SELECT count(*) FROM raw_data.digitalocean_users") == [(2,)]
