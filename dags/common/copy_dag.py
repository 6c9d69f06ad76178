"""A whole copy DAG: connections checked, tables landed, dbt's models, snapshots and tests."""

import os
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from airflow.sdk import CronTriggerTimetable, Param
from cosmos import DbtDag, ExecutionConfig, ProjectConfig
from cosmos.constants import ExecutionMode, InvocationMode

from common.alerts import alert_on_failure, alert_on_run_failure
from common.central_settings import effective_dbt_config
from common.checks import EntriesCheckOperator
from common.declarations import DBT_PROJECT, read_defaults
from common.documents import Document
from common.manifest import ManifestPart, manifest_path, read_manifest
from common.rendering import DagPart, part_of_dag, render_config
from common.target_profile import target_profile
from common.variable_shapes import DbtConfig, thresholds_of, value_of

DEFAULT_TIMEZONE = "Asia/Seoul"

_DAG_ARGUMENTS: Mapping[str, Any] = {
    "on_failure_callback": alert_on_run_failure,
    "catchup": False,
    "max_active_runs": 1,
    "tags": ["extract-load", "dbt"],
}


def copy_dag(
    dag_id: str,
    *,
    schedule: str | None = None,
    timezone: str | None = None,
    description: str | None = None,
    default_args: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> DbtDag:
    """Returns the DAG of the tables whose `dag` it is, with all that dbt builds on them alone.

    What is not given here stands under `dag_configs` in `dags/common/defaults.yml`.

    Args:
        dag_id: The DAG. A table is moved here by `dag: <dag_id>` in its dbt source.
        schedule: Cron expression; None and nothing in the defaults file: only by hand.
        timezone: Its time zone.
        description: For people.
        default_args: Airflow's, for every task.
        kwargs: Other arguments of Airflow's DAG.

    Raises:
        ConfigError: If there is no manifest, or a declaration is wrong; the DAG file then has an
            import error that tells all of it.
    """
    defaults = read_defaults(os.environ)
    config = defaults["dag_configs"].get(dag_id, {})
    dbt = value_of(DbtConfig, defaults["dbt_configs"])
    path = manifest_path()
    manifest = read_manifest(path)
    part = part_of_dag(manifest, dag_id)
    dag = DbtDag(
        dag_id=dag_id,
        description=description or config.get("description"),
        schedule=_schedule(schedule or config.get("schedule"), timezone or config.get("timezone")),
        params=_trigger_form(part),
        default_args={
            "execution_timeout": _time_limit(dag_id, defaults["execution_monitoring_configs"]),
            "on_failure_callback": alert_on_failure,
            **(default_args or {}),
        },
        user_defined_macros={"full_refresh_is_configured": _full_refresh_is_configured},
        project_config=_project(ManifestPart(manifest, path, part.unique_ids)),
        profile_config=target_profile(
            config.get("target_connection", "postgres_default"), dbt.dbt_target
        ),
        render_config=render_config(part, list(dbt.select)),
        execution_config=ExecutionConfig(
            execution_mode=ExecutionMode.LOCAL, invocation_mode=InvocationMode.DBT_RUNNER
        ),
        operator_args={
            "dbt_cmd_global_flags": ["--no-use-colors"],
            "full_refresh": "{{ params.full_refresh or full_refresh_is_configured() }}",
        },
        **{**_DAG_ARGUMENTS, **kwargs},
    )
    EntriesCheckOperator(
        task_id="table_configs", dag=dag, task_group=dag.task_group, sources=part.table_names
    )
    return dag


def _project(manifest: ManifestPart) -> ProjectConfig:
    project = ProjectConfig(dbt_project_path=DBT_PROJECT, install_dbt_deps=False)
    project.manifest_path = manifest  # given to the constructor, it would become a path of Cosmos'
    return project


def _schedule(cron: str | None, timezone: str | None) -> CronTriggerTimetable | None:
    # Without a start_date, which would run last night's as soon as the DAG is unpaused.
    if not cron:
        return None
    # Else a DAG that is new, or was paused, would run at once for an hour that has just passed:
    # within a tenth of the time between two runs. False does not say it (Airflow 3.3).
    return CronTriggerTimetable(
        cron, timezone=timezone or DEFAULT_TIMEZONE, run_immediately=timedelta(0)
    )


class _Schema(dict[str, Any]):
    """What nobody changes. Airflow copies a DAG's parameters deeply for each of its tasks."""

    def __deepcopy__(self, _: dict[int, Any]) -> "_Schema":
        return self


def _trigger_form(part: DagPart) -> dict[str, Param]:
    tables = part.table_names
    return {
        "full_refresh": Param(
            False,
            description="Read every table whole, and build dbt's incremental models from scratch.",
            schema=_Schema(type="boolean"),
        ),
        "select": Param(
            [],
            description="Land these tables only; none lands all. dbt builds on what is there.",
            schema=_Schema(type="array", items={"type": "string", "enum": tables}, examples=tables),
        ),
        "allow_deletes": Param(
            False,
            description="Publish although the source is empty or has lost most of its rows.",
            schema=_Schema(type="boolean"),
        ),
        "allow_rewrite": Param(
            False,
            description="Alter raw tables even while readers wait: new types, keys, NOT NULL.",
            schema=_Schema(type="boolean"),
        ),
        "since": Param(
            None,
            description="Let tables of incremental_sync read again from this cursor value on.",
            schema=_Schema(type=["null", "string"]),
        ),
    }


def _time_limit(dag_id: str, monitoring: Document) -> timedelta | None:
    seconds = thresholds_of(dag_id, monitoring).get("max_execution_seconds")
    return timedelta(seconds=seconds) if seconds else None


def _full_refresh_is_configured() -> bool:
    """Whether the Variable `dbt_configs` asks for it; called when a task's command is rendered."""
    return effective_dbt_config().full_refresh
