"""Every code block of the guide, run as it stands."""

import hashlib
import json
import re
from ast import literal_eval
from collections import Counter
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from airflow.dag_processing.dagbag import BundleDagBag
from airflow.sdk.exceptions import AirflowFailException
from dotenv import dotenv_values

from common.central_settings import effective_monitoring
from extract_load import ConfigError, resolve_connection
from tests.dags.airflow_home import DAG_ID, DAGS, HYBRID_ID, ROOT
from tests.dags.guide import (
    CALLS,
    CONNECTION_TEST,
    GUIDE,
    USERS,
    GuideShop,
    execute,
    in_sh,
    in_shell,
)
from tests.dags.test_managers import WITHOUT_AIRFLOW
from tests.support.command import PROGRAM, extract_load
from tests.support.landing import assert_equal
from tests.support.servers import PASSWORD, Database

USERS_TABLE = {"source": "public.users", "target": "raw_data.digitalocean_users"}

FULL = '"sync_mode": "full_sync"\n'
INCREMENTAL = '"sync_mode": "incremental_sync",\n"incremental_field"'
XMIN = '"sync_mode": "xmin_incremental"'
CHUNKS = '"enable_checkpoint": True,    #'
WHERE = '"custom_where"'
SPEED = '"memory_limit_mb"'

Load = Callable[..., dict[str, Any]]
"""Lands the users as the Variable says and returns the table's part of the report."""


