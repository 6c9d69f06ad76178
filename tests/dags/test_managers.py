"""The guide's managers in a task, in a shell beside Airflow, without Airflow, without its database.

Their Python is the guide's. It prints JSON, so that each place can be compared with the others.
"""

import json
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from common import environment as environment_module
from common.connection_manager import ConnectionManager
from common.dag_config_manager import DAGConfigManager
from common.declarations import read_declarations
from common.environment import environment
from demo.embedded_server import free_ports
from extract_load import ConfigError
from tests.dags.airflow_home import DAG_ID, HYBRID_ID, AirflowHome
from tests.support.servers import PASSWORD, Database

SOURCE, TARGET = "digitalocean_postgres", "postgres_default"
WITHOUT_AIRFLOW = """
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"airflow", "cosmos"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
import sys
sys.meta_path.insert(0, Refuse())
"""
PROGRAM = f"""
import json, logging
from common.connection_manager import ConnectionManager
from common.dag_config_manager import DAGConfigManager
from common.declarations import read_declarations
tables = DAGConfigManager.get_table_configs("{DAG_ID}")
print("FOUND" + json.dumps({{
    "connected": ConnectionManager.test_connection("{SOURCE}"),
    "refused": ConnectionManager.test_connection("nobody_knows"),
    "info": ConnectionManager.get_connection_info("{SOURCE}"),
    "metadata": ConnectionManager.get_connection_metadata("{SOURCE}"),
    "dag": DAGConfigManager.get_dag_config("{DAG_ID}"),
    "users": next(table for table in tables if table["source"] == "public.users"),
    "monitoring": DAGConfigManager.get_monitoring_config(),
}}))
"""
DAG_FILE = f"""
from airflow.sdk import dag, task
@dag(schedule=None)
def asks_managers():
    @task
    def ask():
        exec({PROGRAM!r})
    ask()
asks_managers()
"""
VARIABLES = {
    "table_configs": {DAG_ID: [{"source": "public.users", "batch_size": 123}]},
    "dag_configs": {DAG_ID: {"tables_in_parallel": 3}},
    "connection_configs": {SOURCE: {"description": "운영 데이터베이스"}},
    "execution_monitoring_configs": {"max_error_count": 8},
}


def found(stdout: str) -> dict[str, Any]:
    line = next(line for line in stdout.splitlines() if "FOUND{" in line)
    return dict(json.JSONDecoder().raw_decode(line.partition("FOUND")[2])[0])


def info(database: Database) -> dict[str, Any]:
    return {
        "host": database.host,
        "port": database.port,
        "database": database.name,
        "user": database.user,
        "sslmode": "prefer",
    }


def assert_declared(answer: dict[str, Any]) -> None:
    """Nothing of it came out of a Variable."""
    assert answer["connected"] is True
    assert answer["refused"] is False
    assert answer["metadata"]["description"].startswith("The shop's application database")
    assert answer["metadata"]["usage_count"] == 7
    assert answer["metadata"]["dag_dependencies"] == [DAG_ID, HYBRID_ID]
    assert answer["dag"]["source_connection"] == SOURCE
    assert answer["dag"]["target_connection"] == TARGET
    assert answer["users"] == {
        "source": "public.users",
        "target": "raw_data.digitalocean_users",
        "sync_mode": "full_sync",
        "source_connection": SOURCE,
        "target_connection": TARGET,
    }
    assert answer["monitoring"]["max_error_count"] == 3


def assert_changed(answer: dict[str, Any], database: Database) -> None:
    """Everything that a Variable or Connection changes is changed."""
    assert (answer["connected"], answer["refused"]) == (True, False)
    assert answer["info"] == info(database)
    assert answer["metadata"]["description"] == "운영 데이터베이스"
    assert answer["dag"]["tables_in_parallel"] == 3
    assert answer["users"]["batch_size"] == 123
    assert answer["monitoring"]["max_error_count"] == 8


@pytest.fixture(scope="module")
def airflow(servers_directory: Path) -> AirflowHome:
    """An Airflow with a database of its own, in which operators changed something."""
    directory = servers_directory / "airflow-of-managers"
    (directory / "dags").mkdir(parents=True)
    (directory / "dags" / "asks_managers.py").write_text(DAG_FILE)
    variables = directory / "variables.json"
    variables.write_text(json.dumps(VARIABLES))
    home = AirflowHome(
        directory,
        directory / "manifest.json",
        {"AIRFLOW__CORE__DAGS_FOLDER": str(directory / "dags"), "PYTHONIOENCODING": "utf-8"},
    )
    for command in (["db", "migrate"], ["variables", "import", str(variables)]):
        done = home.airflow(*command)
        assert done.status == 0, done.stderr
    return home


