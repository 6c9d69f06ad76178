"""How declarations become tasks: manifests that differ from the repository's."""

import json
import os
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import DAG

from common.declarations import read_defaults
from common.target_profile import target_profile
from extract_load import ConfigError
from tests.dags.airflow_home import DAG_ID, DAGS

Change = Callable[[dict[str, Any]], None]


@pytest.fixture
def draw(manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., DAG]:
    """Draws the DAG from a manifest after a change to it."""

    def drawn(change: Change) -> DAG:
        document = json.loads(manifest.read_text())
        change(document)
        path = tmp_path / "manifest.json"
        path.write_text(json.dumps(document))
        return read(path, monkeypatch)

    return drawn


def read(manifest: Path, monkeypatch: pytest.MonkeyPatch) -> DAG:
    monkeypatch.setenv("EXTRACT_LOAD_MANIFEST", str(manifest))
    return runpy.run_path(str(DAGS / f"{DAG_ID}.py"))["dag"]


def declare(document: dict[str, Any], table: str, **keys: Any) -> None:
    source = document["sources"][f"source.warehouse.digitalocean.{table}"]
    source["config"]["meta"]["extract_load"] |= keys


def upstream(dag: DAG, task_id: str) -> set[str]:
    return set(dag.get_task(task_id).upstream_task_ids)


def test_every_problem_of_the_declarations_is_told_at_once(draw: Callable[..., DAG]) -> None:
    def change(document: dict[str, Any]) -> None:
        declare(document, "users", sync_mode="weekly")
        declare(document, "orders", batch_size=0)

    with pytest.raises(ConfigError) as raised:
        draw(change)
    assert [(problem.table, problem.key) for problem in raised.value.problems] == [
        ("public.users", "sync_mode"),
        ("public.orders", "batch_size"),
    ]


def test_what_another_dag_lands_is_built_there(draw: Callable[..., DAG]) -> None:
    dag = draw(lambda document: declare(document, "events", dag="hourly_dag"))
    assert not [task_id for task_id in dag.task_ids if "events" in task_id]
    assert "digitalocean_users.extract_load" in dag.task_ids


def test_naming_this_dag_changes_nothing(draw: Callable[..., DAG]) -> None:
    named = draw(lambda document: declare(document, "events", dag=DAG_ID))
    assert set(named.task_ids) == set(draw(lambda _: None).task_ids)


def test_models_of_a_disabled_table_go_on_with_what_it_holds(draw: Callable[..., DAG]) -> None:
    dag = draw(lambda document: declare(document, "users", enabled=False))
    assert "digitalocean_users.extract_load" not in dag.task_ids
    assert upstream(dag, "digitalocean_users.test") == {"loads_ended"}
    assert upstream(dag, "stg_digitalocean__users.run") == {"digitalocean_users.test"}


def test_a_task_keeps_its_id_when_its_table_loses_its_tests(draw: Callable[..., DAG]) -> None:
    """And with it its history."""

    def change(document: dict[str, Any]) -> None:
        for unique_id, node in list(document["nodes"].items()):
            is_test = node["resource_type"] == "test"
            if is_test and node["depends_on"]["nodes"] == ["source.warehouse.digitalocean.stocks"]:
                del document["nodes"][unique_id]

    dag = draw(change)
    assert "digitalocean_stocks.test" not in dag.task_ids
    load = {"digitalocean_stocks.extract_load"}
    assert upstream(dag, "stg_digitalocean__stocks.run") == load


def test_an_asset_can_be_told_apart_whatever_its_table_is_called(draw: Callable[..., DAG]) -> None:
    target = 'raw_data."종목/마스터 100%"'
    dag = draw(lambda document: declare(document, "stocks", target=target))
    (asset,) = dag.get_task("digitalocean_stocks.extract_load").outlets
    assert asset.name == f"postgres_default.{target}"
    assert asset.uri.startswith("extract-load://postgres_default/raw_data/")
    assert asset.uri.count("/") == 4


def test_a_broken_manifest_is_told(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "manifest.json"
    broken.write_bytes(manifest.read_bytes()[:1000])
    with pytest.raises(ConfigError, match="cannot be read") as raised:
        read(broken, monkeypatch)
    assert str(broken) in raised.value.primary
    assert raised.value.hint.startswith("Let dbt write it again: ")


@pytest.mark.parametrize(
    ("variables", "dbt_target", "schema"),
    [
        ({}, "dev", "dev"),
        ({"DBT_USER": "anna"}, "dev", "anna"),
        ({"DBT_TARGET": "ci"}, "ci", "ci"),
        ({"DBT_TARGET": "prod", "DBT_USER": "anna"}, "prod", "marts"),
    ],
    ids=["nothing set", "a user", "ci", "prod"],
)
def test_models_land_in_the_schemas_that_profiles_yml_says(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], dbt_target: str, schema: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    profile = target_profile(
        "postgres_default", read_defaults(os.environ)["dbt_configs"]["dbt_target"]
    )
    assert profile.target_name == dbt_target
    assert profile.profile_mapping.profile_args["schema"] == schema


def test_a_table_with_several_targets_is_one_task(draw: Callable[..., DAG]) -> None:
    def change(document: dict[str, Any]) -> None:
        declare(
            document,
            "users",
            dag=DAG_ID,
            targets=[
                {"conn_id": "postgres_default", "table": "raw_data.digitalocean_users"},
                {"conn_id": "fs2_postgres", "table": "raw_data.users_elsewhere"},
            ],
        )

    (load,) = [
        task
        for task in draw(change).tasks
        if task.task_id.endswith("extract_load") and "users" in task.task_id
    ]
    assert [outlet.uri for outlet in load.outlets] == [
        "extract-load://postgres_default/raw_data/digitalocean_users",
        "extract-load://fs2_postgres/raw_data/users_elsewhere",
    ]
