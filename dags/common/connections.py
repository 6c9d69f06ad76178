"""Airflow's connections, as the engine and as dbt want them.

Both ask `resolve_connection`: one look-up, one password, one rule for TLS. Looked up inside a task,
never while a DAG file is parsed.
"""

import json
import os
from typing import ClassVar

from airflow.sdk import Connection
from airflow.sdk.exceptions import AirflowNotFoundException
from cosmos.profiles import PostgresUserPasswordProfileMapping

from extract_load import (
    ConfigError,
    ConnectionParameters,
    connection_from_airflow,
    resolve_connection,
)


def airflow_connection(conn_id: str) -> ConnectionParameters | None:
    """Returns what Airflow knows under a connection id, or None when it knows nothing.

    Args:
        conn_id: The id.

    Raises:
        ConfigError: If it leads to another kind of server, or its extra cannot be read.
    """
    try:
        found = Connection.get(conn_id)
    except AirflowNotFoundException:
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


class TargetProfileMapping(PostgresUserPasswordProfileMapping):  # type: ignore[misc] # untyped
    """dbt's profile out of the connection that extract-load loads into.

    Cosmos' own mapping would leave TLS to libpq, which takes an unencrypted connection when the
    server offers no other, and would not read the `POSTGRES_*` variables.
    """

    airflow_param_mapping: ClassVar[dict[str, str]] = {
        **PostgresUserPasswordProfileMapping.airflow_param_mapping,
        **{name: f"extra.{name}" for name in ("sslrootcert", "sslcert", "sslkey")},
    }

    _conn: Connection | None = None

    @property
    def conn(self) -> Connection:
        """The connection, resolved when the task asks first."""
        if self._conn is None:  # Cosmos asks for each field
            self._conn = self._resolved()
        return self._conn

    def _resolved(self) -> Connection:
        found = resolve_connection(self.conn_id, os.environ, airflow_connection)
        return Connection(
            conn_id=self.conn_id,
            conn_type=self.airflow_connection_type,
            host=found.host,
            port=found.port,
            schema=found.database,
            login=found.user,
            password=found.password,
            extra=json.dumps({**dict(found.tls), "sslmode": found.sslmode}),
        )
