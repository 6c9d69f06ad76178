"""Lands tables of a PostgreSQL application database in a PostgreSQL warehouse.

Names are imported when first used: `extract-load --help` and the parsing of a DAG file pay for
nothing they do not need.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from extract_load.config import RunSettings, Settings, SizeDefaults, SyncMode, TableSettings
    from extract_load.connection import check_connection
    from extract_load.connection_parameters import (
        ConnectionParameters,
        Resolver,
        connection_from_airflow,
        resolve_connection,
    )
    from extract_load.dbt_sources import (
        dbt_project_document,
        load_dbt_project,
        settings_from_manifest,
    )
    from extract_load.errors import ConfigError, ExtractLoadError, Problem
    from extract_load.health import TableHealth, table_health
    from extract_load.identifiers import TableName, parse_table_name
    from extract_load.landing import LandingOptions
    from extract_load.log import message_and_facts
    from extract_load.progress import progress_lines
    from extract_load.published import already_published
    from extract_load.report import RunReport, TableResult
    from extract_load.runner import RunOptions, run
    from extract_load.settings_file import (
        load_settings_file,
        problems_of,
        read_yaml,
        settings_from_document,
    )

__version__ = "0.1.0"

__all__ = [
    "ConfigError",
    "ConnectionParameters",
    "ExtractLoadError",
    "LandingOptions",
    "Problem",
    "Resolver",
    "RunOptions",
    "RunReport",
    "RunSettings",
    "Settings",
    "SizeDefaults",
    "SyncMode",
    "TableHealth",
    "TableName",
    "TableResult",
    "TableSettings",
    "already_published",
    "check_connection",
    "connection_from_airflow",
    "dbt_project_document",
    "load_dbt_project",
    "load_settings_file",
    "message_and_facts",
    "parse_table_name",
    "problems_of",
    "progress_lines",
    "read_yaml",
    "resolve_connection",
    "run",
    "settings_from_document",
    "settings_from_manifest",
    "table_health",
]

_HOMES = {
    "config": ("RunSettings", "Settings", "SizeDefaults", "SyncMode", "TableSettings"),
    "connection": ("check_connection",),
    "connection_parameters": (
        "ConnectionParameters",
        "Resolver",
        "connection_from_airflow",
        "resolve_connection",
    ),
    "dbt_sources": ("dbt_project_document", "load_dbt_project", "settings_from_manifest"),
    "errors": ("ConfigError", "ExtractLoadError", "Problem"),
    "health": ("TableHealth", "table_health"),
    "identifiers": ("TableName", "parse_table_name"),
    "landing": ("LandingOptions",),
    "log": ("message_and_facts",),
    "progress": ("progress_lines",),
    "published": ("already_published",),
    "report": ("RunReport", "TableResult"),
    "runner": ("RunOptions", "run"),
    "settings_file": (
        "load_settings_file",
        "problems_of",
        "read_yaml",
        "settings_from_document",
    ),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Returns a public name, importing its module."""
    if name not in _HOME_OF:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
