"""One source landed in three targets, as one run."""

from collections.abc import Mapping
from typing import Any

from extract_load.config import Settings
from tests.support.landing import SOURCE_ID, settings
from tests.support.servers import Database

TARGET_IDS = ("one", "two", "three")


def raw_table(target: str) -> str:
    """Returns the raw table of one of the targets."""
    return f"raw_data.items_{target}"


def three_targets(two: Mapping[str, Any] = {}, **table: Any) -> Settings:
    """Returns settings of `public.items` in three targets.

    Args:
        two: Keys of the second target alone.
        table: Keys of the table.
    """
    targets: list[dict[str, Any]] = [
        {"conn_id": target, "table": raw_table(target)} for target in TARGET_IDS
    ]
    targets[1].update(two)
    return settings({"source": "public.items", "targets": targets, **table})


def connection_variables(source: Database, targets: Mapping[str, Database]) -> dict[str, str]:
    """Returns the variables that name the source and the targets."""
    databases = {SOURCE_ID: source, **targets}
    return {f"AIRFLOW_CONN_{name.upper()}": where.uri for name, where in databases.items()}
