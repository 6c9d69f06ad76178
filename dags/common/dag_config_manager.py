"""The settings that hold, as dictionaries, for people and their own DAGs.

Works in a task, in a shell beside an Airflow installation, and without one: then the declarations
alone hold. Not for the top of a DAG file, where no Variable may be read.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from common.central_settings import (
    effective_dag_config,
    effective_document,
    effective_tables,
    variables_error,
)
from common.declarations import Declarations, entry_shown, read_declarations
from common.declared_tables import DeclaredTable
from common.environment import environment
from common.variable_shapes import thresholds_of
from common.variables import Variables, read_variables
from extract_load import ConfigError, Problem

_MONITORING = "execution_monitoring_configs"


class DAGConfigManager:
    """What the repository declares, with what operators changed in Variables over it."""

    @classmethod
    def get_dag_config(cls, dag_id: str) -> dict[str, Any]:
        """Returns the settings of a DAG: connections, schedule, time zone, run keys.

        Args:
            dag_id: The DAG.

        Raises:
            ConfigError: If there is no such DAG, or the Variable `dag_configs` is wrong about it.
        """
        with _now(("dag_configs",)) as now:
            tables = now.tables_of(dag_id)
            config = effective_dag_config(
                dag_id, now.declared.defaults, now.variables, now.problems
            )
            for key in ("source_connection", "target_connection"):
                used = {getattr(one, key) for table in tables for one in table.landed}
                if key not in config and len(used) == 1:
                    config[key] = used.pop()
        return config

    @classmethod
    def get_table_configs(cls, dag_id: str) -> list[dict[str, Any]]:
        """Returns the tables a DAG lands, each as it would stand in `table_configs`.

        Args:
            dag_id: The DAG.

        Raises:
            ConfigError: If there is no such DAG, or the Variable `table_configs` is wrong about
                one of its tables.
        """
        with _now(("table_configs",)) as now:
            now.tables_of(dag_id)
            tables = effective_tables(dag_id, now.declared, now.variables, now.problems)
        return [entry_shown({"sync_mode": "full_sync", **entry}) for entry in tables]

    @classmethod
    def get_monitoring_config(cls, dag_id: str | None = None) -> dict[str, Any]:
        """Returns when somebody is told, and who.

        Args:
            dag_id: With what differs for this DAG; None: for all, what differs under `dags`.

        Raises:
            ConfigError: If the Variable `execution_monitoring_configs` is wrong.
        """
        with _now((_MONITORING,)) as now:
            config = effective_document(
                _MONITORING, now.declared.defaults, now.variables, now.problems
            )
        return config if dag_id is None else thresholds_of(dag_id, config)


@dataclass(frozen=True)
class _Now:
    """Declarations and Variables, read once."""

    declared: Declarations
    variables: Variables
    problems: list[Problem] = field(default_factory=list)

    def tables_of(self, dag_id: str) -> Sequence[DeclaredTable]:
        """The tables of a DAG that there is."""
        if dag_id not in self.declared.dag_ids:
            raise ConfigError(
                f'there is no DAG "{dag_id}"',
                f"Known: {', '.join(self.declared.dag_ids)}.",
                "A DAG is declared in dags/common/defaults.yml, or by the `dag` of a table in the "
                "dbt sources.",
            )
        return self.declared.tables_of(dag_id)


@contextmanager
def _now(names: Sequence[str]) -> Iterator[_Now]:
    """Yields what holds now; raises what was found wrong meanwhile."""
    variables = read_variables(names)
    now = _Now(read_declarations(environment()), variables, list(variables.problems))
    yield now
    if now.problems:
        raise variables_error(now.problems)
