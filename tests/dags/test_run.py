"""The DAG run by Airflow itself, against real servers: a good night, and one with a failure."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from demo.embedded_server import EmbeddedServer
from demo.shop import fill
from extract_load import load_dbt_project
from tests.dags.airflow_home import DAG_ID, ROOT, AirflowHome, DagFolder
from tests.support.command import Outcome
from tests.support.landing import assert_equal, environment
from tests.support.servers import PASSWORD, Database, fresh_database

ROWS = 2000
TABLES = ("events", "order_items", "orders", "products", "stocks", "users")
LOADS = {f"digitalocean_{table}.extract_load" for table in TABLES}
LAST_RUN = "run_id = (SELECT run_id FROM dag_run ORDER BY id DESC LIMIT 1)"

pytestmark = pytest.mark.timeout(900)  # some sixty tasks, one after the other


@dataclass(frozen=True)
class Airflow:
    """An Airflow with a database of its own, over a filled source and a warehouse."""

    home: AirflowHome
    source: Database
    warehouse: Database

    def run(self, *options: str) -> Outcome:
        """Returns the outcome of one run of the DAG."""
        return self.home.airflow("dags", "test", DAG_ID, *options, timeout=600)

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """Returns what Airflow's own database answers."""
        with closing(sqlite3.connect(self.home.directory / "airflow.db")) as session:
            return session.execute(query).fetchall()

    def states(self) -> dict[str, str]:
        """Returns how each task of the last run ended."""
        return dict(self.rows(f"SELECT task_id, state FROM task_instance WHERE {LAST_RUN}"))


@dataclass(frozen=True)
class Night:
    """One run, and what it left in Airflow's database and in the ledger's mart."""

    outcome: Outcome
    states: dict[str, str]
    reports: dict[str, Any]
    """XCom of the loads, by task."""
    events: dict[str, Any]
    """What came with the events of the assets, by asset."""
    reported: list[tuple[Any, ...]]


@pytest.fixture(scope="module")
def airflow(
    source_server: EmbeddedServer,
    target_server: EmbeddedServer,
    servers_directory: Path,
    manifest: Path,
) -> Iterator[Airflow]:
    directory = servers_directory / "airflow-with-database"
    directory.mkdir()
    with fresh_database(source_server, "shop") as source, fresh_database(target_server, "dwh") as t:
        with closing(source.connect()) as session:
            fill(session, ROWS)
        home = AirflowHome(directory, manifest, environment(source, t))
        migrated = home.airflow("db", "migrate")
        assert migrated.status == 0, migrated.stderr
        yield Airflow(home, source, t)


@pytest.fixture(scope="module")
def good_night(airflow: Airflow) -> Night:
    outcome = airflow.run()
    assert outcome.status == 0, outcome.stdout[-4000:]
    sent = airflow.rows(f"SELECT task_id, value FROM xcom WHERE {LAST_RUN}")
    events = airflow.rows(
        "SELECT a.name, e.extra FROM asset_event e JOIN asset a ON a.id = asset_id"
    )
    return Night(
        outcome=outcome,
        states=airflow.states(),
        reports={task: json.loads(value) for task, value in sent if task in LOADS},
        events={name: json.loads(extra) for name, extra in events},
        reported=airflow.warehouse.execute(
            "SELECT target_table, table_run_status FROM dev_marts.rpt_extract_load_table_runs"
        ),
    )


def test_every_task_succeeds(good_night: Night, dags: DagFolder) -> None:
    assert good_night.states == dict.fromkeys(dags.tasks, "success")


@pytest.mark.usefixtures("good_night")
def test_every_raw_table_equals_its_source(airflow: Airflow) -> None:
    tables = load_dbt_project(ROOT / "dbt_project", {}).tables
    landed = [table for table in tables if "users_" not in table.target.table]
    assert len(landed) == len(TABLES)
    for table in landed:
        keys = {"source": str(table.source), "target": str(table.target)}
        if table.custom_where:
            keys["custom_where"] = table.custom_where.written
        assert_equal(airflow.source, airflow.warehouse, keys)