@pytest.fixture(scope="module")
def users_task(manifest: Path) -> Any:
    """The task of the real DAG that lands the users."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EXTRACT_LOAD_MANIFEST", str(manifest))
        bag = BundleDagBag(DAGS, bundle_path=DAGS, bundle_name="guide")
    assert not bag.import_errors
    return bag.dags[DAG_ID].get_task("digitalocean_users.extract_load")


@pytest.fixture
def load(
    shop: GuideShop, target: Database, users_task: Any, monkeypatch: pytest.MonkeyPatch
) -> Load:
    for name, uri in {**shop.variables, "AIRFLOW_CONN_POSTGRES_DEFAULT": target.uri}.items():
        monkeypatch.setenv(name, uri)

    def run(variable: Mapping[str, Any], **params: Any) -> dict[str, Any]:
        monkeypatch.setenv("AIRFLOW_VAR_TABLE_CONFIGS", json.dumps(variable))
        report = execute(users_task, **params)
        (table,) = report["tables"]
        return dict(table)

    return run


def as_variable(fragment: str) -> dict[str, Any]:
    """A fragment of the guide in the Variable `table_configs`."""
    return {DAG_ID: [{**USERS_TABLE, **literal_eval("{" + GUIDE.block(fragment) + "}")}]}


# ---------------------------------------------------------------- tables


@GUIDE.claims(FULL, INCREMENTAL, XMIN, CHUNKS, SPEED)
@pytest.mark.parametrize(
    ("fragment", "chunks", "rows_read_again"),
    [
        (FULL, 2, 13),
        (INCREMENTAL, 2, 13),
        (XMIN, 2, 13),
        (CHUNKS, 6, 13),
        (SPEED, 3, 13),
    ],
    ids=["full_sync", "incremental_sync", "xmin_incremental", "chunks", "performance"],
)
def test_a_fragment_in_the_variable_says_how_the_table_is_landed(
    load: Load, shop: GuideShop, target: Database, fragment: str, chunks: int, rows_read_again: int
) -> None:
    first = load(as_variable(fragment))
    assert first["chunks"] >= chunks
    assert_equal(shop.digitalocean, target, USERS_TABLE)

    shop.change_users()
    again = load(as_variable(fragment))
    assert again["rows_updated"] + again["rows_inserted"] >= 13
    assert rows_read_again <= again["rows_read"] < rows_read_again + 100
    assert_equal(shop.digitalocean, target, USERS_TABLE)


@GUIDE.claims(WHERE)
def test_a_condition_is_obeyed_and_what_leaves_it_is_guarded(
    load: Load, shop: GuideShop, target: Database
) -> None:
    load({})
    variable = as_variable(WHERE)
    with pytest.raises(AirflowFailException, match="would be deleted"):
        load(variable)
    assert_equal(shop.digitalocean, target, USERS_TABLE)

    landed = load(variable, allow_deletes=True)
    assert landed["rows_deleted"] > USERS * 0.3
    assert_equal(shop.digitalocean, target, *variable[DAG_ID])


@GUIDE.claims('"batch_size": 20000}\n')
def test_the_variable_needs_only_what_differs(load: Load) -> None:
    assert load({})["chunks"] < 3
    variable = json.loads(GUIDE.block('"batch_size": 20000}\n'))
    assert load(variable, full_refresh=True)["chunks"] >= 3


@GUIDE.claims('"webhook_conn_id"')
def test_the_thresholds_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    text = GUIDE.block('"webhook_conn_id"')
    monkeypatch.setenv("AIRFLOW_VAR_EXECUTION_MONITORING_CONFIGS", text)
    held = effective_monitoring(HYBRID_ID)
    assert held.email == ("data-team@example.com",)
    assert held.webhook_conn_id == "slack_alerts"
    assert (held.max_age_seconds, held.max_execution_seconds) == (93600, 3600)
    assert effective_monitoring(DAG_ID).max_execution_seconds != 3600


# ---------------------------------------------------------------- Python in a shell


@GUIDE.claims(*CALLS)
@pytest.mark.parametrize(
    "before",
    ["", WITHOUT_AIRFLOW],
    ids=["beside Airflow", "without Airflow"],
)
def test_a_shell_tells_connections_and_settings(
    shop: GuideShop, tmp_path: Path, before: str
) -> None:
    answers = "print(source_conn, target_conn, len(table_configs), sorted(monitoring_config))"
    program = "\n".join([before, *map(GUIDE.block, CALLS), answers])
    told = in_shell(program, {**shop.variables, "AIRFLOW_HOME": str(tmp_path)})

    assert told.status == 0, told.stderr
    assert "✅ DigitalOcean PostgreSQL 연결 성공!" in told.stdout
    database = shop.digitalocean
    for label, fact in {
        "Host": database.host,
        "Port": database.port,
        "Database": database.name,
    }.items():
        assert f"\n{label}: {fact}\n" in told.stdout
    assert "\nDescription: " in told.stdout
    assert "\nUsage Count: " in told.stdout
    assert DAG_ID in told.stdout.partition("DAG Dependencies: ")[2].splitlines()[0]
    assert "\ndigitalocean_postgres postgres_default 6 [" in told.stdout
    assert "max_execution_seconds" in told.stdout
    assert PASSWORD not in told.stdout + told.stderr


def test_a_server_that_is_down_is_told(tmp_path: Path) -> None:
    nowhere = {"AIRFLOW_CONN_DIGITALOCEAN_POSTGRES": "postgresql://a:geheim@127.0.0.1:1/b"}
    told = in_shell(GUIDE.block(CONNECTION_TEST), {**nowhere, "AIRFLOW_HOME": str(tmp_path)})
    assert told.status == 0, told.stderr
    assert "❌ DigitalOcean PostgreSQL 연결 실패!" in told.stdout
    assert "geheim" not in told.stdout + told.stderr


# ---------------------------------------------------------------- commands


@GUIDE.claims("POSTGRES_HOST=localhost")
def test_the_env_file_describes_the_databases_inside_and_no_other(
    shop: GuideShop, target: Database, tmp_path: Path
) -> None:
    env_file = tmp_path / ".env"
    env_file.write_text(GUIDE.block("POSTGRES_HOST=localhost"), encoding="utf-8")
    read = {key: value for key, value in dotenv_values(env_file).items() if value is not None}
    for conn_id in ("postgres_default", "airflow_db"):
        found = resolve_connection(conn_id, read)
        assert (found.address, found.user) == ("localhost:15432/airflow", "airflow")
    for conn_id in ("fs2_postgres", "digitalocean_postgres"):
        with pytest.raises(ConfigError, match=f'"{conn_id}" is not defined'):
            resolve_connection(conn_id, read)

    # The command reads it by itself; what the process says wins over it.
    settings = tmp_path / "tables.yml"
    settings.write_text("tables: [{source: public.users, target: raw_data.digitalocean_users}]\n")
    here = {
        "AIRFLOW_CONN_FS2_POSTGRES": shop.digitalocean.uri,
        "POSTGRES_HOST": target.host,
        "POSTGRES_PORT": str(target.port),
        "POSTGRES_USER": target.user,
        "POSTGRES_PASSWORD": target.password,
        "POSTGRES_DB": target.name,
    }
    landed = extract_load("run", "--config", str(settings), environment=here, cwd=tmp_path)
    assert landed.status == 0, landed.stderr
    assert_equal(shop.digitalocean, target, USERS_TABLE)


COMMANDS = (
    "extract-load status\n",
    "extract-load run --select raw_data.digitalocean_users\n",
    "--full-refresh",
    "--allow-deletes",
    "extract-load reset",
    "extract-load status --select",
)


@GUIDE.claims(*COMMANDS)
def test_every_command_runs(shop: GuideShop, target: Database, tmp_path: Path) -> None:
    (tmp_path / "dbt_project").symlink_to(ROOT / "dbt_project")
    variables = {**shop.variables, "AIRFLOW_CONN_POSTGRES_DEFAULT": target.uri}
    told = {part: in_sh(GUIDE.block(part), variables, tmp_path) for part in COMMANDS}

    assert {part: one.status for part, one in told.items()} == dict.fromkeys(COMMANDS, 0)
    assert "never run" in told[COMMANDS[0]].stdout
    assert told[COMMANDS[0]].stdout.endswith("Nothing was changed.\n")
    assert "done" in told[COMMANDS[1]].stdout
    assert "watermark forgotten" in told["extract-load reset"].stdout
    assert "raw_data.digitalocean_users" in told["extract-load status --select"].stdout
    assert_equal(shop.digitalocean, target, USERS_TABLE)


@GUIDE.claims("make logs")
def test_make_logs_prints_a_tasks_log(tmp_path: Path) -> None:
    run = tmp_path / "airflow" / "logs" / f"dag_id={DAG_ID}" / "run_id=manual"
    log = run / "task_id=digitalocean_users.extract_load" / "attempt=1.log"
    log.parent.mkdir(parents=True)
    log.write_text('{"timestamp": "2026-01-31T02:00:00Z", "level": "info", "event": "published"}\n')
    # Nothing is installed for it: the tests run on what is.
    make = f"make STAMP= BIN={PROGRAM.parent} -C {ROOT}"
    command = GUIDE.block("make logs").replace("make", make, 1)
    told = in_sh(command, {"DEMO_STATE_DIR": str(tmp_path)}, tmp_path)
    assert told.status == 0, told.stderr
    assert "2026-01-31T02:00:00Z INFO  published" in told.stdout


# ---------------------------------------------------------------- the guide itself


def test_the_python_that_users_hold_is_unchanged() -> None:
    """The system follows it; it does not follow the system."""
    python = "".join(block.text for block in GUIDE.blocks if block.language == "python")
    digest = "07a652d939aeaa365d4386a5a75329ef0a14aff42c7594a8519fbc68e0286c16"
    assert hashlib.sha256(python.encode()).hexdigest() == digest


def test_every_dag_it_names_is_there() -> None:
    named = set(re.findall(r"`(\w+_dag)`", GUIDE.text))
    assert {DAG_ID, HYBRID_ID} < named
    assert named <= {path.stem for path in DAGS.glob("*.py")}


def test_every_block_is_run_by_one_test() -> None:
    import_module("tests.dags.test_guide_in_airflow")  # its tests have their claims too
    assert Counter(GUIDE.claimed) == Counter(GUIDE.blocks)
