"""What operators changed of a table: its entry in the Variable `table_configs`.

Pure. What shapes the graph, which is drawn without Variables, can be repeated but not changed.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from common.declared_tables import DeclaredTable, Target, entry_of, keyed, unkeyed
from common.documents import Document, edits, overlaid
from common.variable_shapes import passwords
from common.variables import Variables
from extract_load import Problem

_NAME = "table_configs"
_GRAPH_KEYS = frozenset(
    {"source", "target", "targets", "dag", "distributed", "source_connection", "target_connection"}
)


@dataclass(frozen=True)
class DagEntries:
    """The entries about the tables of one DAG."""

    label: str
    """What they are called in messages."""
    present: Sequence[object]
    """As they stand."""
    written: tuple[Sequence[object], ...]
    """As `variable_setup_dag` wrote them."""

    def merged(
        self,
        table: DeclaredTable,
        siblings: Sequence[Collection[Target]],
        problems: list[Problem],
    ) -> Document:
        """Returns a table's declared entry with what operators changed over it.

        Args:
            table: The table.
            siblings: The targets of each other table that its DAG lands from the same source.
            problems: Gets what makes its entry unclear, and every key that cannot be changed.
        """
        changed = self._changed(table, siblings, problems)
        return unkeyed(overlaid(keyed(table.entry), changed), table.entry)

    def _changed(
        self,
        table: DeclaredTable,
        siblings: Sequence[Collection[Target]],
        problems: list[Problem],
    ) -> Document:
        """The keys that operators changed of a table, its targets by name."""
        label = f"{self.label}.{table.source.written}"
        entry = keyed(entry_of(table, siblings, self._not_stale(table), label, problems))
        last = [keyed(entry_of(table, siblings, one, label, [])) for one in self.written]
        changed = edits(entry, *last)
        # Alone: another problem would repeat the value.
        found = list(passwords(label, changed))
        found = found or list(_graph_problems(label, table, changed))
        found = found or list(_target_problems(label, table, entry, last))
        problems += found
        return {} if found else _without_graph(table, changed)

    def _not_stale(self, table: DeclaredTable) -> list[object]:
        """The entries, without what was written for a landing that is no longer declared."""
        written = [entry for entries in self.written for entry in entries]
        return [one for one in self.present if one not in written or table.is_named_by(one)]


def entries_of(dag_id: str, variables: Variables, problems: list[Problem]) -> DagEntries:
    """Returns the entries of a DAG.

    Args:
        dag_id: The DAG.
        variables: As they stand.
        problems: Gets what is wrong with all of its entries.
    """
    label = f"{_NAME}.{dag_id}"
    present = variables.of(_NAME).get(dag_id, [])
    if not isinstance(present, list):
        problems.append(Problem(label, "", 'should be a list of tables: write "[{...}]".'))
        present = []
    last = [one.get(dag_id) for one in variables.bases(_NAME)]
    return DagEntries(label, present, tuple(one for one in last if isinstance(one, list)))


def differs(value: object, declared: object, where: str) -> str:
    """Returns what is told of a key that shapes the graph and says something else.

    Args:
        value: What the Variable says.
        declared: What the repository says.
        where: The place in the repository.
    """
    return (
        f"{value!r} is not what is declared, {declared!r}. It shapes the graph, which is drawn "
        f"without Variables: repeat what is declared, or change {where} and deploy."
    )


def _graph_problems(label: str, table: DeclaredTable, changed: Document) -> Iterator[Problem]:
    for key in sorted(_GRAPH_KEYS & changed.keys() - {"targets"}):
        if not table.repeats(key, changed[key]):
            declared = _declared(table, key)
            yield Problem(label, key, differs(changed[key], declared, "the dbt source"))


def _target_problems(
    label: str, table: DeclaredTable, entry: Document, last: Sequence[Document]
) -> Iterator[Problem]:
    """What is wrong with the targets an entry lists; those that were written are no change."""
    written = [one["targets"] for one in last if "targets" in one]
    named = entry.get("targets")
    if "targets" not in entry or named in written:
        return
    if not isinstance(named, dict) or not all(isinstance(one, dict) for one in named.values()):
        told = "should be a list of targets, each with a conn_id and a table of its own."
        yield Problem(label, "targets", told)
        return
    declared = keyed(table.entry).get("targets", {})
    if set(named) not in [set(declared), *map(set, written)] or "targets" not in table.entry:
        names = [f"{one.target_connection}:{one.target}" for one in table.landed]
        yield Problem(label, "targets", differs(list(named), names, "the dbt source"))


def _declared(table: DeclaredTable, key: str) -> object:
    first = table.landed[0]
    known = {
        "source": table.source.written,
        "target": "targets" if "targets" in table.entry else first.target.written,
        "dag": table.dag_id,
        "source_connection": first.source_connection,
        "target_connection": first.target_connection,
    }
    return known.get(key, table.entry.get(key, False))


def _without_graph(table: DeclaredTable, changed: Document) -> Document:
    own = {key: value for key, value in changed.items() if key not in _GRAPH_KEYS}
    declared = keyed(table.entry).get("targets", {})
    named = changed.get("targets", {})
    targets = {name: keys for name, keys in named.items() if name in declared}
    return {**own, "targets": targets} if targets else own
