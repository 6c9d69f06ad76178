"""What Airflow makes of the DAG files: their tasks, their edges, and nothing else."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.dags.airflow_home import DAG_ID, DAGS, HYBRID_ID, ROOT, AirflowHome, DagFolder
from tests.dags.large_manifest import write_large_manifest

DAG_FILES = sorted(DAGS.glob("*.py"))
READERS = {
    "digitalocean_users": {"stg_digitalocean__users.run"},
    "digitalocean_products": {
        "stg_digitalocean__products.run",
        "snap_digitalocean__products.snapshot",
    },
    "digitalocean_orders": {"stg_digitalocean__orders.run"},
    "digitalocean_order_items": {
        "stg_digitalocean__order_items.run",
        "stg_digitalocean__order_item_deletions.run",
    },
    "digitalocean_events": {"stg_digitalocean__events.run"},
    "digitalocean_stocks": {"stg_digitalocean__stocks.run"},
}
LOADS = {f"{source}.extract_load" for source in READERS}
CHECKS = {"connections.digitalocean_postgres", "connections.postgres_default"}
COPY_DAGS = {DAG_ID: CHECKS, HYBRID_ID: {"connections.digitalocean_postgres"}}
"""Each with its tasks that look whether a server can be reached."""
OTHERS = {"loads_ended", "loads_succeeded", "table_configs"}


@pytest.fixture(scope="module")
def nodes(manifest: Path) -> dict[str, dict[str, Any]]:
    """Everything the manifest knows, by dbt's unique id."""
    document = json.loads(manifest.read_text())
    return {**document["nodes"], **document["sources"]}


def downstream(dags: DagFolder, task_id: str) -> set[str]:
    return {other for other, task in dags.tasks.items() if task_id in task["upstream"]}


def dag_of(nodes: dict[str, dict[str, Any]], unique_id: str) -> str:
    """Where a node of the sample stands: only `users_local` has several targets."""
    parents = nodes[unique_id].get("depends_on", {}).get("nodes", [])
    is_hybrid = "users_local" in unique_id or any("users_local" in parent for parent in parents)
    return HYBRID_ID if is_hybrid else DAG_ID


def own_tests(nodes: dict[str, dict[str, Any]], unique_id: str) -> list[dict[str, Any]]:
    """The tests that have this node for their only parent."""
    return [
        node
        for node in nodes.values()
        if node["resource_type"] == "test" and set(node["depends_on"]["nodes"]) == {unique_id}
    ]


def task_ids(nodes: dict[str, dict[str, Any]], unique_id: str) -> set[str]:
    """The tasks a node should have: one that makes it, and one for its tests."""
    node = nodes[unique_id]
    kind = node["resource_type"]
    if kind == "test":
        many = len(set(node["depends_on"]["nodes"])) > 1
        return {f"{unique_id.split('.')[2]}_test"} if many else set()
    name = f"{node['source_name']}_{node['name']}" if kind == "source" else node["name"]
    verb = {"model": "run", "snapshot": "snapshot", "source": "extract_load"}[kind]
    tested = {f"{name}.test"} if own_tests(nodes, unique_id) else set()
    landed = kind != "source" or "extract_load" in node["config"]["meta"]
    makes = f"{name}.{verb}" if tested or kind == "source" else f"{name}_{verb}"
    return tested | ({makes} if landed else set())


def test_every_dag_file_can_be_read(dags: DagFolder) -> None:
    assert dags.import_errors == {}
    assert set(dags.dags) == {path.stem for path in DAG_FILES} >= set(COPY_DAGS)


def test_no_dbt_node_is_missing_and_none_is_rendered_twice(
    dags: DagFolder, nodes: dict[str, dict[str, Any]]
) -> None:
    for dag_id, checks in COPY_DAGS.items():
        expected = [
            task_id
            for unique_id in nodes
            if dag_of(nodes, unique_id) == dag_id
            for task_id in task_ids(nodes, unique_id)
        ]
        assert len(expected) == len(set(expected))
        assert set(dags.dags[dag_id]["tasks"]) == {*expected, *checks, *OTHERS}
    built = [
        task["node"]
        for dag_id in COPY_DAGS
        for task in dags.dags[dag_id]["tasks"].values()
        if task["operator"] in {"DbtRunLocalOperator", "DbtSnapshotLocalOperator"}
    ]
    kinds = {"model", "snapshot"}
    assert sorted(built) == sorted(
        uid for uid, node in nodes.items() if node["resource_type"] in kinds
    )


