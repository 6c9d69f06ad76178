"""The settings that hold: what the repository declares, and what operators changed in Variables.

A Variable wins where an operator changed it. What still stands as `variable_setup_dag` wrote it is
no change: a repository deployed since then goes on without it. What shapes the graph, which is
drawn without looking at a Variable, can be repeated in one but not changed.
"""

import logging
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields, replace

from common.airflow_lookup import FindVariable, find_variable
from common.declarations import Declarations, read_defaults
from common.declared_tables import (
    DeclaredTable,
    Target,
    declared_tables,
    keyed,
    siblings_of,
    strays,
)
from common.documents import Document, leaves, overlaid
from common.table_entries import differs, entries_of
from common.variable_shapes import (
    DagConfig,
    DbtConfig,
    MonitoringThresholds,
    problems_of_description,
    problems_of_keys,
    problems_of_shape,
    thresholds_of,
    value_of,
)
from common.variables import Variables, read_variables
from extract_load import (
    ConfigError,
    Problem,
    RunSettings,
    Settings,
    parse_table_name,
    settings_from_document,
)

logger = logging.getLogger(__name__)

_READ_BY_LOADS = ("dag_configs", "table_configs", "chunk_mode_configs", "connection_configs")
_GRAPH_KEYS = {
    "dag_configs": frozenset({"schedule", "timezone", "source_connection", "target_connection"}),
    "dbt_configs": frozenset({"dbt_target", "select"}),
}
_RUN_KEYS = frozenset(item.name for item in fields(RunSettings)) - _GRAPH_KEYS["dag_configs"]
_HINT = (
    "Mend the key under Admin > Variables, or remove it to have what the repository declares; "
    "then clear the task."
)


# ---------------------------------------------------------------- asked by tasks


def effective_settings(
    dag_id: str,
    settings: Settings,
    siblings: Sequence[Collection[Target]] = (),
    find: FindVariable = find_variable,
) -> Settings:
    """Returns the settings of a run with the Variables applied.

    Args:
        dag_id: The DAG the run belongs to.
        settings: As they are declared, of one table.
        siblings: The targets of each other table that the DAG lands from the same source.
        find: What finds a Variable.

    Raises:
        ConfigError: If a Variable gets anything wrong that concerns this table.
    """
    variables = _read(_READ_BY_LOADS, find)
    defaults = read_defaults(os.environ)
    (table,) = declared_tables(settings)
    problems: list[Problem] = []
    config = effective_dag_config(dag_id, defaults, variables, problems)
    sizes = effective_document("chunk_mode_configs", defaults, variables, problems)
    entry = entries_of(dag_id, variables, problems).merged(table, siblings, problems)
    described = variables.edits("connection_configs")
    for conn_id in sorted(table.connections & described.keys()):
        problems += problems_of_description(conn_id, described[conn_id])
    _raise(problems)
    document = {
        **settings.document,
        **{key: config[key] for key in _RUN_KEYS & config.keys()},
        "tables": [_sized(entry, sizes)],
    }
    checked = _checked(document, dag_id, os.environ)
    _tell(dag_id, table, entry)
    return checked


def effective_monitoring(dag_id: str, find: FindVariable = find_variable) -> MonitoringThresholds:
    """Returns the thresholds of a DAG, and who is told.

    Args:
        dag_id: The DAG. What the Variable says about another one is not looked at.
        find: What finds a Variable.

    Raises:
        ConfigError: If the Variable `execution_monitoring_configs` cannot be used.
    """
    name = "execution_monitoring_configs"
    document = overlaid(read_defaults(os.environ)[name], _read((name,), find).edits(name))
    if isinstance(by_dag := document.get("dags"), dict):  # else its check says so
        document["dags"] = {key: value for key, value in by_dag.items() if key == dag_id}
    _raise(problems_of_shape(name, document))
    return value_of(MonitoringThresholds, thresholds_of(dag_id, document))


def effective_dbt_config(find: FindVariable = find_variable) -> DbtConfig:
    """Returns how dbt is run.

    Args:
        find: What finds a Variable.

    Raises:
        ConfigError: If the Variable `dbt_configs` cannot be used.
    """
    name = "dbt_configs"
    variables = _read((name,), find)
    problems: list[Problem] = []
    document = effective_document(name, read_defaults(os.environ), variables, problems)
    _raise(problems)
    return value_of(DbtConfig, document)


def require_no_stray_entries(
    dag_id: str, sources: Collection[str], find: FindVariable = find_variable
) -> None:
    """Refuses entries of `table_configs` that are about no table of a DAG: no load would tell.

    Args:
        dag_id: The DAG.
        sources: The tables it lands, as their sources are written.
        find: What finds a Variable.

    Raises:
        ConfigError: If there are any, or the Variable cannot be read.
    """
    problems: list[Problem] = []
    entries = entries_of(dag_id, _read(("table_configs",), find), problems)
    tables = [parse_table_name(source) for source in sources]
    _raise([*problems, *strays(entries.present, tables, entries.label)])


