"""The tables the repository declares, and which of them an entry of `table_configs` is about.

Pure: documents in, values out.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

from common.documents import Document
from extract_load import Problem, Settings, TableName, TableSettings, parse_table_name

SINGLE_TARGET_DAG = "digitalocean_data_copy_dag"
"""Lands the tables that name no DAG and have one target."""
MANY_TARGETS_DAG = "hybrid_data_copy_dag"
"""Lands those that have several."""

Target = tuple[str | None, tuple[str, str]]
"""Connection id, None where an entry names none, and the raw table's schema and name."""


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

    def is_named_by(self, entry: object) -> bool:
        """Whether an entry names targets, and none but this table's."""
        return isinstance(entry, dict) and _all_of(list(_targets_of(entry)), self.targets)

    def repeats(self, key: str, value: object) -> bool:
        """Whether a key that shapes the graph says what is declared."""
        if key == "source":
            return _parsed(value) == self.source
        if key == "target":
            return "targets" not in self.entry and _parsed(value) == self.landed[0].target
        if key == "dag":
            return value == self.dag_id
        if key in {"source_connection", "target_connection"}:
            return all(getattr(one, key) == value for one in self.landed)
        return bool(value == self.entry.get(key, False))


def keyed(entry: Document) -> Document:
    """Returns an entry with its list of targets as a mapping, by connection and table.

    A list that cannot be read so stays as it is.

    Example:
        >>> keyed({"targets": [{"conn_id": "a", "table": "raw.t", "batch_size": 5}]})
        {'targets': {'a:raw.t': {'batch_size': 5}}}
    """
    targets = entry.get("targets")
    if not isinstance(targets, list):
        return entry
    names = [_name(*target) for target in _targets_of({"targets": targets})]
    if len(set(names)) < len(targets):
        return entry
    own = [{k: v for k, v in one.items() if k not in {"conn_id", "table"}} for one in targets]
    return {**entry, "targets": dict(zip(names, own, strict=True))}


def unkeyed(entry: Document, declared: Document) -> Document:
    """Returns an entry with its targets as the list in which they are declared.

    Args:
        entry: With its targets as a mapping; those that are not declared are left out.
        declared: The table's declared entry.
    """
    if "targets" not in entry:
        return entry
    names = keyed(declared)["targets"]
    return {
        **entry,
        "targets": [
            {"conn_id": one["conn_id"], "table": one["table"], **entry["targets"][name]}
            for name, one in zip(names, declared["targets"], strict=True)
        ],
    }


def declared_tables(settings: Settings) -> tuple[DeclaredTable, ...]:
    """Returns the tables of settings, each with its entry and all its targets."""
    landed = iter(settings.tables)
    return tuple(
        DeclaredTable(entry, tuple(next(landed) for _ in entry.get("targets", (entry,))))
        for entry in settings.document.get("tables", ())
    )


def sources_of(entries: Iterable[object]) -> set[TableName]:
    """Returns the tables that entries name as their source."""
    named = [_parsed(entry.get("source")) for entry in entries if isinstance(entry, dict)]
    return {source for source in named if source is not None}


def siblings_of(
    table: DeclaredTable, tables: Collection[DeclaredTable]
) -> list[Collection[Target]]:
    """Returns the targets of each other table landed from the same source."""
    return [one.targets for one in tables if one is not table and one.source == table.source]


def entry_of(
    table: DeclaredTable,
    siblings: Sequence[Collection[Target]],
    entries: Sequence[object],
    label: str,
    problems: list[Problem],
) -> Document:
    """Returns the entry that is about a table; an empty one where there is none.

    Args:
        table: The table.
        siblings: The targets of each other table that its DAG lands from the same source.
        entries: Those of its DAG.
        label: Where they stand, for messages.
        problems: Gets what makes it unclear which entry is meant.
    """
    found: list[Document] = []
    for entry in entries:
        if not isinstance(entry, dict) or _parsed(entry.get("source")) != table.source:
            continue
        named = list(_targets_of(entry))
        if siblings and not named:
            told = f"the DAG lands it {len(siblings) + 1} times; name the target of one of them."
            problems.append(Problem(label, "", told))
        elif not any(_all_of(named, one) for one in siblings):
            found.append(entry)
    if len(found) > 1:
        problems.append(Problem(label, "", "stands twice; keep one entry."))
    own = [entry for entry in found if table.is_named_by(entry)]
    return (own or found or [{}])[0]


def strays(
    entries: Sequence[object], sources: Collection[TableName], label: str
) -> Iterator[Problem]:
    """Yields what is wrong with entries that are about no table of their DAG.

    Args:
        entries: Those of a DAG.
        sources: The tables it lands.
        label: Where the entries stand.
    """
    known = ", ".join(sorted({source.written for source in sources})) or "none"
    for number, entry in enumerate(entries, start=1):
        if not isinstance(entry, dict):
            yield Problem(label, f"[{number}]", "should be a mapping of keys.")
        elif (source := _parsed(entry.get("source"))) is None:
            yield Problem(label, f"[{number}].source", 'needed, written "schema.table".')
        elif source not in sources:
            told = f"this DAG lands no such table; it lands: {known}."
            yield Problem(label, source.written, told)


def _parsed(written: object) -> TableName | None:
    try:
        return parse_table_name(written) if isinstance(written, str) else None
    except ValueError:
        return None


def _targets_of(entry: Document) -> Iterator[Target]:
    """The targets an entry names; what is no target is left out."""
    single = _parsed(entry.get("target"))
    if single is not None:
        yield entry.get("target_connection"), single.parts
    several = entry.get("targets")
    for target in several if isinstance(several, list) else ():
        table = _parsed(target.get("table")) if isinstance(target, dict) else None
        if table is not None:
            yield target.get("conn_id"), table.parts


def _name(conn_id: str | None, parts: tuple[str, str]) -> str:
    return f"{conn_id}:{TableName(*parts)}"


def _fits(named: Target, target: Target) -> bool:
    return named[1] == target[1] and named[0] in {None, target[0]}


def _all_of(named: Collection[Target], targets: Collection[Target]) -> bool:
    return bool(named) and all(any(_fits(one, target) for target in targets) for one in named)
