"""The check of all tables: asks the ledgers, tells what is new, remembers what it told.

What was told stands in an Airflow Variable, written after each message. A check that dies between
the two tells again: twice is better than never.
"""

import json
import logging
import os
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from airflow.sdk import Context, Variable

from common.airflow_lookup import airflow_connection, find_variable
from common.alert_text import Message
from common.alerts import Recipients, recipients_of, tell, tell_failure
from common.central_settings import effective_monitoring, effective_tables
from common.declarations import Declarations, read_declarations
from common.failure import as_airflow
from common.health_problems import (
    CHECK_FAILED,
    Change,
    Key,
    OpenProblem,
    change_since,
    ended_alert,
    metrics_lines,
    problems_of,
)
from common.variable_shapes import MonitoringThresholds
from common.variables import Variables, read_variables
from extract_load import (
    ExtractLoadError,
    Problem,
    Settings,
    TableHealth,
    settings_from_document,
    table_health,
)

logger = logging.getLogger(__name__)

TOLD = "extract_load_told"
"""The Variable with the problems that somebody was told of. Deleted: all is told again."""

_Health = Mapping[str, Sequence[TableHealth]]
_Limits = Mapping[str, MonitoringThresholds]


class NobodyTold(ExtractLoadError):
    """There are problems, and no message about them reached anybody."""

    retryable = True


def check_tables(ti: Any) -> None:
    """Compares all declared tables with their thresholds, and tells what has changed.

    Args:
        ti: The task that runs it.

    Raises:
        AirflowException: If the settings cannot be used, or no message reached anybody.
    """
    try:
        declarations = read_declarations(os.environ)
        dag_ids = dict.fromkeys(table.dag_id for table in declarations.tables)
        limits = {dag_id: effective_monitoring(dag_id) for dag_id in dag_ids}
        health = _health(declarations, limits)
        for line in metrics_lines(health):
            logger.info("%s", line)
        problems = [
            p for dag_id in dag_ids for p in problems_of(dag_id, health[dag_id], limits[dag_id])
        ]
        _tell_changes(problems, ti.log_url)
    except ExtractLoadError as error:
        raise as_airflow(error) from None


def alert_once_on_failure(context: Context) -> None:
    """Tells that the check itself failed; not again while every check fails.

    Args:
        context: Of the task.
    """
    key, told = Key(context["ti"].dag_id, kind=CHECK_FAILED), _remembered()
    if key in told:
        logger.info("the check fails as it did before: nobody is told again")
    elif tell_failure(context):
        _remember([*told, key])


def _health(declarations: Declarations, limits: _Limits) -> _Health:
    variables = read_variables(("table_configs",))
    return {
        dag_id: table_health(
            _settings(dag_id, declarations, variables),
            os.environ,
            thresholds.over_last_runs,
            airflow_connection,
        )
        for dag_id, thresholds in limits.items()
    }


def _settings(dag_id: str, declarations: Declarations, variables: Variables) -> Settings:
    """The tables of a DAG; without those an operator has switched off."""
    problems: list[Problem] = list(variables.problems)
    tables = effective_tables(dag_id, declarations, variables, problems)
    if problems:  # whose loads fail and tell
        for problem in problems:
            logger.warning("%s: the tables are checked as declared. %s", dag_id, problem)
        return Settings(
            tables=tuple(one for t in declarations.tables_of(dag_id) for one in t.landed)
        )
    return settings_from_document({"tables": tables}, "Variables", os.environ)


def _tell_changes(problems: Sequence[OpenProblem], link: str) -> None:
    """One message to each who is told, whatever the number of tables and DAGs."""
    told = _remembered()
    change = change_since(told, problems)
    for problem in problems:
        logger.warning("%s: %s", problem.alert.about, problem.alert.primary)
    for alert in map(ended_alert, change.ended):
        logger.info("ended: %s: %s", alert.about, alert.primary)
    unheard = 0
    for who, (opened, ended) in _by_recipients(change).items():
        alerts = tuple(problem.alert for problem in opened)
        is_told = tell(Message(alerts, tuple(map(ended_alert, ended)), link), who)
        if who and not is_told:
            unheard += len(opened) + len(ended)
            continue
        told = [key for key in told if key not in ended]
        told += [problem.key for problem in opened if is_told]
        _remember(told)
    if unheard:
        raise NobodyTold(
            f"no message about {unheard} changes reached anybody",
            "The log above says why. What was not told is told by the next check.",
            "Mend the mail server or the webhook.",
        )


def _by_recipients(change: Change) -> dict[Recipients, tuple[list[OpenProblem], list[Key]]]:
    """What has changed, for each who is told of it."""
    keys = [*(problem.key for problem in change.opened), *change.ended]
    who = {dag_id: recipients_of(dag_id) for dag_id in dict.fromkeys(key.dag_id for key in keys)}
    found: dict[Recipients, tuple[list[OpenProblem], list[Key]]] = {
        one: ([], []) for one in who.values()
    }
    for problem in change.opened:
        found[who[problem.key.dag_id]][0].append(problem)
    for key in change.ended:
        found[who[key.dag_id]][1].append(key)
    return found


def _remembered() -> list[Key]:
    text = find_variable(TOLD)
    try:
        return [Key(*key) for key in json.loads(text or "[]")]
    except (ValueError, TypeError):
        logger.warning("Variable %s cannot be read: every problem is told again", TOLD)
        return []


def _remember(told: Collection[Key]) -> None:
    text = json.dumps(list(told), ensure_ascii=False)
    Variable.set(TOLD, text, description="What monitoring_dag told. Delete it to be told again.")
