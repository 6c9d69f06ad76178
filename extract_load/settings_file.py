"""Documents into settings.

Every problem of a whole document is collected and told at once, before any connection is
opened.
"""

import difflib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError

from extract_load.config import (
    NOT_BUILT_KEYS,
    RunSettings,
    Settings,
    SyncMode,
    TableSettings,
)
from extract_load.errors import ConfigError, Problem

Document = dict[str, Any]

_HINT = 'Run "extract-load plan" after the change; it touches nothing.'
TABLE_KEYS = frozenset(item.name for item in fields(TableSettings))
RUN_KEYS = frozenset(item.name for item in fields(RunSettings))
_SHARED_BY_TARGETS = frozenset(
    {
        *("source", "source_connection", "columns", "exclude_columns"),
        *("mask", "custom_where", "search_path"),
    }
)
"""What is read is the same for all targets of a table."""
_CONNECTION_VARIABLES = {
    "source_connection": "SOURCE_POSTGRES_CONN_ID",
    "target_connection": "TARGET_POSTGRES_CONN_ID",
}
Value = TypeVar("Value")

_table = TypeAdapter(TableSettings)
_run = TypeAdapter(RunSettings)


def load_settings_file(path: Path, environ: Mapping[str, str]) -> Settings:
    """Returns the settings of a YAML or JSON file: run keys at its top and a list `tables`.

    Args:
        path: The file; JSON is read as the YAML it also is.
        environ: Names the connections that the file does not.

    Raises:
        ConfigError: If it cannot be read, or holds any problem; all of them are named.
    """
    return settings_from_document(read_yaml(path), f'settings file "{path}"', environ)


def settings_from_document(
    document: object, origin: str, environ: Mapping[str, str] = {}
) -> Settings:
    """Returns the settings that a parsed document holds.

    Args:
        document: Run keys and a list `tables` of table keys.
        origin: Where it came from, for messages.
        environ: Names the connections that the document does not.

    Raises:
        ConfigError: If it holds any problem; all of them are named.
    """
    problems: list[Problem] = []
    top = document if isinstance(document, dict) else {}
    declared = top.get("tables")
    if not isinstance(declared, list) or not declared:
        problems.append(Problem("", "tables", "needed: a list of at least one table."))
        declared = []
    run_keys = {key: value for key, value in top.items() if key != "tables"}
    run = _validated(_run, run_keys, "", RUN_KEYS | {"tables"}, problems)
    connections = _connections(run_keys, environ)
    tables = [
        table
        for number, entry in enumerate(declared, start=1)
        for table in _validated_entry(entry, number, connections, problems)
    ]
    landed = tuple(table for table in tables if table is not None)
    problems += _problems_between(landed)
    if problems or run is None:
        count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
        raise ConfigError(f"{origin} has {count}", hint=_HINT, problems=problems)
    return Settings(tables=landed, run=run, origin=origin, document=top)


def read_yaml(path: Path) -> Any:
    """Returns what a YAML or JSON file holds.

    Raises:
        ConfigError: If it cannot be read, is neither, or says a key twice.
    """
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=_YamlLoader)  # noqa: S506 - safe
    except OSError as exc:
        raise ConfigError(
            f'cannot read "{path}"', f"{exc.strerror}.", "Check the path and its permissions."
        ) from exc
    except (yaml.YAMLError, UnicodeDecodeError) as exc:
        raise ConfigError(
            f'"{path}" is neither YAML nor JSON', str(exc), "Mend the line named above."
        ) from exc


