"""Where the demo keeps what it has: one directory, and in it one `.env` for everybody.

The engine, dbt and Airflow read their connections from that file; the demo itself reads from it
where its servers listen and how their superusers log in.
"""

import os
import re
import secrets
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from demo.embedded_server import HOST, EmbeddedServer, free_ports, is_free
from extract_load.errors import ExtractLoadError

ROOT = Path(__file__).resolve().parents[1]
SOURCE_DATABASE, SOURCE_ROLE = "shop", "extract_reader"
WAREHOUSE_DATABASE = WAREHOUSE_ROLE = "warehouse"
FS2_DATABASE = FS2_ROLE = "fs2"
"""A second warehouse, on the same server: what is landed in several targets goes there too."""

_NEEDED = {
    "AIRFLOW_CONN_DIGITALOCEAN_POSTGRES",
    "AIRFLOW_CONN_FS2_POSTGRES",
    "DEMO_FS2_PASSWORD",
    "DEMO_READER_PASSWORD",
    "DEMO_SOURCE_PORT",
    "DEMO_SUPERUSER_PASSWORD",
    "POSTGRES_PASSWORD",
    "POSTGRES_PORT",
}
_SETTINGS = {"shared_buffers": "128MB", "max_wal_size": "1GB"}
_HEAD = """\
# Written by "make demo": the connections of its two servers, for extract-load, dbt and Airflow.
# The passwords are random and stand nowhere else.
"""
# What a shell may have set for another database, libpq's own variables included.
_CONNECTION_VARIABLE = re.compile(
    r"(AIRFLOW_(CONN|VAR)_|POSTGRES_|DBT_|DEMO_)|PG[A-Z]+$|\w+_CONN_ID$"
)


@dataclass(frozen=True)
class State:
    """The demo's directory, and what its `.env` says."""

    directory: Path
    variables: Mapping[str, str] = field(repr=False)

    @property
    def env_file(self) -> Path:
        """The file that engine, dbt and Airflow take their connections from."""
        return self.directory / ".env"

    @property
    def source(self) -> EmbeddedServer:
        """The server that plays DigitalOcean."""
        return _source_in(self.directory, int(self.variables["DEMO_SOURCE_PORT"]))

    @property
    def warehouse(self) -> EmbeddedServer:
        """The server that holds the warehouse."""
        return _warehouse_in(self.directory, int(self.variables["POSTGRES_PORT"]))

    def environment(self) -> dict[str, str]:
        """Returns the environment of a step: ours, nobody else's database, no superuser."""
        kept = {k: v for k, v in os.environ.items() if not is_connection_variable(k)}
        ours = {k: v for k, v in self.variables.items() if not k.startswith("DEMO_")}
        return {**kept, **ours, "DO_NOT_TRACK": "1"}

    def with_free_ports(self) -> "State":
        """Returns the state with other ports for stopped servers whose port somebody took."""
        source, warehouse = free_ports(2)
        changed = dict(self.variables)
        if not (self.source.pid or is_free(self.source.port)):
            changed.update(_source_variables(source, changed["DEMO_READER_PASSWORD"]))
        if not (self.warehouse.pid or is_free(self.warehouse.port)):
            changed["POSTGRES_PORT"] = str(warehouse)
            changed.update(_fs2_variables(warehouse, changed["DEMO_FS2_PASSWORD"]))
        return replace(self, variables=changed)

    def save(self) -> None:
        """Writes `.env`, readable by its owner alone, whole or not at all."""
        unfinished = self.env_file.with_suffix(".unfinished")
        lines = (f"{name}={value}\n" for name, value in self.variables.items())
        unfinished.unlink(missing_ok=True)
        unfinished.touch(mode=0o600)
        unfinished.write_text(_HEAD + "".join(lines))
        unfinished.rename(self.env_file)


def is_connection_variable(name: str) -> bool:
    """Returns whether an environment variable may lead to another database than the demo's."""
    return _CONNECTION_VARIABLE.match(name) is not None


