"""The guide's code inside Airflow: its Python in a task, its tables in the copy DAGs, its mail."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.dags.airflow_home import DAG_ID, DAGS, HYBRID_ID, AirflowHome
from tests.dags.alert_servers import body_of, running_mail_server
from tests.dags.guide import (
    CALLS,
    CONNECTION_INFO,
    GUIDE,
    USERS,
    GuideShop,
    with_dags,
)
from tests.support.landing import assert_equal
from tests.support.servers import PASSWORD

CONSTANTS = "SOURCE_CONN_ID = "
DEFAULT_ARGS = "default_args = {"
ADD_CONNECTION = "airflow connections add"
USERS_DAG = """
# A DAG of somebody who uses the guide; Airflow looks for the words "airflow" and "dag".
from airflow.providers.standard.operators.python import PythonOperator
from airflow.sdk import DAG

from common.operator import ExtractLoadOperator
from extract_load import settings_from_document

{constants}
{default_args}

def run_the_guide():
    names = {{}}
    exec({calls!r}, names)
    return [names["source_conn"], names["target_conn"], names["conn_info"], names["metadata"]]


def copied(name, source_id, target_id, **table):
    document = {{"source_connection": source_id, "target_connection": target_id, "tables": [table]}}
    ExtractLoadOperator(task_id=name, settings=settings_from_document(document, name))


with DAG("users_own_dag", schedule=None, default_args=default_args):
    PythonOperator(task_id="guide", python_callable=run_the_guide)
    copied("from_digitalocean", SOURCE_CONN_ID, "fs2_postgres",
           source="public.products", target="public.products")
    copied("to_digitalocean", "fs2_postgres", TARGET_CONN_ID,
           source="public.prices", target="public.prices")
    copied("fails", SOURCE_CONN_ID, "fs2_postgres",
           source="public.nowhere", target="public.nowhere")
"""


@GUIDE.claims(CONSTANTS, DEFAULT_ARGS)
def test_a_users_own_dag_reads_the_guide_copies_both_ways_and_mails_its_failure(
    airflow_of_a_user: AirflowHome, shop: GuideShop
) -> None:
    text = USERS_DAG.format(
        constants=GUIDE.block(CONSTANTS),
        default_args=GUIDE.block(DEFAULT_ARGS),
        calls="\n".join(map(GUIDE.block, CALLS)),
    )
    own = with_dags(airflow_of_a_user, users_own_dag=text)
    with running_mail_server() as mailbox:
        home = own.with_variables(AIRFLOW_CONN_SMTP_DEFAULT=mailbox.connection)
        outcome = home.airflow("dags", "test", "users_own_dag", timeout=120)

    done = dict.fromkeys(("guide", "from_digitalocean", "to_digitalocean"), "success")
    assert home.states("users_own_dag") == {**done, "fails": "failed"}, outcome.stdout[-4000:]
    prices = {"source": "public.prices", "target": "public.prices"}
    assert_equal(shop.fs2, shop.digitalocean, prices)
    products = {"source": "public.products", "target": "public.products"}
    assert_equal(shop.digitalocean, shop.fs2, products)

    ((told,),) = home.rows("SELECT value FROM xcom WHERE task_id = 'guide'")
    source_conn, target_conn, conn_info, metadata = json.loads(told)
    assert (source_conn, target_conn) == ("digitalocean_postgres", "postgres_default")
    assert conn_info["port"] == shop.digitalocean.port
    assert DAG_ID in metadata["dag_dependencies"]
    assert "✅ DigitalOcean PostgreSQL 연결 성공!" in outcome.stdout
    assert PASSWORD not in outcome.stdout + outcome.stderr

    (mail,) = mailbox.mails
    assert mail["To"] == "admin@example.com, data-team@example.com"
    assert "public.nowhere" in body_of(mail)
    assert PASSWORD not in body_of(mail)


SINGLE = "DIGITALOCEAN_TABLES_CONFIG"
HYBRID = "HYBRID_TABLES_CONFIG"


@pytest.fixture(scope="module")
def users_alone(manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The manifest without models and without other tables: what is built on them is not shown."""
    document = json.loads(manifest.read_text())
    sources = {
        unique_id: node
        for unique_id, node in document["sources"].items()
        if node["name"] in {"users", "users_local"}
    }
    path = tmp_path_factory.mktemp("users-alone") / "manifest.json"
    path.write_text(json.dumps({**document, "sources": sources, "nodes": {}, "exposures": {}}))
    return path


@GUIDE.claims(SINGLE, HYBRID)
@pytest.mark.parametrize(("name", "dag_id"), [(SINGLE, DAG_ID), (HYBRID, HYBRID_ID)])
def test_the_configuration_as_a_variable_is_landed_by_its_dag(
    airflow_of_a_user: AirflowHome, users_alone: Path, shop: GuideShop, name: str, dag_id: str
) -> None:
    names: dict[str, Any] = {}
    exec(GUIDE.block(name), names)  # noqa: S102 - it is what users run
    variable = {dag_id: names[name]}
    own = with_dags(
        replace(airflow_of_a_user, manifest=users_alone), **{dag_id: DAGS / f"{dag_id}.py"}
    )
    home = own.with_variables(AIRFLOW_VAR_TABLE_CONFIGS=json.dumps(variable))
    outcome = home.airflow("dags", "test", dag_id, timeout=120)
    assert outcome.status == 0, outcome.stdout[-4000:]

    (entry,) = variable[dag_id]
    single = {"conn_id": "postgres_default", "table": entry.get("target")} | entry
    databases = {"postgres_default": shop.warehouse, "fs2_postgres": shop.fs2}
    for target in entry.get("targets", [single]):
        landed = {"source": entry["source"], "target": target["table"]}
        database = databases[target["conn_id"]]
        assert_equal(shop.digitalocean, database, landed)
        modes = database.execute(
            "SELECT sync_mode, chunks >= %s FROM extract_load.table_runs WHERE target_table = %s",
            (USERS // target["batch_size"], target["table"].partition(".")[2]),
        )
        assert modes == [(target["sync_mode"], True)]


@GUIDE.claims(ADD_CONNECTION)
def test_a_connection_that_is_added_is_found(airflow_of_a_user: AirflowHome) -> None:
    """Saved in Airflow's own database: the environment names none."""
    bare = replace(airflow_of_a_user, variables={"PYTHONUTF8": "1"})
    added = bare.shell(GUIDE.block(ADD_CONNECTION))
    assert added.status == 0, added.stderr
    told = bare.python(GUIDE.block(CONNECTION_INFO))
    host = "Host: digitalocean-host.example.com\nPort: 5432\nDatabase: 데이터베이스명\n"
    assert told.stdout.endswith(host), told.stderr
