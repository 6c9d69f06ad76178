"""Every night: the tables of the DigitalOcean database are landed, then dbt builds on them.

Each model waits for just the tables it reads. A table that fails keeps its models, snapshots and
tests from running, and nothing else. Tables are declared in the dbt project's sources, models are
its models: this file does not change when one is added.
"""

# Airflow opens only files with the words "airflow" and "dag" in them.
from airflow.sdk import CronTriggerTimetable
from cosmos import DbtDag, ExecutionConfig, ProjectConfig
from cosmos.constants import ExecutionMode, InvocationMode

from common.rendering import (
    DBT_PROJECT,
    DEFAULT_DAG,
    declared_tables,
    manifest_path,
    read_manifest,
    render_config,
    target_profile,
)

manifest = manifest_path()
tables = declared_tables(read_manifest(manifest), DEFAULT_DAG)

dag = DbtDag(
    dag_id=DEFAULT_DAG,
    description="Lands the DigitalOcean tables in raw_data, then builds the dbt models on them",
    doc_md=__doc__,
    tags=["extract-load", "dbt"],
    # Without a start_date, which would run last night's as soon as the DAG is unpaused.
    schedule=CronTriggerTimetable("0 2 * * *", timezone="Asia/Seoul"),
    catchup=False,
    max_active_runs=1,
    project_config=ProjectConfig(
        dbt_project_path=DBT_PROJECT, manifest_path=manifest, install_dbt_deps=False
    ),
    profile_config=target_profile("postgres_default"),
    render_config=render_config(tables),
    execution_config=ExecutionConfig(
        execution_mode=ExecutionMode.LOCAL, invocation_mode=InvocationMode.DBT_RUNNER
    ),
    operator_args={"dbt_cmd_global_flags": ["--no-use-colors"]},
)