class _YamlLoader(yaml.CSafeLoader):
    """A safe loader for which a key that stands twice is an error, not a loss."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f'key "{key.value}" stands twice', key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


# ---------------------------------------------------------------- documents into values


def _connections(run_keys: Document, environ: Mapping[str, str]) -> Document:
    """Connection ids for tables that name none: the document's, then the environment's."""
    found = {
        key: run_keys.get(key) or environ.get(variable)
        for key, variable in _CONNECTION_VARIABLES.items()
    }
    return {key: value for key, value in found.items() if value}


def _validated_entry(
    entry: object, number: int, connections: Document, problems: list[Problem]
) -> list[TableSettings | None]:
    """The table of an entry: one for each of its targets."""
    if not isinstance(entry, dict):
        problems.append(Problem("", f"tables[{number}]", "is no mapping of table keys."))
        return []
    label = str(entry.get("source") or f"tables[{number}]")
    if "targets" not in entry:
        return [_validated_table({**connections, **entry}, label, "", problems)]
    found = list(_problems_of_targets(entry))
    problems += [Problem(label, *problem) for problem in found]
    if found:
        return []
    shared = {key: value for key, value in entry.items() if key != "targets"}
    return [
        _validated_table(
            {**connections, **shared, **_target_keys(target)}, label, f"targets[{place}].", problems
        )
        for place, target in enumerate(entry["targets"], start=1)
    ]


def _problems_of_targets(entry: Document) -> Iterator[tuple[str, str]]:
    targets = entry["targets"]
    if not isinstance(targets, list) or not targets:
        yield "targets", "should be a list of at least one target."
        return
    if "target" in entry:
        yield "target", "cannot stand beside targets; keep one of them."
    for place, target in enumerate(targets, start=1):
        if not isinstance(target, dict):
            yield f"targets[{place}]", "is no mapping with conn_id and table."
            continue
        for key in ("conn_id", "table"):
            if not target.get(key):
                yield f"targets[{place}].{key}", "needed, but missing."
        for key in _SHARED_BY_TARGETS & set(target):
            yield f"targets[{place}].{key}", "is the same for all targets; write it above them."


def _target_keys(target: Document) -> Document:
    own = {key: value for key, value in target.items() if key not in {"conn_id", "table"}}
    return {**own, "target": target["table"], "target_connection": target["conn_id"]}


def _validated_table(
    keys: Document, label: str, prefix: str, problems: list[Problem]
) -> TableSettings | None:
    found: list[Problem] = []
    table = _validated(_table, keys, label, TABLE_KEYS | {"targets"}, found)
    if table is not None:
        found += [Problem(label, *problem) for problem in _problems_within(table)]
    problems += [replace(problem, key=prefix + problem.key) for problem in found]
    return table


def _validated(
    adapter: TypeAdapter[Value],
    keys: Document,
    label: str,
    known: frozenset[str],
    problems: list[Problem],
) -> Value | None:
    try:
        return adapter.validate_python(keys)
    except ValidationError as exc:
        problems += problems_of(exc, label, known)
        return None


def problems_of(exc: ValidationError, label: str, known: Collection[str]) -> list[Problem]:
    """Returns what pydantic found wrong with a mapping of keys, in our words.

    Args:
        exc: What it raised.
        label: What the keys belong to.
        known: The keys there are, to tell which one a typo was meant for.
    """
    found = []
    for error in exc.errors(include_url=False):
        key = str(error["loc"][0]) if error["loc"] else ""
        found.append(Problem(label, key, _sentence(error, key, known)))
    return found


def _sentence(error: Mapping[str, Any], key: str, known: Collection[str]) -> str:
    """What pydantic found, in our words."""
    if error["type"] == "unexpected_keyword_argument":
        return _unknown_key(key, known)
    if error["type"] == "missing":
        variable = _CONNECTION_VARIABLES.get(key)
        return f"needed, but missing{f'; or set {variable}' if variable else ''}."
    if error["type"] == "enum":
        choices = error["ctx"]["expected"].replace(" or ", ", ").replace("'", "")
        return f'"{error["input"]}" is no {key.replace("_", " ")}; known: {choices}.'
    if error["type"] == "value_error":
        return f"{error['ctx']['error']}."
    text = error["msg"].replace("Input should be", "should be")
    return f"{text[0].lower()}{text[1:]}, not {error['input']!r}."


def _unknown_key(key: str, known: Collection[str]) -> str:
    if key in NOT_BUILT_KEYS:
        return "not built yet in this version; remove the key."
    near = difflib.get_close_matches(key, known, n=1)
    return "no such key" + (f'; did you mean "{near[0]}"?' if near else ".")


def _problems_within(table: TableSettings) -> Iterator[tuple[str, str]]:
    """What a table's keys get wrong together."""
    incremental = table.sync_mode is SyncMode.INCREMENTAL_SYNC
    if incremental and table.incremental_field is None:
        yield "incremental_field", "needed by incremental_sync, but missing."
    if table.columns and table.exclude_columns:
        yield "exclude_columns", "cannot stand beside columns; keep one of them."
    if table.sync_mode is SyncMode.FULL_SYNC and table.deletes == "ignore":
        yield "deletes", "full_sync follows deletes by nature; write hard or soft."
    where = table.custom_where
    reads = {
        "a sub-query": where is not None and where.reads_tables,
        "the present time": where is not None and where.reads_clock,
    }
    for what in (what for what, is_read in reads.items() if is_read):
        if table.sync_mode is not SyncMode.FULL_SYNC:
            yield (
                "custom_where",
                f"{what} is possible in full_sync only: in {table.sync_mode} "
                "rows would enter it unseen.",
            )
    for name, _ in table.mask:
        if name in {*table.primary_key, table.incremental_field}:
            yield "mask", f'"{name}" is key or cursor: rows could not be told apart by it.'
    reserved = {"_loaded_at", "_deleted_at"} & {*table.columns, *table.primary_key}
    if reserved:
        yield "columns", f"{min(reserved)} is written by extract-load and cannot be landed."
    if table.source_connection == table.target_connection and table.source == table.target:
        yield "target", "is the source itself."


def _problems_between(tables: tuple[TableSettings, ...]) -> Iterator[Problem]:
    """Two tables that would land in one raw table."""
    first: dict[tuple[str, tuple[str, str]], TableSettings] = {}
    for table in tables:
        place = (table.target_connection, table.target.parts)
        other = first.setdefault(place, table)
        if other is not table:
            yield Problem(
                table.source.written,
                "target",
                f"{table.target.said} is the target of {other.source.said} too.",
            )