@pytest.fixture
def with_connection(airflow: AirflowHome, source: Database) -> Iterator[AirflowHome]:
    """... and added a Connection."""
    done = airflow.airflow("connections", "add", SOURCE, "--conn-uri", source.uri)
    assert done.status == 0, done.stderr
    yield airflow
    done = airflow.airflow("connections", "delete", SOURCE)
    assert done.status == 0, done.stderr


def test_in_a_shell_beside_airflow(with_connection: AirflowHome, source: Database) -> None:
    done = with_connection.python(PROGRAM)
    assert done.status == 0, done.stderr
    assert_changed(found(done.stdout), source)
    assert PASSWORD not in done.stdout + done.stderr
    # Airflow's own logging prints to stdout.
    assert 'connection "nobody_knows" is not defined' in done.stdout
    assert "Add it under Admin > Connections, or set AIRFLOW_CONN_NOBODY_KNOWS=" in done.stdout


def test_in_a_task(with_connection: AirflowHome, source: Database) -> None:
    dags = str(Path(__file__).resolve().parents[2] / "dags")
    home = replace(with_connection, variables={**with_connection.variables, "PYTHONPATH": dags})
    done = home.airflow("dags", "test", "asks_managers", timeout=120)
    assert done.status == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert_changed(found(done.stdout), source)
    assert PASSWORD not in done.stdout + done.stderr


def test_without_airflow(airflow: AirflowHome, source: Database) -> None:
    home = replace(airflow, variables={f"AIRFLOW_CONN_{SOURCE.upper()}": source.uri})
    done = home.python(WITHOUT_AIRFLOW + PROGRAM + "\nassert 'airflow' not in sys.modules")
    assert done.status == 0, done.stderr
    answer = found(done.stdout)
    assert_declared(answer)
    assert answer["info"] == info(source)
    assert PASSWORD not in done.stdout + done.stderr
    assert "going on without" not in done.stdout + done.stderr


@pytest.mark.parametrize("is_silent", [True, False], ids=["silent", "refusing"])
def test_with_a_dead_metadata_database(
    airflow: AirflowHome, source: Database, is_silent: bool
) -> None:
    """The declarations alone, quickly: no traceback, and not the database's password."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1] if is_silent else free_ports(1)[0]
        dead = f"postgresql+psycopg2://airflow:geheim@127.0.0.1:{port}/airflow"
        home = replace(
            airflow,
            variables={
                f"AIRFLOW_CONN_{SOURCE.upper()}": source.uri,
                "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": dead,
            },
        )
        started = time.monotonic()
        done = home.python(PROGRAM)
        seconds = time.monotonic() - started
    assert done.status == 0, done.stderr
    assert_declared(found(done.stdout))
    assert seconds < 30
    assert "Traceback" not in done.stderr + done.stdout
    assert "geheim" not in done.stderr + done.stdout
    assert done.stdout.count("going on without Airflow") == 1
    assert "going on without Airflow's MetastoreBackend: OperationalError" in done.stdout


SLOW_BACKEND = """
import time
from airflow.secrets import BaseSecretsBackend
class Slow(BaseSecretsBackend):
    def get_variable(self, key, team_name=None):
        time.sleep(60)
    get_connection = get_variable
