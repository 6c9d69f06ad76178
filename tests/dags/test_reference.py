"""The reference: schemas made from the settings classes, and a page whose examples work."""

import json
import re
from typing import Any

import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

from common.declarations import read_declarations
from common.reference import REFERENCE, files
from common.variable_setup import problems_of_variables
from common.variable_shapes import VARIABLES
from common.variables import Variables
from extract_load import read_yaml
from tests.dags.airflow_home import DAG_ID, ROOT

PAGE = (REFERENCE / "variables.md").read_text(encoding="utf-8")
EXAMPLES = [
    (section[1], json.loads(example))
    for section in re.finditer(r"^## `(\w+)`\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    for example in re.findall(r"```json\n(.*?)```", section[2], re.DOTALL)
]


def errors(name: str, document: Any) -> list[str]:
    schema = json.loads((REFERENCE / f"{name}.schema.json").read_text(encoding="utf-8"))
    Draft202012Validator.check_schema(schema)
    return [error.message for error in Draft202012Validator(schema).iter_errors(document)]


def test_the_schemas_are_fresh() -> None:
    """Else: make docs-reference."""
    found = {path.name: path.read_text(encoding="utf-8") for path in REFERENCE.glob("*.json")}
    assert found == files()
    assert {f"{name}.schema.json" for name in VARIABLES} <= set(found)


def test_every_key_is_described() -> None:
    def without_text(schema: Any, place: str) -> list[str]:
        if isinstance(schema, list):
            return [one for item in schema for one in without_text(item, place)]
        if not isinstance(schema, dict):
            return []
        properties = schema.get("properties", {})
        missing = [
            f"{place}.{key}"
            for key, value in properties.items()
            if "description" not in value and value.get("type") != "object" and key != "tables"
        ]
        below = [one for key, value in schema.items() for one in without_text(value, place)]
        return missing + below

    for name, text in files().items():
        assert without_text(json.loads(text), name) == []


def test_what_the_repository_declares_fits_the_schemas() -> None:
    for name, document in read_declarations({}).documents().items():
        assert errors(name, document) == [], name


def test_the_sample_project_fits_the_schema_of_its_meta() -> None:
    path = ROOT / "dbt_project/models/staging/digitalocean/_digitalocean__sources.yml"
    for source in read_yaml(path)["sources"]:
        assert errors("dbt_source_meta", source["config"]["meta"]) == []
        for table in source["tables"]:
            assert errors("dbt_source_meta", table["config"]["meta"]) == []


@pytest.mark.parametrize(
    ("name", "document"),
    [
        ("table_configs", {DAG_ID: [{"source": "public.a", "sync_mode": "full"}]}),
        ("table_configs", {DAG_ID: [{"batch_size": 5}]}),
        ("table_configs", {DAG_ID: [{"source": "public.a", "targets": [{"conn_id": "x"}]}]}),
        ("connection_configs", {"a": {"password": "x"}}),
        ("chunk_mode_configs", {"tiny": {}}),
        ("execution_monitoring_configs", {"dags": {DAG_ID: {"emial": "x"}}}),
        ("dag_configs", {DAG_ID: {"tables_in_parallel": 0}}),
        ("dbt_configs", {"threads": "many"}),
        ("settings_file", {"tables": []}),
        ("dbt_source_meta", {"extract_load": {"sync_mod": "full_sync"}}),
    ],
)
def test_a_schema_finds_what_is_wrong(name: str, document: Any) -> None:
    assert errors(name, document) != []


def test_every_variable_has_an_example() -> None:
    assert {name for name, _ in EXAMPLES} == set(VARIABLES)


@pytest.mark.parametrize(("name", "example"), EXAMPLES)
def test_the_examples_of_the_page_work(name: str, example: Any) -> None:
    assert errors(name, example) == []
    assert problems_of_variables(read_declarations({}), Variables({name: example}, {})) == []
