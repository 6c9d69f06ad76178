"""Every quarter of an hour: each table's last runs and age against the thresholds.

Asks the ledgers of all targets, so it finds a table that is too old also when its DAG does not
run. A problem is told once, and once more when it has ended.
"""

import os
from datetime import timedelta

from airflow.providers.standard.operators.python import PythonOperator
from airflow.sdk import DAG, CronTriggerTimetable

from common.declarations import read_defaults
from common.monitoring import alert_once_on_failure, check_tables

config = read_defaults(os.environ)["dag_configs"]["monitoring_dag"]

with DAG(
    dag_id="monitoring_dag",
    description=config["description"],
    doc_md=__doc__,
    tags=["extract-load"],
    schedule=CronTriggerTimetable(config["schedule"], timezone=config["timezone"]),
    catchup=False,
    max_active_runs=1,
) as dag:
    PythonOperator(
        task_id="check",
        python_callable=check_tables,
        retries=0,  # the next check is the retry
        execution_timeout=timedelta(minutes=10),
        on_failure_callback=alert_once_on_failure,
    )
