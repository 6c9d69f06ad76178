"""DAGs that users write themselves, as the how-to shows them."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from extract_load import load_dbt_project
from tests.dags.airflow_home import DAG_ID, DAGS, ROOT, AirflowHome
from tests.dags.code_blocks import Page
from tests.dags.guide import GuideShop, execute, with_dags
from tests.support.landing import assert_equal

HOW_TO = Page(ROOT / "docs" / "how-to" / "write-your-own-dag.md")
HOURLY = "hourly_copy_dag"

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def airflow(
    airflow_of_a_user: AirflowHome, manifest: Path, tmp_path_factory: pytest.TempPathFactory
) -> AirflowHome:
    """The DAG file of the how-to beside the project's, and its word in the manifest of dbt."""
    document = json.loads(manifest.read_text())
    (stocks,) = (n for n in document["sources"].values() if n["name"] == "stocks")
    word = yaml.safe_load(HOW_TO.block("extract_load:\n"))["extract_load"]
    stocks["config"]["meta"]["extract_load"].update(word)
    moved = tmp_path_factory.mktemp("moved") / "manifest.json"
    moved.write_text(json.dumps(document))
    return replace(airflow_of_a_user, manifest=moved)


@HOW_TO.claims("copy_dag(", "extract_load:\n")
def test_ten_lines_are_a_whole_copy_dag(airflow: AirflowHome, shop: GuideShop) -> None:
    assert len(HOW_TO.block("copy_dag(").splitlines()) <= 10
    hourly = with_dags(airflow, hourly_copy_dag=HOW_TO.block("copy_dag("))
    (hourly.dags_folder / "nightly.py").symlink_to(DAGS / f"{DAG_ID}.py")
    found = airflow.read_dags(hourly.dags_folder)
    (hourly.dags_folder / "nightly.py").unlink()  # which Airflow would read again and again
    assert found.import_errors == {}
    assert found.touched == []
    assert found.dags[HOURLY]["schedule"] == ["5 * * * *", "Asia/Seoul"]
    built = {"digitalocean_stocks.extract_load", "stg_digitalocean__stocks.run"}
    assert built <= set(found.dags[HOURLY]["tasks"])
    assert not built & set(found.dags[DAG_ID]["tasks"])

    outcome = hourly.airflow("dags", "test", HOURLY, timeout=240)
    assert outcome.status == 0, outcome.stdout[-4000:]
    assert airflow.states(HOURLY) == dict.fromkeys(found.dags[HOURLY]["tasks"], "success")
    tables = load_dbt_project(ROOT / "dbt_project", {}).tables
    (stocks,) = (table for table in tables if table.target.table == "digitalocean_stocks")
    keys = {name: str(getattr(stocks, name)) for name in ("source", "target", "custom_where")}
    assert_equal(shop.digitalocean, shop.warehouse, keys)
    query = "SELECT count(*) > 0 FROM dev_staging.stg_digitalocean__stocks"
    assert shop.warehouse.execute(query) == [(True,)]


@HOW_TO.claims("ExtractLoadOperator(")
def test_a_dag_without_dbt_lands_between_any_two_connections(
    shop: GuideShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its task by itself; `test_guide_in_airflow` has Airflow run one like it."""
    for name, uri in shop.variables.items():
        monkeypatch.setenv(name, uri)
    names: dict[str, Any] = {}
    exec(HOW_TO.block("ExtractLoadOperator("), names)  # noqa: S102 - as Airflow does

    execute(names["dag"].get_task("prices"))
    prices = {"source": "public.prices", "target": "public.fs2_prices"}
    assert_equal(shop.fs2, shop.digitalocean, prices)


def test_every_block_is_run() -> None:
    assert sorted(HOW_TO.claimed, key=str) == sorted(HOW_TO.blocks, key=str)