def test_each_model_waits_for_just_the_tables_it_reads(dags: DagFolder) -> None:
    loads = {id_ for id_, task in dags.tasks.items() if task["operator"] == "ExtractLoadOperator"}
    assert loads == LOADS
    for source, readers in READERS.items():
        load = f"{source}.extract_load"
        assert set(dags.tasks[load]["upstream"]) == CHECKS
        assert downstream(dags, load) == {f"{source}.test", "loads_ended", "loads_succeeded"}
        assert dags.tasks[f"{source}.test"]["upstream"] == [load]
        assert downstream(dags, f"{source}.test") == readers
        for reader in readers:
            assert dags.tasks[reader]["upstream"] == [f"{source}.test"]


def test_edges_are_those_of_dbt(dags: DagFolder, nodes: dict[str, dict[str, Any]]) -> None:
    """A node waits for the tests of what it reads, and for nothing else."""
    for unique_id, node in nodes.items():
        tasks = dags.dags[dag_of(nodes, unique_id)]["tasks"]
        made = [task_id for task_id in task_ids(nodes, unique_id) if not task_id.endswith(".test")]
        if node["resource_type"] == "source" or not made:
            continue
        parents = set(node["depends_on"]["nodes"])
        last = {
            sorted(task_ids(nodes, parent), key=lambda task_id: task_id.endswith(".test"))[-1]
            for parent in parents
        }
        assert set(tasks[made[0]]["upstream"]) == last, unique_id


def test_the_ledger_is_read_when_all_loads_have_ended(dags: DagFolder) -> None:
    """Well or badly: a report on failures is wanted most when there are some."""
    gate = dags.tasks["loads_ended"]
    assert set(gate["upstream"]) == LOADS
    assert gate["trigger_rule"] == "all_done"
    assert downstream(dags, "loads_ended") == {
        f"extract_load_{table}.test" for table in ("runs", "table_runs", "watermarks")
    }


def test_a_failed_load_always_makes_the_run_red(dags: DagFolder) -> None:
    """Airflow looks at the leaves alone."""
    gate = dags.tasks["loads_succeeded"]
    assert set(gate["upstream"]) == LOADS
    assert gate["trigger_rule"] == "all_success"
    assert downstream(dags, "loads_succeeded") == set()


def test_runs_do_not_overlap_and_missed_ones_are_not_caught_up(dags: DagFolder) -> None:
    for dag in dags.dags.values():
        assert dag["max_active_runs"] == 1
        assert dag["catchup"] is False
    assert dags.dags[DAG_ID]["schedule"] == ["0 2 * * *", "Asia/Seoul"]
    assert dags.dags[HYBRID_ID]["schedule"] == ["30 2 * * *", "Asia/Seoul"]


def test_loads_share_the_source_and_are_tried_once_more(dags: DagFolder) -> None:
    pools = json.loads((DAGS / "pools.json").read_text())
    for load in LOADS:
        task = dags.tasks[load]
        assert task["pool"] == "source_digitalocean_postgres"
        assert task["pool"] in pools
        assert (task["retries"], task["retry_minutes"]) == (1, 5)


def test_tasks_have_the_time_limit_of_the_defaults_file(dags: DagFolder) -> None:
    for dag_id in COPY_DAGS:
        for task_id, task in dags.dags[dag_id]["tasks"].items():
            assert task["limit_seconds"] == 7200, task_id


def test_a_load_into_several_targets_waits_for_none_of_them(dags: DagFolder) -> None:
    """The one that is down is told by the load, which serves the others."""
    load = dags.dags[HYBRID_ID]["tasks"]["digitalocean_users_local.extract_load"]
    assert load["upstream"] == ["connections.digitalocean_postgres"]
    assert [uri for _, uri in load["outlets"]] == [
        "extract-load://postgres_default/raw_data/digitalocean_users_local",
        "extract-load://fs2_postgres/raw_data/digitalocean_users_fs2",
    ]


def test_the_trigger_form_asks_for_what_a_run_may_be_asked(dags: DagFolder) -> None:
    for dag_id in COPY_DAGS:
        assert {name: param["value"] for name, param in dags.dags[dag_id]["params"].items()} == {
            "full_refresh": False,
            "select": [],
            "allow_deletes": False,
            "allow_rewrite": False,
            "since": None,
        }
    select = dags.dags[HYBRID_ID]["params"]["select"]["schema"]
    assert select["items"]["enum"] == ["public.users"]


