"""One source table landed as one Airflow task, in all its targets."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from urllib.parse import quote

from airflow.sdk import Asset, BaseOperator, Context
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from common.connections import airflow_connection
from extract_load import (
    ExtractLoadError,
    RunOptions,
    RunReport,
    Settings,
    TableSettings,
    message_and_facts,
    run,
)

logger = logging.getLogger(__name__)

_REPORT_WIDTH = 160


class ExtractLoadOperator(BaseOperator):  # type: ignore[misc] # mypy skips Airflow
    """Extracts, loads and publishes one table. The task is a run of its own.

    Faults of seconds are the engine's to retry. What it gives up on, Airflow tries once more after
    five minutes; what would fail again, it does not.

    Args:
        settings: The settings of the run, with this one table, once for each of its targets.
        kwargs: Airflow's own.
    """

    ui_color = "#d6e9f8"

    def __init__(self, *, settings: Settings, **kwargs: Any) -> None:
        self.settings = settings
        super().__init__(
            **{
                "pool": f"source_{settings.tables[0].source_connection}",
                "retries": 1,
                "retry_delay": timedelta(minutes=5),
                "outlets": [raw_table_asset(table) for table in settings.tables],
                **kwargs,
            }
        )

    def execute(self, context: Context) -> dict[str, Any]:
        """Returns the run's report, which is small: counts and times, no rows.

        Raises:
            AirflowFailException: If the table failed and would fail again.
            AirflowException: If the table failed and may succeed when tried again.
        """
        report = self._run(context)
        for line in filter(None, report.as_text(_REPORT_WIDTH).splitlines()):
            logger.info("%s", line)
        if report.failed:
            raise _as_airflow(*(result.error for result in report.failed if result.error))
        for outlet, published in zip(self.outlets, report.as_dict()["tables"], strict=True):
            context["outlet_events"][outlet].extra = {
                "run_id": report.run_id,
                "watermark": published["window"]["high"],
                **{name: count for name, count in published.items() if name.startswith("rows_")},
            }
        return report.as_dict()

    def _run(self, context: Context) -> RunReport:
        ti = context["ti"]
        invoked_by = {
            name: getattr(ti, name) for name in ("dag_id", "run_id", "task_id", "try_number")
        }
        with _engine_lines_told():
            try:
                return run(
                    self.settings,
                    os.environ,
                    RunOptions(invoked_by=invoked_by),
                    resolver=airflow_connection,
                )
            except ExtractLoadError as error:
                # Its cause may be a driver's; all there is to know stands in its three parts.
                raise _as_airflow(error) from None


def raw_table_asset(table: TableSettings) -> Asset:
    """Returns the asset that stands for a raw table in its target."""
    path = "/".join(quote(part, safe="") for part in table.target.parts)
    return Asset(
        name=f"{table.target_connection}.{table.target.written}",
        uri=f"extract-load://{table.target_connection}/{path}",
    )


def _as_airflow(*errors: ExtractLoadError) -> AirflowException:
    """The failure of a task: tried again where that may help any of its targets."""
    kind = AirflowException if any(error.retryable for error in errors) else AirflowFailException
    return kind("\n".join(map(str, errors)))


@contextmanager
def _engine_lines_told() -> Iterator[None]:
    """Repeats the engine's lines with the facts behind them, which a task's log would drop."""
    engine, handler = logging.getLogger("extract_load"), _Told()
    propagate, engine.propagate = engine.propagate, False
    engine.addHandler(handler)
    try:
        yield
    finally:
        engine.removeHandler(handler)
        engine.propagate = propagate


class _Told(logging.Handler):
    """Logs a record once more, as message and facts: `published rows=8123`."""

    def emit(self, record: logging.LogRecord) -> None:
        """Logs it."""
        logger.log(record.levelno, "%s", message_and_facts(record))
