"""One source table landed as one Airflow task, in all its targets."""

import logging
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any
from urllib.parse import quote

from airflow.sdk import Asset, BaseOperator, Context
from airflow.sdk.exceptions import AirflowException

from common.airflow_lookup import airflow_connection
from common.central_settings import effective_monitoring, effective_settings
from common.declared_tables import Target
from common.failure import as_airflow
from common.variable_shapes import MonitoringThresholds
from extract_load import (
    ExtractLoadError,
    LandingOptions,
    RunOptions,
    RunReport,
    Settings,
    SyncMode,
    TableSettings,
    already_published,
    message_and_facts,
    progress_lines,
    run,
    table_health,
)

logger = logging.getLogger(__name__)

_REPORT_WIDTH = 160


class ExtractLoadOperator(BaseOperator):  # type: ignore[misc] # mypy skips Airflow
    """Extracts, loads and publishes one table. The task is a run of its own.

    Faults of seconds are the engine's to retry. What it gives up on, Airflow tries once more after
    five minutes; what would fail again, it does not. Tried again, or cleared, it works on the
    targets that are missing; when none is, on all.

    Args:
        settings: The settings of the run, with this one table, once for each of its targets, as
            the repository declares it. Variables are applied when the task runs.
        siblings: The targets of each other table that the DAG lands from the same source: an entry
            of `table_configs` about one of them is not about this table.
        retries: How often Airflow tries again; a DAG's default_args win, as with any operator.
        retry_delay: What it waits before.
        kwargs: Airflow's own.
    """

    ui_color = "#d6e9f8"

    def __init__(
        self,
        *,
        settings: Settings,
        siblings: Sequence[Collection[Target]] = (),
        retries: int = 1,
        retry_delay: timedelta = timedelta(minutes=5),
        **kwargs: Any,
    ) -> None:
        self.settings = settings
        self.siblings = siblings
        self._is_landing = False
        self._limits = MonitoringThresholds()
        super().__init__(
            retries=retries,
            retry_delay=retry_delay,
            **{
                "pool": f"source_{settings.tables[0].source_connection}",
                "outlets": [raw_table_asset(table) for table in settings.tables],
                **kwargs,
            },
        )

    def pre_execute(self, context: Context) -> None:
        """Sets the time limit that holds now: Airflow reads it right after this."""
        try:
            self._limits = effective_monitoring(context["ti"].dag_id)
        except ExtractLoadError as error:
            raise as_airflow(error) from None
        seconds = self._limits.max_execution_seconds
        self.execution_timeout = timedelta(seconds=seconds) if seconds else None

    def execute(self, context: Context) -> dict[str, Any] | None:
        """Returns the run's report, which is small: counts and times, no rows.

        None when the trigger form left the table out.

        Raises:
            AirflowFailException: If the table failed and would fail again.
            AirflowException: If the table failed and may succeed when tried again.
        """
        if not self._is_selected(context):
            logger.info("not selected in the trigger form: nothing is done")
            self.outlets: list[Asset] = []
            return None
        try:
            report = self._run(context)
        except ExtractLoadError as error:
            # Its cause may be a driver's; all there is to know stands in its three parts.
            raise as_airflow(error) from None
        for line in filter(None, report.as_text(_REPORT_WIDTH).splitlines()):
            logger.info("%s", line)
        self._log_error_rates()
        if report.failed:
            raise as_airflow(*(result.error for result in report.failed if result.error))
        self._tell_readers(context, report)
        return report.as_dict()

    def on_kill(self) -> None:
        """Ends the load. Airflow calls this in the main thread, which waits for the workers.

        Raises:
            AirflowException: While a load runs: it is cancelled on the way out.
        """
        if self._is_landing:
            msg = "the task was stopped from outside; nothing was published after that"
            raise AirflowException(msg)

    def _is_selected(self, context: Context) -> bool:
        selected = context["params"].get("select")
        return not selected or self.settings.tables[0].source.written in selected

    def _run(self, context: Context) -> RunReport:
        ti, params = context["ti"], context["params"]
        task = {name: getattr(ti, name) for name in ("dag_id", "run_id", "task_id")}
        settings = self._missing(effective_settings(ti.dag_id, self.settings, self.siblings), task)
        options = RunOptions(
            landing=LandingOptions(
                full_refresh=bool(params.get("full_refresh")),
                allow_deletes=bool(params.get("allow_deletes")),
                allow_rewrite=bool(params.get("allow_rewrite")),
                since=self._since(params),
            ),
            invoked_by={**task, "try_number": ti.try_number},
            progress=progress_lines(),
        )
        with _engine_lines_told():
            self._is_landing = True
            try:
                return run(settings, os.environ, options, resolver=airflow_connection)
            finally:
                self._is_landing = False

    def _since(self, params: Mapping[str, Any]) -> str | None:
        """The cursor value of the trigger form, which is about tables that have a cursor."""
        modes = {table.sync_mode for table in self.settings.tables}
        return (params.get("since") or None) if SyncMode.INCREMENTAL_SYNC in modes else None

    def _missing(self, settings: Settings, task: Mapping[str, str]) -> Settings:
        """The settings without the targets that an earlier try of this task published."""
        done = already_published(settings, os.environ, task, resolver=airflow_connection)
        for conn_id, target in sorted(done):
            logger.info("published by an earlier try, left alone: %s in %s", target, conn_id)
        missing = [
            table
            for table in settings.tables
            if (table.target_connection, table.target.written) not in done
        ]
        return replace(settings, tables=tuple(missing))

    def _log_error_rates(self) -> None:
        """Tells how the table has fared; a target that is down said so already."""
        last_runs = self._limits.over_last_runs
        health = table_health(self.settings, os.environ, last_runs, airflow_connection)
        for one in health:
            if one.runs:
                rate = one.error_count / one.runs
                told = "error rate of %s in %s: %.0f%% (%s of its last %s runs failed)"
                facts = (one.target, one.target_connection, 100 * rate, one.error_count, one.runs)
                logger.info(told, *facts)

    def _tell_readers(self, context: Context, report: RunReport) -> None:
        """Leaves an event for each asset whose raw table is up to date; skipped ones have none.

        An earlier try of this task may have published some of them: its events were dropped when
        it failed, so they are told now.
        """
        results = {(one.target_connection, one.target): one for one in report.tables}
        skipped = {key for key, one in results.items() if one.status == "skipped"}
        assets = {(t.target_connection, t.target.written): t for t in self.settings.tables}
        self.outlets = [raw_table_asset(t) for key, t in assets.items() if key not in skipped]
        for key, result in results.items():
            if key in skipped:
                continue
            published = result.as_dict()
            context["outlet_events"][raw_table_asset(assets[key])].extra = {
                "run_id": report.run_id,
                "watermark": published["window"]["high"],
                **{name: count for name, count in published.items() if name.startswith("rows_")},
            }


def raw_table_asset(table: TableSettings) -> Asset:
    """Returns the asset that stands for a raw table in its target."""
    path = "/".join(quote(part, safe="") for part in table.target.parts)
    return Asset(
        name=f"{table.target_connection}.{table.target.written}",
        uri=f"extract-load://{table.target_connection}/{path}",
    )


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
