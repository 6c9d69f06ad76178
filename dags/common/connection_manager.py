"""Connections for people and their own DAGs: one tested, shown without its password, described.

Works in a task, in a shell beside an Airflow installation, and without one.
"""

import logging
from typing import Any

from common.airflow_lookup import airflow_connection
from common.central_settings import effective_document, variables_error
from common.declarations import read_declarations
from common.environment import environment
from common.variables import read_variables
from extract_load import ExtractLoadError, check_connection, resolve_connection

logger = logging.getLogger(__name__)


class ConnectionManager:
    """Looks connections up by id, first hit wins.

    1. Airflow's Connections, 2. its Variables (descriptions, never an address or a password),
    3. the environment and `.env`, 4. defaults (port, TLS; never a host or a password).
    """

    @classmethod
    def test_connection(cls, conn_id: str) -> bool:
        """Returns whether a server lets us in; if not, the log says why.

        A server that does not answer is given ten seconds, Airflow's database five.

        Args:
            conn_id: The connection.
        """
        try:
            version = check_connection(conn_id, environment(), airflow_connection, attempts=1)
        except ExtractLoadError as error:
            logger.error('connection "%s" failed\n%s', conn_id, error)  # noqa: TRY400 - no trace
            return False
        logger.info('connection "%s" leads to PostgreSQL %s', conn_id, version)
        return True

    @classmethod
    def get_connection_info(cls, conn_id: str) -> dict[str, Any]:
        """Returns `host`, `port`, `database`, `user` and `sslmode`: what may be shown.

        Args:
            conn_id: The connection.

        Raises:
            ConfigError: If nobody knows the connection, or it is not complete.
        """
        found = resolve_connection(conn_id, environment(), airflow_connection)
        names = ("host", "port", "database", "user", "sslmode")
        return {name: getattr(found, name) for name in names}

    @classmethod
    def get_connection_metadata(cls, conn_id: str) -> dict[str, Any]:
        """Returns `description`, `usage_count` and `dag_dependencies`.

        Args:
            conn_id: The connection. One that nobody describes or uses has 0 and empty ones.

        Raises:
            ConfigError: If declarations or the Variable `connection_configs` cannot be used.
        """
        declared = read_declarations(environment())
        variables = read_variables(("connection_configs",))
        problems = list(variables.problems)
        described = effective_document("connection_configs", declared.defaults, variables, problems)
        if problems:
            raise variables_error(problems)
        users = [table for table in declared.tables if conn_id in table.connections]
        return {
            "description": described.get(conn_id, {}).get("description", ""),
            "usage_count": len(users),
            "dag_dependencies": sorted({table.dag_id for table in users}),
        }
