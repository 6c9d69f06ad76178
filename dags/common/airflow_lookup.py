"""Airflow's Variables and Connections, in a task, in a shell beside Airflow, and without it.

A task asks the server that runs it. In a shell `airflow.sdk` would see environment variables
alone, so the secrets backends and the metadata database are asked, for a few seconds. Where Airflow
is not installed, or does not answer, the environment is left. Nothing of Airflow is imported before
it is needed.
"""

import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from extract_load import ConfigError, ConnectionParameters, connection_from_airflow

logger = logging.getLogger(__name__)

FindVariable = Callable[[str], str | None]
"""What returns a Variable's text by its name, or None."""

PATIENCE_SECONDS = 5.0
"""How long a shell waits for an answer."""

_failed: set[str] = set()
"""Kinds of backend that gave this process no answer: the next question does not wait again."""


def find_variable(name: str) -> str | None:
    """Returns the text of an Airflow Variable, or None where there is none or no Airflow."""
    if is_in_task():
        return _variable_in_task(name)
    found: str | None = _ask_backends(lambda backend: backend.get_variable(key=name))
    return os.environ.get(f"AIRFLOW_VAR_{name.upper()}") if found is None else found


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


def save_variable(name: str, text: str, description: str) -> None:
    """Saves an Airflow Variable. For tasks.

    Args:
        name: Of the Variable.
        text: Its value.
        description: What Airflow's page says about it.
    """
    from airflow.sdk import Variable

    Variable.set(name, text, description=description)


def is_in_task() -> bool:
    """Whether this process is one that Airflow started for a task or for a callback."""
    return hasattr(sys.modules.get("airflow.sdk.execution_time.task_runner"), "SUPERVISOR_COMMS")


def _connection(conn_id: str) -> Any:
    """Airflow's own Connection object, or None."""
    if not is_in_task():
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


def _ask_backends(ask: Callable[[Any], Any]) -> Any:
    """Returns the first answer of Airflow's secrets backends: environment, its database, others."""
    question = _Question(_backends(), ask)
    with _libpq_gives_up(PATIENCE_SECONDS - 1):
        question.start()
        question.join(PATIENCE_SECONDS)
    if question.is_alive():
        question.give_up(f"no answer within {PATIENCE_SECONDS:.0f} s")
    return question.answer


@contextmanager
def _libpq_gives_up(seconds: float) -> Iterator[None]:
    """Else Airflow, on the way out of the process, trips over a session that still connects."""
    name = "PGCONNECT_TIMEOUT"
    if name in os.environ:
        yield
        return
    os.environ[name] = f"{seconds:.0f}"
    try:
        yield
    finally:
        del os.environ[name]


class _Question(threading.Thread):
    """One question, in a thread that nobody has to wait for: a backend may take for ever."""

    def __init__(self, backends: Sequence[Any], ask: Callable[[Any], Any]) -> None:
        super().__init__(daemon=True)
        self._backends = backends
        self._ask = ask
        self._asked = ""
        self.answer: Any = None

    def run(self) -> None:
        """Asks one backend after the other, until one knows something.

        Not as Airflow does, which logs a traceback for each question to a database that is down.
        """
        for backend in self._backends:
            self._asked = type(backend).__name__
            if self._asked in _failed:
                continue
            try:
                self.answer = self._ask(backend)
            except Exception as exc:  # noqa: BLE001 - whatever a foreign backend raises
                self.give_up(type(exc).__name__)
            if self.answer is not None:
                return

    def give_up(self, why: str) -> None:
        """Asks this backend no more.

        Args:
            why: Not the text of an error, which may hold an address with its password.
        """
        _failed.add(self._asked)
        logger.warning("going on without Airflow's %s: %s", self._asked, why)


def _backends() -> Sequence[Any]:
    """Airflow's secrets backends, its database the last one; none where it is not installed."""
    try:
        from airflow.configuration import ensure_secrets_loaded
    except ModuleNotFoundError as exc:
        if exc.name == "airflow":
            return ()
        raise
    return tuple(ensure_secrets_loaded())
