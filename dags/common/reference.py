"""Writes the JSON schemas of everything a person may set: `make docs-reference`.

They are made from the settings classes and the strings under their fields, so that there is one
place to change. An editor that is given one completes and checks keys.
"""

import ast
import inspect
import json
import textwrap
from collections.abc import Iterator
from dataclasses import fields
from itertools import pairwise
from typing import Any

from pydantic import TypeAdapter

from common.declarations import ROOT
from common.documents import Document
from common.variable_shapes import (
    ConnectionConfig,
    DagConfig,
    DbtConfig,
    MonitoringConfig,
    MonitoringThresholds,
    Size,
)
from extract_load import RunSettings, SizeDefaults, TableSettings

REFERENCE = ROOT / "docs" / "reference"
_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_ABOVE_TARGETS = frozenset(
    {
        *("source", "source_connection", "columns", "exclude_columns"),
        *("mask", "custom_where", "search_path"),
    }
)
_CLASSES = (
    ConnectionConfig,
    DagConfig,
    DbtConfig,
    MonitoringConfig,
    MonitoringThresholds,
    RunSettings,
    SizeDefaults,
    TableSettings,
)


def main() -> None:
    """Writes every schema."""
    for name, text in files().items():
        (REFERENCE / name).write_text(text, encoding="utf-8")


def files() -> dict[str, str]:
    """Returns the text of each file, by its name."""
    return {
        f"{name}.schema.json": json.dumps(
            {"$schema": _DIALECT, "title": name, **schema}, ensure_ascii=False, indent=2
        )
        + "\n"
        for name, schema in _schemas().items()
    }


def _schemas() -> dict[str, Document]:
    entry, run = _table_entry(), _schema(RunSettings)
    tables = {"type": "array", "items": {**_without_defs(entry), "required": ["source"]}}
    return {
        "dag_configs": _by("DAG id", _schema(DagConfig)),
        "connection_configs": _by("connection id", _schema(ConnectionConfig)),
        "table_configs": {**_by("DAG id", tables), **_defs(entry)},
        "execution_monitoring_configs": _schema(MonitoringConfig),
        "chunk_mode_configs": {
            **_object({size.value: _without_defs(_schema(SizeDefaults)) for size in Size}),
            "description": "How tables are cut, by the source's estimate of their rows.",
        },
        "dbt_configs": _schema(DbtConfig),
        "settings_file": {
            **_object({**run["properties"], "tables": {**tables, "minItems": 1}}),
            "required": ["tables"],
            "description": "A file for extract-load run --config.",
            **_defs(entry),
        },
        "dbt_source_meta": {
            "type": "object",  # other keys of meta are other people's
            "properties": {
                "extract_load": {**_without_defs(entry), "description": "On a source table."},
                "extract_load_defaults": {
                    **_object({**run["properties"], **entry["properties"]}),
                    "description": "On a source: run keys, and what its tables do not set.",
                },
            },
            "description": "config.meta of a dbt source and of its tables.",
            **_defs(entry),
        },
    }


def _table_entry() -> Document:
    """A table, with one target or several; what is required depends on where it stands."""
    schema = _schema(TableSettings)
    del schema["required"]
    of_target = {
        key: value
        for key, value in schema["properties"].items()
        if key not in {*_ABOVE_TARGETS, "target", "target_connection"}
    }
    names = {
        "conn_id": {"type": "string", "description": "Connection id of the target database."},
        "table": {"type": "string", "description": "The raw table in it."},
    }
    targets = {
        "type": "array",
        "minItems": 1,
        "items": {**_object({**names, **of_target}), "required": list(names)},
        "description": "Several targets instead of one; each may have keys of its own.",
    }
    return {**schema, "properties": {**schema["properties"], "targets": targets}}


def _by(what: str, schema: Document) -> Document:
    return {
        "type": "object",
        "description": f"By {what}.",
        "additionalProperties": _without_defs(schema),
        **_defs(schema),
    }


def _object(properties: Document) -> Document:
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _defs(schema: Document) -> Document:
    return {"$defs": schema["$defs"]} if "$defs" in schema else {}


def _without_defs(schema: Document) -> Document:
    return {key: value for key, value in schema.items() if key != "$defs"}


def _schema(shape: type) -> Document:
    """The JSON schema of a settings class, with what stands under its fields."""
    schema = TypeAdapter(shape).json_schema()
    described = {one.__name__: one for one in _CLASSES}
    for name, nested in [(shape.__name__, schema), *schema.get("$defs", {}).items()]:
        if name in described:
            for key, text in _field_texts(described[name]).items():
                nested["properties"][key]["description"] = text
    found: Document = _without_titles(schema)
    return found


def _without_titles(schema: Any) -> Any:
    """A schema without the titles pydantic makes of names: they say nothing."""
    if isinstance(schema, list):
        return [_without_titles(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: _without_titles(value)
        for key, value in schema.items()
        if key != "title" or not isinstance(value, str)
    }


def _field_texts(shape: type) -> dict[str, str]:
    """The string under each field of a settings class, by the field's name."""
    known = {item.name for item in fields(shape)}
    return {
        name: text
        for one in reversed(shape.__mro__[:-1])
        for name, text in _strings_under_fields(one)
        if name in known
    }


def _strings_under_fields(shape: type) -> Iterator[tuple[str, str]]:
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(shape))).body
    body = tree.body if isinstance(tree, ast.ClassDef) else []
    for assigned, below in pairwise(body):
        if not isinstance(assigned, ast.AnnAssign) or not isinstance(assigned.target, ast.Name):
            continue
        if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            yield assigned.target.id, " ".join(str(below.value.value).split())


if __name__ == "__main__":
    main()
