"""Writes the repository's declarations into the six Airflow Variables of the central settings.

Run by hand, after a deployment: operators then see under Admin > Variables what holds, and change
it there. A key that somebody changed is kept and told; one that nobody changed follows the
repository. Without this DAG everything works as declared.
"""

import logging
import os
from typing import Any

from airflow.sdk import Param, dag, task
from airflow.sdk.exceptions import AirflowSkipException

from common.airflow_lookup import find_variable, save_variable
from common.declarations import read_declarations
from common.failure import as_airflow
from common.variable_setup import SetupPlan, carry_out, check, plan_setup
from common.variables import read_variables
from extract_load import ConfigError

logger = logging.getLogger(__name__)


@dag(  # type: ignore[untyped-decorator] # mypy skips Airflow
    schedule=None,
    catchup=False,
    max_active_runs=1,
    doc_md=__doc__,
    tags=["extract-load"],
    params={
        "dry_run": Param(False, type="boolean", description="Show the difference, write nothing."),
        "overwrite": Param(
            False, type="boolean", description="Give up what operators changed in the Variables."
        ),
    },
)
def variable_setup_dag() -> None:
    """Shows the difference, then writes it."""

    @task  # type: ignore[untyped-decorator]
    def show_difference(params: dict[str, Any]) -> None:
        """Logs what would change; fails where an edit is wrong."""
        for line in _plan(params).lines or ["nothing differs from what the repository declares"]:
            logger.info("%s", line)
        if params["dry_run"]:
            logger.info("this is a dry run: nothing is written")

    @task  # type: ignore[untyped-decorator]
    def write_variables(params: dict[str, Any]) -> list[str]:
        """Returns the names of those written."""
        if params["dry_run"]:
            raise AirflowSkipException("a dry run writes nothing")
        try:
            written = carry_out(_plan(params), find_variable, save_variable)
        except ConfigError as error:
            raise as_airflow(error) from None
        logger.info("written: %s", ", ".join(written) or "nothing")
        return written

    show_difference() >> write_variables()


def _plan(params: dict[str, Any]) -> SetupPlan:
    try:
        declared = read_declarations(os.environ)
        plan = plan_setup(declared, read_variables(), overwrite=params["overwrite"])
        check(plan)
    except ConfigError as error:
        raise as_airflow(error) from None
    return plan


variable_setup_dag()