def state_directory() -> Path:
    """Returns where the demo of this checkout keeps everything; DEMO_STATE_DIR moves it."""
    return Path(os.environ.get("DEMO_STATE_DIR") or ROOT / ".demo").absolute()


def make_state_directory() -> None:
    """Makes the demo's directory.

    Raises:
        ExtractLoadError: If it cannot be written.
    """
    logs = state_directory() / "logs"
    try:
        logs.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=logs).close()
    except OSError as exc:
        raise ExtractLoadError(
            f'could not write "{state_directory()}"',
            f"{exc.strerror}: {exc.filename or logs}.",
            "The demo keeps everything there; give this user the right to write, or set "
            "DEMO_STATE_DIR to another directory.",
        ) from exc


def servers_in(directory: Path) -> list[EmbeddedServer]:
    """Returns the servers whose data lies there, to stop them; `.env` need not be readable."""
    return [
        server
        for server in (_source_in(directory, 0), _warehouse_in(directory, 0))
        if server.is_created
    ]


def load_state() -> State:
    """Returns the state of the demo that was brought up here.

    Raises:
        ExtractLoadError: If there is none, or not all of it.
    """
    directory = state_directory()
    try:
        lines = (directory / ".env").read_text().splitlines()
    except OSError as exc:
        raise ExtractLoadError(
            "the demo is not set up",
            f"Could not read {exc.filename}: {exc.strerror}.",
            'Run "make demo"; if servers stand there already, "make clean" first.',
        ) from exc
    pairs = (line.partition("=") for line in lines if line and not line.startswith("#"))
    variables = {name: value for name, _, value in pairs}
    if missing := _NEEDED - variables.keys():
        raise ExtractLoadError(
            f'"{directory / ".env"}" is not complete',
            f"It has no {' and no '.join(sorted(missing))}.",
            'Run "make clean" and "make demo" to begin again.',
        )
    return State(directory, variables)


def load_or_make_state() -> State:
    """Returns the state of the demo here, a new one with random passwords when there is none."""
    directory = state_directory()
    if (directory / ".env").exists() or servers_in(directory):
        return load_state()
    source_port, warehouse_port = free_ports(2)
    state = State(
        directory,
        {
            **_source_variables(source_port, secrets.token_urlsafe(18)),
            **_fs2_variables(warehouse_port, secrets.token_urlsafe(18)),
            "TARGET_POSTGRES_CONN_ID": "postgres_default",
            "POSTGRES_HOST": HOST,
            "POSTGRES_PORT": str(warehouse_port),
            "POSTGRES_USER": WAREHOUSE_ROLE,
            "POSTGRES_PASSWORD": secrets.token_urlsafe(18),
            "POSTGRES_DB": WAREHOUSE_DATABASE,
            "DEMO_SUPERUSER_PASSWORD": secrets.token_urlsafe(18),
        },
    )
    state.save()
    return state


def _source_variables(port: int, password: str) -> dict[str, str]:
    return {
        "AIRFLOW_CONN_DIGITALOCEAN_POSTGRES": (
            f"postgresql://{SOURCE_ROLE}:{password}@{HOST}:{port}/{SOURCE_DATABASE}"
        ),
        "DEMO_SOURCE_PORT": str(port),
        "DEMO_READER_PASSWORD": password,
    }


def _fs2_variables(port: int, password: str) -> dict[str, str]:
    return {
        "AIRFLOW_CONN_FS2_POSTGRES": (
            f"postgresql://{FS2_ROLE}:{password}@{HOST}:{port}/{FS2_DATABASE}"
        ),
        "DEMO_FS2_PASSWORD": password,
    }


def _source_in(directory: Path, port: int) -> EmbeddedServer:
    return EmbeddedServer(16, directory / "source", port, _SETTINGS)


def _warehouse_in(directory: Path, port: int) -> EmbeddedServer:
    return EmbeddedServer(18, directory / "warehouse", port, _SETTINGS)
