"""What `variable_setup_dag` does: the repository's declarations into Airflow Variables.

Three-way: what the repository declares, what was written last, what stands there. A key that an
operator changed is kept; one that nobody changed follows the repository.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from common.airflow_lookup import FindVariable
from common.central_settings import (
    effective_dag_config,
    effective_document,
    effective_tables,
    variables_error,
)
from common.declarations import Declarations
from common.documents import Document, edits, leaves, overlaid
from common.table_documents import TableDocuments
from common.variable_shapes import VARIABLES, passwords, problems_of_shape
from common.variables import BEING_WRITTEN, WRITTEN, Variables, as_text
from extract_load import ConfigError, Problem

SetVariable = Callable[[str, str, str], None]
"""What saves a Variable: name, text, description."""

DESCRIPTIONS = {
    "dag_configs": "Settings of each DAG: run keys; what shapes the graph can only be repeated",
    "connection_configs": "Descriptions of connections; hosts and passwords are Connections",
    "table_configs": "Settings of each DAG's tables",
    "execution_monitoring_configs": "When somebody is told, and who",
    "chunk_mode_configs": "How tables are cut, by their size",
    "dbt_configs": "How dbt is run",
    WRITTEN: "What variable_setup_dag wrote last. Leave it: what differs from it is your change",
}
_HINT = (
    "Nothing was written. Mend the keys under Admin > Variables and run this DAG again, or run it "
    "with `overwrite` to have what the repository declares."
)
_SECRET_KEY = re.compile(r"pass|secret|token|uri|extra|host|login", re.IGNORECASE)


@dataclass(frozen=True)
class SetupPlan:
    """What the Variables will hold, and what is told about it."""

    documents: Mapping[str, Document]
    """By Variable."""
    declared: Mapping[str, Document]
    """What the repository says, by Variable."""
    variables: Variables
    """As they stand."""
    lines: tuple[str, ...]
    """The difference, for people."""
    problems: tuple[Problem, ...]
    """Why nothing may be written."""


def plan_setup(declared: Declarations, variables: Variables, *, overwrite: bool) -> SetupPlan:
    """Returns what to write.

    Args:
        declared: What the repository declares.
        variables: As they stand.
        overwrite: Whether operators' changes go.
    """
    tables = TableDocuments(declared)
    documents = declared.documents()
    problems = [found for name in VARIABLES for found in passwords(name, documents[name])]
    if not overwrite:
        problems += problems_of_variables(declared, _without_removed(variables, tables))
    if problems:
        return SetupPlan({}, documents, variables, (), tuple(problems))
    lines: list[str] = []
    merged: dict[str, Document] = {}
    for name in VARIABLES:
        own, present, *bases = (
            tables.by_name(name, one)
            for one in (documents[name], variables.of(name), *variables.bases(name))
        )
        changed = edits(present, *bases)
        kept = {} if overwrite else _still_declared(changed, own, bases)
        after = overlaid(own, kept)
        lines += _difference(name, present, after, _paths(changed) - _paths(kept))
        lines += _kept(name, kept, own, bases)
        merged[name] = tables.as_lists(name, after)
    return SetupPlan(merged, documents, variables, tuple(lines), ())


def check(plan: SetupPlan) -> None:
    """Raises what is wrong with a plan.

    Args:
        plan: The plan.

    Raises:
        ConfigError: If there is anything.
    """
    if plan.problems:
        raise variables_error(plan.problems, _HINT)


def carry_out(plan: SetupPlan, find: FindVariable, save: SetVariable) -> list[str]:
    """Writes what differs and returns the names of the Variables written.

    First the new declarations are added to what counts as written, then the Variables are, then
    they alone count: wherever this is killed, nothing of ours looks like an operator's change.

    Args:
        plan: What to write; without problems.
        find: What finds a Variable.
        save: What saves one.

    Raises:
        ConfigError: If a Variable holds something else afterwards.
    """
    unfinished = plan.variables.written.get(BEING_WRITTEN)
    before = unfinished if isinstance(unfinished, list) else []
    differing = [
        name for name in VARIABLES if plan.variables.present.get(name) != plan.documents[name]
    ]
    if not differing and plan.variables.written == plan.declared:
        return []
    begun = {**plan.variables.written, BEING_WRITTEN: [*before, plan.declared]}
    _save(WRITTEN, begun, find, save)
    for name in differing:
        _save(name, plan.documents[name], find, save)
    _save(WRITTEN, dict(plan.declared), find, save)
    return differing


def _save(name: str, document: Document, find: FindVariable, save: SetVariable) -> None:
    text = as_text(document)
    save(name, text, DESCRIPTIONS[name])
    if find(name) != text:
        raise ConfigError(
            f'Variable "{name}" was saved, but something else is read',
            f"AIRFLOW_VAR_{name.upper()} in the environment, or a secrets backend, comes first.",
            "Remove it there: only a Variable in Airflow's database can be changed without a "
            "deployment.",
        )


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


def _without_removed(variables: Variables, tables: TableDocuments) -> Variables:
    """The Variables without what is no longer declared: nobody needs to mend that."""
    documents = tables.declared.documents()
    present = {
        name: tables.without_removed(document, variables.bases(name))
        if name == "table_configs"
        else _still_declared(document, documents[name], variables.bases(name))
        for name, document in variables.present.items()
    }
    return replace(variables, present=present)


def _still_declared(document: Document, declared: Document, bases: Sequence[Document]) -> Document:
    """A document without the mappings that were written once and are no longer declared."""
    left = {}
    for key, value in document.items():
        nested = [base[key] for base in bases if isinstance(base.get(key), dict)]
        below = declared.get(key)
        if not isinstance(value, dict) or not nested:
            left[key] = value
        elif isinstance(below, dict):
            left[key] = _still_declared(value, below, nested)
    return left


def _difference(name: str, present: Document, after: Document, gone: set[str]) -> Iterator[str]:
    old, new = dict(leaves(present)), dict(leaves(after))
    for path in [*new, *(path for path in old if path not in new)]:
        if path in old and path in new and old[path] == new[path]:
            continue
        was, is_now = (_shown(path, one[path]) if path in one else "" for one in (old, new))
        told = f"{was} -> {is_now}" if was and is_now else was or is_now
        sign = "~" if was and is_now else "-" if was else "+"
        note = "  (an operator's change goes)" if path in gone else ""
        yield f"{sign} {name}.{path}: {told}{note}"


def _kept(
    name: str, kept: Document, declared: Document, bases: Sequence[Document]
) -> Iterator[str]:
    says = dict(leaves(declared))
    said = [dict(leaves(base)) for base in bases]
    for path, value in leaves(kept):
        if path in says and says[path] == value:
            continue
        told = f"declared: {_shown(path, says[path])}" if path in says else "not declared"
        is_conflict = said and says.get(path) not in [base.get(path) for base in said]
        note = "both changed it" if is_conflict else "an operator changed it"
        sign = "!" if is_conflict else "="
        yield f"{sign} {name}.{path}: {_shown(path, value)} stays, {note} ({told})"


def _paths(document: Document) -> set[str]:
    return {path for path, _ in leaves(document)}


def _shown(path: str, value: object) -> str:
    """A value for the log, unless it may be a secret."""
    if _SECRET_KEY.search(path.rpartition(".")[2]) or list(passwords("", value)):
        return "(not shown)"
    return repr(value)