"""


def test_a_secrets_backend_that_does_not_answer_is_not_waited_for(
    airflow: AirflowHome, source: Database
) -> None:
    (airflow.directory / "slow_backend.py").write_text(SLOW_BACKEND)
    home = replace(
        airflow,
        variables={
            f"AIRFLOW_CONN_{SOURCE.upper()}": source.uri,
            "AIRFLOW__SECRETS__BACKEND": "slow_backend.Slow",
            "PYTHONPATH": str(airflow.directory),
        },
    )
    done = home.python(PROGRAM)
    assert done.status == 0, done.stderr
    assert "going on without Airflow's Slow: no answer within 5 s" in done.stdout
    assert found(done.stdout)["connected"] is True
    assert "Traceback" not in done.stderr + done.stdout


# ---------------------------------------------------------------- in this process


@pytest.fixture
def env_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / ".env"
    monkeypatch.setattr(environment_module, "ENV_FILE", path)
    return path


def test_env_file_is_the_third_step(env_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    env_file.write_text(
        "POSTGRES_HOST=localhost\nPOSTGRES_USER=airflow\nPOSTGRES_PASSWORD=geheim\n"
        "POSTGRES_DB=airflow\nPOSTGRES_PORT=15432\n"
    )
    shown = ConnectionManager.get_connection_info(TARGET)
    assert shown == {
        "host": "localhost",
        "port": 15432,
        "database": "airflow",
        "user": "airflow",
        "sslmode": "prefer",
    }
    monkeypatch.setenv("AIRFLOW_CONN_POSTGRES_DEFAULT", "postgresql://u:p@db.example.com/d")
    shown = ConnectionManager.get_connection_info(TARGET)
    assert (shown["host"], shown["port"], shown["sslmode"]) == ("db.example.com", 5432, "require")


def test_the_process_wins_over_the_env_file(
    env_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env_file.write_text("A_NAME=file\nOTHER=file\n")
    monkeypatch.setenv("A_NAME", "process")
    assert (environment()["A_NAME"], environment()["OTHER"]) == ("process", "file")


def test_an_unreadable_env_file_is_told(env_file: Path) -> None:
    env_file.write_bytes(b"A=\xff\xfe\n")
    with pytest.raises(ConfigError, match="cannot read") as caught:
        environment()
    assert caught.value.hint == "Check its permissions and that it is UTF-8."


def test_an_unknown_connection_is_told_with_the_remedy() -> None:
    with pytest.raises(ConfigError, match='connection "nope" is not defined') as caught:
        ConnectionManager.get_connection_info("nope")
    assert "AIRFLOW_CONN_NOPE=postgresql://" in caught.value.hint
    assert "--env-file" not in caught.value.hint
    assert ConnectionManager.test_connection("nope") is False


def test_a_connection_to_another_kind_of_server_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_DIGITALOCEAN_POSTGRES", "mysql://u:geheim@h/d")
    with pytest.raises(ConfigError, match="leads to no PostgreSQL server") as caught:
        ConnectionManager.get_connection_info(SOURCE)
    assert caught.value.detail == 'Its type is "mysql".'
    assert caught.value.hint == "Change its type to Postgres, or name another connection."


def test_a_connection_nobody_uses() -> None:
    assert ConnectionManager.get_connection_metadata("airflow_db") == {
        "description": "",
        "usage_count": 0,
        "dag_dependencies": [],
    }


def test_a_wrong_password_is_false_and_logged_without_it(
    source: Database,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    uri = f"postgresql://{source.user}:geheim@{source.host}:{source.port}/{source.name}"
    monkeypatch.setenv("AIRFLOW_CONN_DIGITALOCEAN_POSTGRES", uri)
    assert ConnectionManager.test_connection(SOURCE) is False
    # Airflow, imported by the first question, takes the logging over.
    told = caplog.text + capsys.readouterr().out
    assert f'server "{SOURCE}" refused the connection' in told, "it may be source or target"
    assert "password authentication failed" in told
    assert "geheim" not in told


@pytest.mark.parametrize("dag_id", [DAG_ID, HYBRID_ID])
def test_the_connections_of_a_dag_are_those_of_its_tables(dag_id: str) -> None:
    """They are declared twice: for the DAG in `defaults.yml`, for tables in the dbt source."""
    config, declared = DAGConfigManager.get_dag_config(dag_id), read_declarations(environment())
    tables = [one for table in declared.tables_of(dag_id) for one in table.landed]
    assert {one.source_connection for one in tables} == {config["source_connection"]}
    assert config["target_connection"] in {one.target_connection for one in tables}


def test_an_unknown_dag_is_told() -> None:
    for ask in (DAGConfigManager.get_dag_config, DAGConfigManager.get_table_configs):
        with pytest.raises(ConfigError, match='there is no DAG "nope"') as caught:
            ask("nope")
        assert DAG_ID in caught.value.detail
        assert "dags/common/defaults.yml" in caught.value.hint


@pytest.mark.parametrize(
    ("variable", "ask"),
    [
        ("table_configs", lambda: DAGConfigManager.get_table_configs(DAG_ID)),
        ("dag_configs", lambda: DAGConfigManager.get_dag_config(DAG_ID)),
        ("execution_monitoring_configs", DAGConfigManager.get_monitoring_config),
        ("connection_configs", lambda: ConnectionManager.get_connection_metadata(SOURCE)),
    ],
)
def test_a_broken_variable_is_told(
    variable: str, ask: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"AIRFLOW_VAR_{variable.upper()}", "{")
    with pytest.raises(ConfigError, match="Airflow Variables have 1 problem") as caught:
        ask()
    assert caught.value.detail.startswith(f"{variable}: is no JSON")


def test_thresholds_of_one_dag(monkeypatch: pytest.MonkeyPatch) -> None:
    document = {"max_error_count": 5, "dags": {DAG_ID: {"max_error_count": 6}}}
    monkeypatch.setenv("AIRFLOW_VAR_EXECUTION_MONITORING_CONFIGS", json.dumps(document))
    assert DAGConfigManager.get_monitoring_config(DAG_ID)["max_error_count"] == 6
    assert DAGConfigManager.get_monitoring_config(HYBRID_ID)["max_error_count"] == 5
    assert DAGConfigManager.get_monitoring_config()["dags"] == document["dags"]


def test_every_target_of_a_table_is_shown() -> None:
    (table,) = DAGConfigManager.get_table_configs(HYBRID_ID)
    assert list(table)[:2] == ["source", "targets"]
    assert [(one["conn_id"], one["table"]) for one in table["targets"]] == [
        ("postgres_default", "raw_data.digitalocean_users_local"),
        ("fs2_postgres", "raw_data.digitalocean_users_fs2"),
    ]
