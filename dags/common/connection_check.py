"""A connection checked as one Airflow task, before the loads that need it."""

import logging
import os
from datetime import timedelta
from typing import Any

from airflow.sdk import BaseOperator, Context

from common.connections import airflow_connection
from common.failure import as_airflow
from extract_load import ExtractLoadError, check_connection

logger = logging.getLogger(__name__)


class ConnectionCheckOperator(BaseOperator):  # type: ignore[misc] # mypy skips Airflow
    """Logs in once, so that a server that is down is one failure, not one for each table.

    Args:
        conn_id: The connection.
        kwargs: Airflow's own.
    """

    ui_color = "#e8e8e8"

    def __init__(self, *, conn_id: str, **kwargs: Any) -> None:
        self.conn_id = conn_id
        super().__init__(**{"retries": 1, "retry_delay": timedelta(minutes=5), **kwargs})

    def execute(self, context: Context) -> None:  # noqa: ARG002 - Airflow's signature
        """Checks the connection.

        Raises:
            AirflowFailException: If it failed and would fail again.
            AirflowException: If it failed and may succeed when tried again.
        """
        try:
            version = check_connection(self.conn_id, os.environ, airflow_connection)
        except ExtractLoadError as error:
            raise as_airflow(error) from None  # its cause may be a driver's
        logger.info('connection "%s" leads to PostgreSQL %s', self.conn_id, version)