# ---------------------------------------------------------------- parts of documents


def effective_dag_config(
    dag_id: str,
    defaults: Mapping[str, Document],
    variables: Variables,
    problems: list[Problem],
) -> Document:
    """Returns the settings of a DAG.

    Args:
        dag_id: The DAG.
        defaults: What the repository declares.
        variables: As they stand.
        problems: Gets what the Variable gets wrong about this DAG.
    """
    name = "dag_configs"
    declared = defaults[name].get(dag_id, {})
    changed = variables.edits(name).get(dag_id, {})
    found = problems_of_keys(DagConfig, f"{name}.{dag_id}", changed)
    found = found or _graph_problems(name, f"{name}.{dag_id}", changed, declared)
    problems += found
    return dict(declared) if found else overlaid(declared, changed)


def effective_document(
    name: str, defaults: Mapping[str, Document], variables: Variables, problems: list[Problem]
) -> Document:
    """Returns a document that is the same for all DAGs, with the Variable over it.

    Args:
        name: Of the Variable.
        defaults: What the repository declares.
        variables: As they stand.
        problems: Gets what the Variable gets wrong.
    """
    changed = variables.edits(name)
    merged = overlaid(defaults[name], changed)
    found = problems_of_shape(name, merged)
    found = found or _graph_problems(name, name, changed, defaults[name])
    problems += found
    return defaults[name] if found else merged


def effective_tables(
    dag_id: str, declarations: Declarations, variables: Variables, problems: list[Problem]
) -> list[Document]:
    """Returns the tables of a DAG, as their entries say after the Variable.

    Args:
        dag_id: The DAG.
        declarations: What the repository declares.
        variables: As they stand.
        problems: Gets everything the Variable gets wrong about this DAG.
    """
    tables = declarations.tables_of(dag_id)
    entries = entries_of(dag_id, variables, problems)
    problems += strays(entries.present, {table.source for table in tables}, entries.label)
    merged = [entries.merged(one, siblings_of(one, tables), problems) for one in tables]
    if not problems and merged:
        try:
            _checked({"tables": merged}, dag_id, declarations.environ)
        except ConfigError as error:
            problems += error.problems
    return merged


# ---------------------------------------------------------------- small parts


def _read(names: Sequence[str], find: FindVariable) -> Variables:
    variables = read_variables(names, find)
    _raise(variables.problems)
    return variables


def _graph_problems(name: str, label: str, changed: Document, declared: Document) -> list[Problem]:
    return [
        Problem(label, key, differs(changed[key], declared.get(key), "dags/common/defaults.yml"))
        for key in sorted(_GRAPH_KEYS.get(name, frozenset()) & changed.keys())
        if changed[key] != declared.get(key)
    ]


def _tell(dag_id: str, table: DeclaredTable, entry: Document) -> None:
    """Logs what holds because of a Variable."""
    declared = dict(leaves(keyed(table.entry)))
    for key, value in leaves(keyed(entry)):
        if key not in declared or declared[key] != value:
            place = f"table_configs.{dag_id}.{table.source.written}.{key}"
            logger.info("Variable %s: %r", place, value)


def _sized(entry: Document, sizes: Document) -> Document:
    """An entry with what its table's size decides: only what it does not set itself."""
    ordered = sorted(
        sizes.values(),
        key=lambda size: float("inf") if size.get("max_rows") is None else size["max_rows"],
    )

    def left_open(keys: Document) -> list[Document]:
        # Who asks for chunks of so many rows asks for chunks.
        own = {*keys, "chunk_mode"} if "batch_size" in keys else {*keys}
        return [
            {k: v for k, v in size.items() if k == "max_rows" or k not in own} for size in ordered
        ]

    if "targets" not in entry:
        return {"by_size": left_open(entry), **entry}
    targets = [{"by_size": left_open({**entry, **one}), **one} for one in entry["targets"]]
    return {**entry, "targets": targets}


def _checked(document: Document, dag_id: str, environ: Mapping[str, str]) -> Settings:
    """The settings of a document; what is wrong with it now came out of a Variable."""
    try:
        return settings_from_document(document, "Variables", environ)
    except ConfigError as error:
        label = f"table_configs.{dag_id}"
        raise variables_error(
            [
                replace(one, table=f"{label}.{one.table}" if one.table else label)
                for one in error.problems
            ]
        ) from error


def variables_error(problems: Sequence[Problem], hint: str = _HINT) -> ConfigError:
    """Returns the error that tells everything that is wrong with the Variables.

    Args:
        problems: At least one.
        hint: What to do; by default what helps a task.
    """
    count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
    return ConfigError(f"Airflow Variables have {count}", hint=hint, problems=tuple(problems))


def _raise(problems: Sequence[Problem]) -> None:
    if problems:
        raise variables_error(problems)
