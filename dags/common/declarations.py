"""What the repository declares: the dbt sources and `defaults.yml`, in the Variables' shapes.

Files are read, nothing else: no Airflow, no database, no manifest.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from common.declared_tables import DeclaredTable, declared_tables
from common.documents import Document
from common.variable_shapes import VARIABLES, problems_of_shape
from extract_load import (
    ConfigError,
    Problem,
    dbt_project_document,
    read_yaml,
    settings_from_document,
)

DEFAULTS = Path(__file__).with_name("defaults.yml")
ROOT = Path(__file__).resolve().parents[2]
DBT_PROJECT = ROOT / "dbt_project"
_IN_DEFAULTS = tuple(name for name in VARIABLES if name != "table_configs")
_NAMES_FIRST = ("source", "target", "targets")


@dataclass(frozen=True)
class Declarations:
    """Everything the repository declares."""

    defaults: Mapping[str, Document]
    """By Variable, all but `table_configs`."""
    tables: tuple[DeclaredTable, ...]
    """In the order of the dbt sources."""
    environ: Mapping[str, str]
    """What they were read with: it names the connections of tables that name none."""

    @property
    def dag_ids(self) -> tuple[str, ...]:
        """The DAGs that are configured or land a table."""
        configured = self.defaults["dag_configs"]
        return tuple(dict.fromkeys([*configured, *(table.dag_id for table in self.tables)]))

    def tables_of(self, dag_id: str) -> tuple[DeclaredTable, ...]:
        """Returns the tables a DAG lands."""
        return tuple(table for table in self.tables if table.dag_id == dag_id)

    def documents(self) -> dict[str, Document]:
        """Returns what stands in each Variable when nobody changed it."""
        by_dag = {
            dag_id: [entry_shown(table.entry) for table in self.tables_of(dag_id)]
            for dag_id in self.dag_ids
            if self.tables_of(dag_id)
        }
        return {name: self.defaults.get(name, by_dag) for name in VARIABLES}


def read_declarations(
    environ: Mapping[str, str], project_dir: Path = DBT_PROJECT, defaults: Path = DEFAULTS
) -> Declarations:
    """Returns what the repository declares.

    Args:
        environ: For `env_var()` in the dbt sources, and DBT_TARGET.
        project_dir: The dbt project.
        defaults: The defaults file.

    Raises:
        ConfigError: If the declarations hold any problem; it names them all.
    """
    settings = settings_from_document(
        dbt_project_document(project_dir, environ), f'dbt project "{project_dir}"', environ
    )
    return Declarations(read_defaults(environ, defaults), declared_tables(settings), environ)


def read_defaults(environ: Mapping[str, str], path: Path = DEFAULTS) -> Mapping[str, Document]:
    """Returns what the defaults file declares, by Variable. For DAG files too: it is quick.

    Args:
        environ: DBT_TARGET in it wins over what the file says.
        path: The file.

    Raises:
        ConfigError: If it holds any problem; it names them all.
    """
    found = read_yaml(path)
    document = found if isinstance(found, dict) else {}
    problems = [
        Problem("", key, f"no such key; known: {', '.join(_IN_DEFAULTS)}.")
        for key in document.keys() - set(_IN_DEFAULTS)
    ]
    for name in _IN_DEFAULTS:
        if isinstance(document.get(name), dict):
            problems += problems_of_shape(name, document[name])
        else:
            problems.append(
                Problem("", name, 'needed, a mapping; "{}" where nothing is to be said.')
            )
    if problems:
        raise ConfigError(
            f'"{path}" has {len(problems)} problem{"s" if len(problems) > 1 else ""}',
            hint="Its keys are described in docs/reference/variables.md.",
            problems=problems,
        )
    if environ.get("DBT_TARGET"):
        document["dbt_configs"]["dbt_target"] = environ["DBT_TARGET"]
    return document


def entry_shown(entry: Document) -> Document:
    """Returns a table's keys as people write them: its names first, and each name once."""
    keys = dict(entry)
    if "targets" in keys:
        keys.pop("target_connection", None)
    return {key: keys[key] for key in (*(k for k in _NAMES_FIRST if k in keys), *keys)}
