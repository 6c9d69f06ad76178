"""What the demo's Airflow is told: by environment variables alone, so that nothing goes stale.

The connections come from the demo's `.env` each time Airflow is started. Stored in its database,
they would keep the port and the password of the day they were stored.
"""

import json
import os
import secrets
from base64 import urlsafe_b64encode
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import psycopg2
from psycopg2 import sql

from demo.embedded_server import HOST, SUPERUSER
from demo.state import ROOT, State
from extract_load.errors import ConfigError

DAG = "digitalocean_data_copy_dag"
USER = "admin"
_DATABASE = _ROLE = "airflow"
_LOCAL_SETTINGS = """\
# Written by "make airflow"; every Airflow program reads it when it starts.
import sys

if "scheduler" in sys.argv:
    # Task processes are forked from this one and find dbt imported: a run takes a third less.
    import dbt.adapters.postgres
    import dbt.cli.main
"""


def home(state_directory: Path) -> Path:
    """Returns where Airflow keeps its logs, pids and secrets."""
    return state_directory / "airflow"


def passwords_file(airflow_home: Path) -> Path:
    """Returns the file with the password of each user who may log in."""
    return airflow_home / "passwords.json"


def port_asked() -> int:
    """Returns the port of AIRFLOW_PORT, or Airflow's own.

    Raises:
        ConfigError: If it is no port.
    """
    asked = os.environ.get("AIRFLOW_PORT") or "8080"
    if not asked.isascii() or not asked.isdigit() or not 1 <= int(asked) <= 65535:
        raise ConfigError(
            "AIRFLOW_PORT is no port",
            f'It is "{asked}".',
            "Set it to a number from 1 to 65535, or leave it out for 8080.",
        )
    return int(asked)


def with_airflow(state: State, port: int) -> State:
    """Returns the demo's state with the variables of its Airflow; makes what they need.

    Args:
        state: The demo's.
        port: Where the web interface listens.
    """
    directory = home(state.directory)
    directory.mkdir(mode=0o700, exist_ok=True)
    (directory / "config").mkdir(exist_ok=True)
    (directory / "config" / "airflow_local_settings.py").write_text(_LOCAL_SETTINGS)
    own = _secrets(directory)
    _make_database(state, own["database"])
    variables = {
        "AIRFLOW_CONN_POSTGRES_DEFAULT": _warehouse_uri(state),
        "AIRFLOW_HOME": str(directory),
        "AIRFLOW__API__BASE_URL": f"http://localhost:{port}",
        "AIRFLOW__API__HOST": HOST,
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__API__WORKERS": "1",
        "AIRFLOW__API_AUTH__JWT_SECRET": own["jwt"],
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://{HOST}:{port}/execution/",
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        "AIRFLOW__CORE__FERNET_KEY": own["fernet"],
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        # Each dbt task keeps a processor busy: more at a time make all of them slower.
        "AIRFLOW__CORE__PARALLELISM": str(os.cpu_count() or 2),
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(passwords_file(directory)),
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": f"{USER}:admin",
        "AIRFLOW__COSMOS__CACHE_DIR": str(directory / "cosmos"),
        "AIRFLOW__COSMOS__ENABLE_TELEMETRY": "False",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": (
            f"postgresql+psycopg2://{_ROLE}:{own['database']}@{HOST}:{state.warehouse.port}"
            f"/{_DATABASE}"
        ),
        "EXTRACT_LOAD_MANIFEST": str(directory / "dbt" / "manifest.json"),
        # Tasks talk to the API server, which no proxy of the user's can reach.
        "NO_PROXY": f"{HOST},localhost",
        "no_proxy": f"{HOST},localhost",
    }
    return replace(state, variables={**state.variables, **variables})


def _warehouse_uri(state: State) -> str:
    # The demo's passwords need no percent-encoding.
    uri = "postgresql://{USER}:{PASSWORD}@{HOST}:{PORT}/{DB}"
    names = ("USER", "PASSWORD", "HOST", "PORT", "DB")
    return uri.format_map({name: state.variables[f"POSTGRES_{name}"] for name in names})


def _secrets(directory: Path) -> dict[str, str]:
    """Returns Airflow's own secrets, made once; only their owner can read them."""
    path = directory / "secrets.json"
    if not path.exists():
        passwords = {USER: secrets.token_urlsafe(12)}
        _write_secretly(passwords_file(directory), json.dumps(passwords))
        own = {
            "database": secrets.token_urlsafe(18),
            "jwt": secrets.token_urlsafe(48),
            "fernet": urlsafe_b64encode(secrets.token_bytes(32)).decode(),
        }
        _write_secretly(path, json.dumps(own))
    found: dict[str, str] = json.loads(path.read_text())
    return found


def _write_secretly(path: Path, text: str) -> None:
    unfinished = path.with_suffix(".unfinished")
    unfinished.unlink(missing_ok=True)
    unfinished.touch(mode=0o600)
    unfinished.write_text(text)
    unfinished.rename(path)


def _make_database(state: State, password: str) -> None:
    """Makes Airflow's own database beside the warehouse's, where it is missing."""
    session = psycopg2.connect(
        host=HOST,
        port=state.warehouse.port,
        dbname="postgres",
        user=SUPERUSER,
        password=state.variables["DEMO_SUPERUSER_PASSWORD"],
        application_name="extract-load demo",
        connect_timeout=10,
    )
    session.autocommit = True  # a database is not created inside a transaction
    role, database = sql.Identifier(_ROLE), sql.Identifier(_DATABASE)
    with closing(session), session.cursor() as cursor:
        cursor.execute("select from pg_roles where rolname = %s", [_ROLE])
        verb = "create" if cursor.fetchone() is None else "alter"
        statement = sql.SQL(verb + " role {} login password {}")
        cursor.execute(statement.format(role, sql.Literal(password)))
        cursor.execute("select from pg_database where datname = %s", [_DATABASE])
        if cursor.fetchone() is None:
            cursor.execute(sql.SQL("create database {} owner {}").format(database, role))
