"""The settings that hold: what the repository declares, and what operators changed in Variables.

A Variable wins where an operator changed it. What still stands as `variable_setup_dag` wrote it is
no change: a repository deployed since then goes on without it. What shapes the graph, which is
drawn without looking at a Variable, can be repeated in one but not changed.
"""

import logging
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields

from common.airflow_lookup import FindVariable, find_variable
from common.declarations import Declarations, read_defaults
from common.declared_tables import (
    GRAPH,
    DeclaredTable,
    Target,
    declared_tables,
    entry_of,
    siblings_of,
    strays,
)
from common.documents import Document, edits, leaves, overlaid
from common.variable_shapes import (
    DagConfig,
    DbtConfig,
    MonitoringThresholds,
    check_connection,
    check_keys,
    problems_of_shape,
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

_GRAPH_KEYS = {
    "table_configs": frozenset(
        {"source", "target", "dag", "distributed", "source_connection", "target_connection"}
    ),
    "dag_configs": frozenset({"schedule", "timezone", "source_connection", "target_connection"}),
    "dbt_configs": frozenset({"dbt_target", "select"}),
}
_RUN_KEYS = frozenset(item.name for item in fields(RunSettings)) - _GRAPH_KEYS["dag_configs"]
_HINT = (
    "Mend the Variable under Admin > Variables, or delete it to have what the repository "
    "declares. The next run reads it again."
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
    names = ("dag_configs", "table_configs", "chunk_mode_configs", "connection_configs")
    variables = read_variables(names, find)
    problems = list(variables.problems)
    defaults = read_defaults(os.environ)
    (table,) = declared_tables(settings)
    config = effective_dag_config(dag_id, defaults, variables, problems)
    entry = effective_entry(dag_id, table, siblings, variables, problems)
    sizes = effective_document("chunk_mode_configs", defaults, variables, problems)
    for conn_id in sorted(table.connections):
        problems += check_connection(conn_id, variables.of("connection_configs").get(conn_id, {}))
    _raise(problems)
    document = {
        **settings.document,
        **{key: config[key] for key in _RUN_KEYS & config.keys()},
        "tables": [_sized(entry, sizes)],
    }
    return _checked(document)


def effective_monitoring(dag_id: str, find: FindVariable = find_variable) -> MonitoringThresholds:
    """Returns the thresholds of a DAG, and who is told.

    Raises:
        ConfigError: If the Variable `execution_monitoring_configs` cannot be used.
    """
    document = dict(_effective("execution_monitoring_configs", find))
    by_dag = document.pop("dags", {})
    merged = overlaid(document, by_dag.get(dag_id, {}))
    email = merged.get("email") or ()
    merged["email"] = (email,) if isinstance(email, str) else tuple(email)
    return MonitoringThresholds(**merged)


def effective_dbt_config(find: FindVariable = find_variable) -> DbtConfig:
    """Returns how dbt is run.

    Raises:
        ConfigError: If the Variable `dbt_configs` cannot be used.
    """
    document = _effective("dbt_configs", find)
    return DbtConfig(**{**document, "select": tuple(document.get("select", ()))})


def stray_entries(
    dag_id: str, sources: Collection[str], find: FindVariable = find_variable
) -> list[Problem]:
    """Returns what is wrong with entries of `table_configs` that no table of a DAG would tell.

    Args:
        dag_id: The DAG.
        sources: The tables it lands, as their sources are written.
        find: What finds a Variable.
    """
    variables = read_variables(("table_configs",), find)
    label = f"table_configs.{dag_id}"
    tables = [parse_table_name(source) for source in sources]
    return list(strays(_entries(variables.of("table_configs"), dag_id), tables, label))


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
    name, declared = "dag_configs", defaults["dag_configs"].get(dag_id, {})
    found = check_keys(DagConfig, f"{name}.{dag_id}", variables.of(name).get(dag_id, {}))
    problems += found
    if found:
        return dict(declared)
    changed = variables.edits(name).get(dag_id, {})
    problems += _graph_problems(name, f"{name}.{dag_id}", changed, declared)
    return overlaid(declared, changed)


def effective_entry(
    dag_id: str,
    table: DeclaredTable,
    siblings: Sequence[Collection[Target]],
    variables: Variables,
    problems: list[Problem],
) -> Document:
    """Returns the entry of a table with the Variable over it.

    Args:
        dag_id: The DAG.
        table: As it is declared.
        siblings: The targets of each other table that the DAG lands from the same source.
        variables: As they stand.
        problems: Gets what the Variable gets wrong about this table.
    """
    name = "table_configs"
    label = f"{name}.{dag_id}.{table.source.written}"
    present = _entries(variables.of(name), dag_id)
    if present and not isinstance(variables.of(name)[dag_id], list):
        problems.append(Problem(f"{name}.{dag_id}", "", "should be a list of tables."))
    entry = table.keyed(entry_of(table, siblings, present, label, problems), label, problems)
    bases = [
        table.keyed(entry_of(table, siblings, _entries(base, dag_id), label, []), label, [])
        for base in variables.bases(name)
    ]
    changed = edits(entry, *bases)
    problems += [
        Problem(label, key, f"cannot be changed to {changed[key]!r} here. {GRAPH}")
        for key in sorted(_GRAPH_KEYS[name] & changed.keys())
        if not table.repeats(key, changed[key])
    ]
    own = {key: value for key, value in changed.items() if key not in _GRAPH_KEYS[name]}
    for key, value in leaves(own):
        logger.info("Variable %s: %s = %r", label, key, value)
    return table.unkeyed(overlaid(table.keyed(table.entry, label, []), own))


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
    found = problems_of_shape(name, variables.of(name))
    problems += found
    if found:
        return defaults[name]
    changed = variables.edits(name)
    problems += _graph_problems(name, name, changed, defaults[name])
    return overlaid(defaults[name], changed)


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
    label = f"table_configs.{dag_id}"
    entries = _entries(variables.of("table_configs"), dag_id)
    problems += strays(entries, {table.source for table in tables}, label)
    merged = [
        effective_entry(dag_id, table, siblings_of(table, tables), variables, problems)
        for table in tables
    ]
    if not problems and merged:
        try:
            _checked({"tables": merged})
        except ConfigError as error:
            problems += error.problems
    return merged


def problems_of_variables(declarations: Declarations, variables: Variables) -> list[Problem]:
    """Returns everything that is wrong with the Variables as they stand."""
    problems = list(variables.problems)
    for name in ("connection_configs", "table_configs"):
        problems += problems_of_shape(name, variables.of(name))
    for name in ("execution_monitoring_configs", "chunk_mode_configs", "dbt_configs"):
        effective_document(name, declarations.defaults, variables, problems)
    known = set(declarations.dag_ids)
    for name in ("dag_configs", "table_configs"):
        for dag_id in variables.edits(name).keys() - known:
            ids = ", ".join(sorted(known))
            problems.append(Problem(name, dag_id, f"no such DAG; known: {ids}."))
    described = set(declarations.defaults["connection_configs"])
    connections = described.union(*(table.connections for table in declarations.tables))
    for conn_id in variables.edits("connection_configs").keys() - connections:
        told = "no DAG uses such a connection; declare it in dags/common/defaults.yml."
        problems.append(Problem("connection_configs", conn_id, told))
    if not problems:
        for dag_id in declarations.dag_ids:
            effective_dag_config(dag_id, declarations.defaults, variables, problems)
            effective_tables(dag_id, declarations, variables, problems)
    return problems


# ---------------------------------------------------------------- small parts


def _effective(name: str, find: FindVariable) -> Document:
    variables = read_variables((name,), find)
    problems = list(variables.problems)
    document = effective_document(name, read_defaults(os.environ), variables, problems)
    _raise(problems)
    return document


def _entries(document: Document, dag_id: str) -> list[object]:
    """The entries of a DAG in `table_configs`."""
    entries = document.get(dag_id) or []
    return entries if isinstance(entries, list) else [entries]


def _graph_problems(name: str, label: str, changed: Document, declared: Document) -> list[Problem]:
    told = "cannot be changed to {!r} here; declared: {!r}. It shapes the graph, which is drawn "
    told += "without Variables: change dags/common/defaults.yml and deploy."
    return [
        Problem(label, key, told.format(changed[key], declared.get(key)))
        for key in sorted(_GRAPH_KEYS[name] & changed.keys() if name in _GRAPH_KEYS else ())
        if changed[key] != declared.get(key)
    ]


def _sized(entry: Document, sizes: Document) -> Document:
    """An entry with what its table's size decides: only what it does not set itself."""
    ordered = sorted(
        sizes.values(),
        key=lambda size: float("inf") if size.get("max_rows") is None else size["max_rows"],
    )

    def left_open(keys: Document) -> list[Document]:
        return [
            {k: v for k, v in size.items() if k == "max_rows" or k not in keys} for size in ordered
        ]

    if "targets" not in entry:
        return {**entry, "by_size": left_open(entry)}
    targets = [{**one, "by_size": left_open({**entry, **one})} for one in entry["targets"]]
    return {**entry, "targets": targets}


def _checked(document: Document) -> Settings:
    """The settings of a document; what is wrong with it now came out of a Variable."""
    try:
        return settings_from_document(document, "Variables", os.environ)
    except ConfigError as error:
        _raise(error.problems)
        raise


def _raise(problems: Sequence[Problem]) -> None:
    if problems:
        count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
        raise ConfigError(f"Airflow Variables have {count}", hint=_HINT, problems=tuple(problems))