@pytest.mark.usefixtures("good_night")
@pytest.mark.parametrize(
    ("built", "read"),
    [
        ("dev_marts.fct_orders", "orders"),
        ("dev_marts.fct_order_items", "order_items"),
        ("dev_marts.dim_users", "users"),
        ("dev_marts.dim_products", "products"),
        ("dev_snapshots.snap_digitalocean__orders", "orders"),
        ("dev_snapshots.snap_digitalocean__products", "products"),
    ],
)
def test_marts_and_snapshots_are_built(airflow: Airflow, built: str, read: str) -> None:
    query = "SELECT count(*) FROM {}"
    (rows,) = airflow.source.execute(query.format(read))
    assert rows[0] > 0
    assert airflow.warehouse.execute(query.format(built)) == [rows]


def test_the_report_on_runs_has_this_one(good_night: Night) -> None:
    """Its model is built after the last load, so that it knows them all."""
    assert sorted(good_night.reported) == [(f"digitalocean_{name}", "done") for name in TABLES]


def test_each_load_leaves_its_report_and_tells_the_assets_readers(good_night: Night) -> None:
    assert set(good_night.reports) == LOADS
    for name in TABLES:
        report = good_night.reports[f"digitalocean_{name}.extract_load"]
        (table,) = report["tables"]
        assert table["status"] == "done"
        extra = good_night.events[f"postgres_default.raw_data.digitalocean_{name}"]
        assert extra["run_id"] == report["run_id"]
        assert extra["rows_inserted"] == table["rows_inserted"] == table["rows_read"] > 0


@pytest.mark.usefixtures("good_night")
def test_the_ledger_names_the_task(airflow: Airflow) -> None:
    invoked_by = airflow.warehouse.execute(
        "SELECT invoked_by ->> 'dag_id', invoked_by ->> 'task_id', invoked_by -> 'try_number' "
        "FROM extract_load.runs WHERE status = 'done' ORDER BY started_at LIMIT 6"
    )
    assert set(invoked_by) == {(DAG_ID, load, 1) for load in LOADS}


def test_the_password_is_nowhere(airflow: Airflow, good_night: Night) -> None:
    """Neither in the log, nor in a file, nor in Airflow's database, where XCom is."""
    assert PASSWORD not in good_night.outcome.stdout + good_night.outcome.stderr
    files = [path for path in airflow.home.directory.rglob("*") if path.is_file()]
    assert airflow.home.directory / "airflow.db" in files
    assert [path for path in files if PASSWORD.encode() in path.read_bytes()] == []


@pytest.mark.usefixtures("good_night")
def test_a_failed_table_stops_what_reads_it_and_nothing_else(
    airflow: Airflow, dags: DagFolder
) -> None:
    before = airflow.warehouse.execute("SELECT * FROM raw_data.digitalocean_products ORDER BY id")
    airflow.source.execute("ALTER TABLE products RENAME TO products_away")
    try:
        # Of the dbt tasks only those that matter here are run: the others are said to succeed.
        outcome = airflow.run("--mark-success-pattern", r"(?!.*(\.extract_load|products|rpt_)).*")
    finally:
        airflow.source.execute("ALTER TABLE products_away RENAME TO products")

    assert outcome.status != 0
    failed = "digitalocean_products.extract_load"
    stopped = {task_id for task_id in dags.tasks if reads(dags, task_id, failed)}
    assert {"loads_succeeded", "dim_products.run", "snap_digitalocean__products.test"} <= stopped
    assert airflow.states() == {
        **dict.fromkeys(dags.tasks, "success"),
        **dict.fromkeys(stopped, "upstream_failed"),
        failed: "failed",
    }
    assert 'error: there is no table "public.products" in source' in outcome.stdout
    after = airflow.warehouse.execute("SELECT * FROM raw_data.digitalocean_products ORDER BY id")
    assert after == before
    assert airflow.warehouse.execute(
        "SELECT target_table FROM dev_marts.rpt_extract_load_table_runs "
        "WHERE table_run_status = 'failed'"
    ) == [("digitalocean_products",)]


def reads(dags: DagFolder, task_id: str, ancestor: str) -> bool:
    """Whether a task waits for another one to succeed, at any distance."""
    task = dags.tasks[task_id]
    if task["trigger_rule"] == "all_done":
        return False
    return ancestor in task["upstream"] or any(reads(dags, t, ancestor) for t in task["upstream"])