def test_each_load_has_the_asset_of_its_raw_table(dags: DagFolder) -> None:
    assert {load: dags.tasks[load]["outlets"] for load in LOADS} == {
        f"{source}.extract_load": [
            [
                f"postgres_default.raw_data.{source}",
                f"extract-load://postgres_default/raw_data/{source}",
            ]
        ]
        for source in READERS
    }


def test_parsing_touches_no_database_no_network_and_no_variable(
    dags: DagFolder, home: AirflowHome
) -> None:
    assert dags.touched == []
    assert not (home.directory / "airflow.db").exists()


def test_a_dag_file_that_reaches_out_is_caught(home: AirflowHome, tmp_path: Path) -> None:
    """The test above proves something only if this one does."""
    statements = {
        "socket.getaddrinfo": "import socket; socket.create_connection(('127.0.0.1', 9), 1)",
        "socket.connect": "import socket; socket.socket().connect(('127.0.0.1', 9))",
        "psycopg2.connect": "import psycopg2; psycopg2.connect('')",
        "sqlite3.connect": "import sqlite3; sqlite3.connect('airflow.db')",
        "Variable.get": "from airflow.sdk import Variable; Variable.get('dag_configs')",
        "Connection.get": "from airflow.sdk import Connection; Connection.get('a')",
    }
    for number, statement in enumerate(statements.values()):
        (tmp_path / f"file_{number}.py").write_text(f"# an airflow dag\n{statement}\n")
    found = home.read_dags(tmp_path)
    assert sorted(found.touched) == sorted(statements)
    assert len(found.import_errors) == len(statements)


def test_parsing_is_quick(dags: DagFolder) -> None:
    assert dags.cpu_seconds < 1


def test_parsing_500_tables_is_quick_too(home: AirflowHome, manifest: Path, tmp_path: Path) -> None:
    """All DAG files together, half of the tables in each. A task of dbt's costs Cosmos 0.7 ms."""
    large = tmp_path / "manifest.json"
    write_large_manifest(manifest, large, 500, dict.fromkeys(range(0, 500, 2), HYBRID_ID))
    found = replace(home, manifest=large).read_dags()
    assert found.import_errors == {}
    loads = [t for d in COPY_DAGS for t in found.dags[d]["tasks"] if t.endswith("extract_load")]
    assert len(loads) == 500
    assert found.touched == []
    # Other programs on the machine make a parse slower, and nothing makes it quicker.
    again = (replace(home, manifest=large).read_dags() for _ in range(4))
    assert is_quick(found) or any(is_quick(one) for one in again)


def is_quick(found: DagFolder) -> bool:
    """Half a second; where plain Python is slower than 0.13 s, so much more: a slow hour."""
    return found.cpu_seconds < 0.5 * max(1, found.yardstick_seconds / 0.13)


def test_a_missing_manifest_is_told_with_the_command_that_makes_it(
    without_manifest: DagFolder, home: AirflowHome, manifest: Path
) -> None:
    """The fixture `manifest` has run that command."""
    error, *others = without_manifest.import_errors.values()
    assert len(others) == len(COPY_DAGS) - 1
    assert f'error: there is no dbt manifest at "{home.manifest}"' in error
    assert "\ndetail: The DAG is drawn from the file that dbt writes" in error
    assert "dbt parse --project-dir " in error
    assert manifest.stat().st_size > 100_000


@pytest.mark.parametrize("path", DAG_FILES, ids=lambda path: path.stem)
def test_a_dag_file_only_wires(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 120
    assert not path.name.startswith("dbt_"), "dbt imports every module of that name"
    assert "airflow" in text, "Airflow opens only files with both words"
    assert "dag" in text, "Airflow opens only files with both words"
    assert not re.search(r"\b(psycopg2?|sqlalchemy|Variable|Hook)\b", text)


def test_dbt_finds_no_plugin_and_airflow_no_dag_in_what_is_shared() -> None:
    assert not (ROOT / "dbt_project" / "__init__.py").exists()
    assert not list(DAGS.rglob("dbt_*.py"))
    assert "common/" in (DAGS / ".airflowignore").read_text().splitlines()


def test_every_dag_stands_in_the_readme(dags: DagFolder) -> None:
    table = (DAGS / "README.md").read_text(encoding="utf-8")
    for dag_id in dags.dags:
        assert f"| `{dag_id}` |" in table
