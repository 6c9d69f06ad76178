"""Fixtures: the project's manifest, and warehouses with dbt over them."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.dbt.warehouse import NOWHERE, Dbt, Outcome, Warehouse, load
from tests.support.servers import Database


@pytest.fixture(scope="session")
def parsed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Outcome, dict[str, Any]]:
    """What dbt said when it parsed the project, and the manifest it wrote."""
    dbt = Dbt(NOWHERE, tmp_path_factory.mktemp("parsed"))
    outcome = dbt("parse", "--no-partial-parse", "--show-all-deprecations")
    assert outcome.succeeded, outcome.errors
    return outcome, json.loads((dbt.directory / "target" / "manifest.json").read_text())


@pytest.fixture(scope="session")
def manifest(parsed: tuple[Outcome, dict[str, Any]]) -> dict[str, Any]:
    return parsed[1]


@pytest.fixture
def warehouse(target: Database) -> Warehouse:
    return load(target)


@pytest.fixture
def dbt(target: Database, tmp_path: Path) -> Dbt:
    return Dbt(target, tmp_path)
