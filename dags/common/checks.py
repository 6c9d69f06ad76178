"""What a copy DAG looks at beside its loads: connections, and settings that no load would miss."""

import logging
import os
from collections.abc import Collection
from datetime import timedelta
from typing import Any

from airflow.sdk import BaseOperator, Context

from common.airflow_lookup import airflow_connection
from common.central_settings import require_no_stray_entries
from common.failure import as_airflow
from extract_load import ConfigError, ExtractLoadError, check_connection

logger = logging.getLogger(__name__)


class ConnectionCheckOperator(BaseOperator):  # type: ignore[misc] # mypy skips Airflow
    """Logs in once, so that a server that is down is one failure, not one for each table.

    Args:
        conn_id: The connection.
        retries: How often Airflow tries again.
        retry_delay: What it waits before.
        kwargs: Airflow's own.
    """

    ui_color = "#e8e8e8"

    def __init__(
        self,
        *,
        conn_id: str,
        retries: int = 1,
        retry_delay: timedelta = timedelta(minutes=5),
        **kwargs: Any,
    ) -> None:
        self.conn_id = conn_id
        super().__init__(retries=retries, retry_delay=retry_delay, **kwargs)

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


class EntriesCheckOperator(BaseOperator):  # type: ignore[misc] # mypy skips Airflow
    """Tells entries of the Variable `table_configs` that are about no table of this DAG.

    Loads go on: what an entry gets wrong about a table fails that table's load, by name.

    Args:
        sources: The tables the DAG lands, as their sources are written.
        kwargs: Airflow's own.
    """

    ui_color = "#e8e8e8"

    def __init__(self, *, sources: Collection[str], **kwargs: Any) -> None:
        self.sources = list(sources)
        super().__init__(**kwargs)

    def execute(self, context: Context) -> None:
        """Checks the entries.

        Raises:
            AirflowFailException: If there are such entries, all of which it names, or the
                Variable cannot be read.
        """
        try:
            require_no_stray_entries(context["ti"].dag_id, self.sources)
        except ConfigError as error:
            raise as_airflow(error) from None
