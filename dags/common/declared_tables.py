"""The tables the repository declares, and which of them an entry of a Variable is about.

Pure: documents in, values out.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from extract_load import Settings, TableName, TableSettings, parse_table_name

Document = dict[str, Any]

SINGLE_TARGET_DAG = "digitalocean_data_copy_dag"
MANY_TARGETS_DAG = "hybrid_data_copy_dag"

Target = tuple[str | None, tuple[str, str]]
"""Connection id, where one is written, and the raw table's schema and name."""


@dataclass(frozen=True)
class DeclaredTable:
    """One source table, in all its targets, as the repository declares it."""

    entry: Document
    """Its keys, as they were written."""
    landed: tuple[TableSettings, ...]
    """What they mean, once for each target."""

    @property
    def source(self) -> TableName:
        """The table in the source database."""
        return self.landed[0].source

    @property
    def dag_id(self) -> str:
        """The DAG that lands it."""
        default = MANY_TARGETS_DAG if "targets" in self.entry else SINGLE_TARGET_DAG
        return self.landed[0].dag or default

    @property
    def targets(self) -> frozenset[Target]:
        """Where it lands."""
        return frozenset((one.target_connection, one.target.parts) for one in self.landed)

    @property
    def connections(self) -> frozenset[str]:
        """The connections it is landed over."""
        sources = {one.source_connection for one in self.landed}
        return frozenset(sources | {one.target_connection for one in self.landed})

    def describes(self, entry: Document) -> bool:
        """Whether an entry names none but targets of this table."""
        named = targets_of(entry)
        return all(any(_is_same(one, target) for target in self.targets) for one in named)

    def repeats(self, key: str, value: object) -> bool:
        """Whether a key that shapes the graph says what is declared."""
        if key == "source":
            return parsed(value) == self.source
        if key == "target":
            names = [one.target for one in self.landed]
            return "targets" not in self.entry and parsed(value) == names[0]
        if key == "targets":
            named = targets_of({"targets": value})
            is_whole = isinstance(value, list) and len(value) == len(named)
            return is_whole and "targets" in self.entry and set(named) == self.targets
        if key == "dag":
            return value == self.dag_id
        if key in {"source_connection", "target_connection"}:
            return all(getattr(one, key) == value for one in self.landed)
        return bool(value == self.entry.get(key, False))


def declared_tables(settings: Settings) -> tuple[DeclaredTable, ...]:
    """Returns the tables of settings, each with its entry and all its targets."""
    landed = iter(settings.tables)
    return tuple(
        DeclaredTable(entry, tuple(next(landed) for _ in entry.get("targets", (entry,))))
        for entry in settings.document.get("tables", ())
    )


def find_table(entry: Document, tables: Sequence[DeclaredTable]) -> DeclaredTable | str:
    """Returns the table an entry is about, or why nobody can tell.

    Args:
        entry: Of `table_configs`; found by its source and, where a source is landed more than
            once, by its target.
        tables: Those of the DAG.
    """
    source = parsed(entry.get("source"))
    if source is None:
        return 'needs a source, written "schema.table".'
    same = [table for table in tables if table.source == source]
    if not same:
        known = ", ".join(sorted({table.source.written for table in tables})) or "none"
        return f"the DAG lands no such table; it lands: {known}. Declare it in the dbt sources."
    if len(same) == 1:
        return same[0]
    found = [table for table in same if targets_of(entry) and table.describes(entry)]
    if len(found) == 1:
        return found[0]
    return f"the DAG lands it {len(same)} times; name the target of one of them."


def key_of(table: DeclaredTable, tables: Sequence[DeclaredTable]) -> str:
    """Returns what a table is called in messages: its source and, where needed, its target."""
    if sum(other.source == table.source for other in tables) < 2:
        return table.source.written
    first = table.landed[0]
    return f"{table.source.written} -> {first.target_connection}:{first.target.written}"


def targets_of(entry: Document) -> tuple[Target, ...]:
    """Returns the targets an entry names; what is no target is left out."""
    return tuple(_targets_of(entry))


def parsed(written: object) -> TableName | None:
    """Returns the table a text names, if it names one."""
    try:
        return parse_table_name(written) if isinstance(written, str) else None
    except ValueError:
        return None


def _targets_of(entry: Document) -> Iterator[Target]:
    single = parsed(entry.get("target"))
    if single is not None:
        yield entry.get("target_connection"), single.parts
    several = entry.get("targets")
    for target in several if isinstance(several, list) else ():
        table = parsed(target.get("table")) if isinstance(target, dict) else None
        if table is not None:
            yield target.get("conn_id"), table.parts


def _is_same(named: Target, target: Target) -> bool:
    return named[1] == target[1] and named[0] in {None, target[0]}
