"""Airflow's Variables and Connections, in a task, in a shell beside Airflow, and without it.

A task asks the server that runs it. In a shell `airflow.sdk` would see environment variables
alone, so the metadata database is asked. Where Airflow is not installed, or its database does not
answer, the environment is left. Nothing of Airflow is imported before it is needed.
"""

import logging
import os
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from extract_load import ConfigError, ConnectionParameters, connection_from_airflow

logger = logging.getLogger(__name__)

FindVariable = Callable[[str], str | None]
"""What returns a Variable's text by its name, or None."""

_CONNECT_SECONDS = "5"


def find_variable(name: str) -> str | None:
    """Returns the text of an Airflow Variable, or None where there is none or no Airflow."""
    if not _has_airflow():
        return os.environ.get(f"AIRFLOW_VAR_{name.upper()}")
    if _is_in_task():
        return _variable_in_task(name)
    found: str | None = _ask_backends(lambda backend: backend.get_variable(key=name))
    return found


def airflow_connection(conn_id: str) -> ConnectionParameters | None:
    """Returns what Airflow knows under a connection id, or None when it knows nothing.

    Args:
        conn_id: The id.

    Raises:
        ConfigError: If it leads to another kind of server, or its extra cannot be read.
    """
    found = _connection(conn_id)
    if found is None:
        return None
    if found.conn_type not in {"postgres", "postgresql"}:
        raise ConfigError(
            f'connection "{conn_id}" leads to no PostgreSQL server',
            f'Its type is "{found.conn_type}".',
            "Change its type to Postgres, or name another connection.",
        )
    # Field by field: the repr of Airflow's Connection prints the password.
    fields = {name: getattr(found, name) for name in ("host", "port", "schema", "login")}
    return connection_from_airflow(
        conn_id, {**fields, "password": found.password, "extra": found.extra}
    )


def _connection(conn_id: str) -> Any:
    """Airflow's own Connection object, or None."""
    if not _has_airflow():
        return None
    if not _is_in_task():
        return _ask_backends(lambda backend: backend.get_connection(conn_id=conn_id))
    from airflow.sdk import Connection
    from airflow.sdk.exceptions import AirflowNotFoundException

    try:
        return Connection.get(conn_id)
    except AirflowNotFoundException:
        return None


def _variable_in_task(name: str) -> str | None:
    from airflow.sdk import Variable
    from airflow.sdk.exceptions import AirflowRuntimeError, ErrorType

    try:
        found: str | None = Variable.get(name)
    except AirflowRuntimeError as exc:
        if exc.error.error is ErrorType.VARIABLE_NOT_FOUND:
            return None
        raise
    return found


def _has_airflow() -> bool:
    return find_spec("airflow") is not None


def _is_in_task() -> bool:
    """Whether this process is one that Airflow started for a task or for a callback."""
    from airflow.sdk.execution_time import task_runner

    return hasattr(task_runner, "SUPERVISOR_COMMS")


def _ask_backends(ask: Callable[[Any], Any]) -> Any:
    """Returns the first answer of Airflow's secrets backends: environment, its database, others.

    One by one, because Airflow itself would log a traceback for each question to a database that
    is down, and wait for it as long as libpq does.
    """
    from airflow.configuration import ensure_secrets_loaded
    from sqlalchemy.exc import SQLAlchemyError

    os.environ.setdefault("PGCONNECT_TIMEOUT", _CONNECT_SECONDS)
    for backend in ensure_secrets_loaded():
        if backend in _failed:
            continue
        try:
            found = ask(backend)
        except SQLAlchemyError as exc:
            _failed.append(backend)  # once: the other Variables need not wait for it too
            # Not its text, which may hold the address with the password.
            logger.info("Airflow's database is not asked: it failed (%s)", type(exc).__name__)
            continue
        if found is not None:
            return found
    return None


_failed: list[Any] = []
"""Backends whose database did not answer this process."""
