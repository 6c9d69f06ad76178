"""dbt's profile over the connection that extract-load loads into.

Looked up inside a task, never while a DAG file is parsed.
"""

import json
import os
from typing import Any, ClassVar

from airflow.sdk import Connection
from cosmos import ProfileConfig
from cosmos.profiles import PostgresUserPasswordProfileMapping

from common.airflow_lookup import airflow_connection
from common.central_settings import effective_dbt_config
from extract_load import resolve_connection


def target_profile(conn_id: str, dbt_target: str) -> ProfileConfig:
    """Returns dbt's profile over a connection of Airflow, in the schemas of a dbt target."""
    schema = "marts" if dbt_target == "prod" else os.environ.get("DBT_USER", dbt_target)
    return ProfileConfig(
        profile_name="warehouse",
        target_name=dbt_target,
        profile_mapping=TargetProfileMapping(
            conn_id,
            profile_args={"schema": schema, "connect_timeout": 10, "application_name": "dbt"},
        ),
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
    def profile(self) -> dict[str, Any]:
        """The profile, with the threads that hold when the task runs."""
        return {**super().profile, "threads": effective_dbt_config().threads}

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
            extra=json.dumps({**dict(found.libpq), "sslmode": found.sslmode}),
        )
