"""How the raw tables fare, for whoever watches them: last run, failures, freshness. Only reads."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from extract_load import ledger
from extract_load.ask import ask_ledgers
from extract_load.config import Settings, TableSettings
from extract_load.connection import Session
from extract_load.connection_parameters import Resolver
from extract_load.errors import ExtractLoadError, TargetError
from extract_load.sql import queries

_METRICS_VERSION = 2
"""The migration that brought the metrics."""

_Facts = dict[str, Any]


@dataclass(frozen=True)
class TableHealth:
    """One table on one target. A run that still goes on, or was killed, is none of its runs."""

    source: str
    target: str
    target_connection: str
    runs: int = 0
    """Finished ones, of the last so many."""
    error_count: int = 0
    success_rate: float | None = None
    """From 0 to 1; None without runs."""
    last_status: str | None = None
    """Of the last finished run, like the next three: `done` or `failed`."""
    seconds: float | None = None
    rows_per_second: float | None = None
    peak_rss_bytes: int | None = None
    published_at: str | None = None
    age_seconds: float | None = None
    """Since the last publish, by the target's clock; None when nothing was ever published."""
    last_error: Mapping[str, Any] | None = None
    """Of the newest failure among these runs: class, primary, detail, hint, retryable."""
    error: ExtractLoadError | None = None
    """Why the target could not be asked; nothing else is known then."""


def table_health(
    settings: Settings,
    environ: Mapping[str, str],
    over_last_runs: int,
    resolver: Resolver | None = None,
) -> tuple[TableHealth, ...]:
    """Returns how each enabled table fares on its target; a target that cannot be asked is told.

    Args:
        settings: The tables.
        environ: Where connections are looked up.
        over_last_runs: How many finished runs the rates are taken over.
        resolver: Asked first for connections.
    """
    tables = [table for table in settings.tables if table.enabled]

    def metrics(session: Session) -> dict[tuple[str, str], _Facts] | ExtractLoadError:
        conn_id = session.parameters.conn_id
        if ledger.ledger_version(session) < _METRICS_VERSION:
            return TargetError(
                f'the ledger in target "{conn_id}" has no metrics yet',
                "An earlier version of this program wrote it.",
                "The next run on this target updates it.",
            )
        names = [table.target.parts for table in tables if table.target_connection == conn_id]
        return _metrics(session, names, over_last_runs)

    answers = ask_ledgers((table.target_connection for table in tables), environ, resolver, metrics)
    return tuple(_health(table, answers[table.target_connection]) for table in tables)


def _health(
    table: TableSettings, answer: dict[tuple[str, str], _Facts] | ExtractLoadError | None
) -> TableHealth:
    names: _Facts = {
        "source": table.source.written,
        "target": table.target.written,
        "target_connection": table.target_connection,
    }
    if isinstance(answer, ExtractLoadError):
        return TableHealth(**names, error=answer)
    return TableHealth(**names, **(answer or {}).get(table.target.parts, {}))


def _metrics(
    session: Session, names: list[tuple[str, str]], over_last_runs: int
) -> dict[tuple[str, str], _Facts]:
    rows = session.execute(
        queries("ledger")["table_health"],
        {
            "schemas": [schema for schema, _ in names],
            "tables": [table for _, table in names],
            "over_last_runs": over_last_runs,
        },
        doing="read the ledger's metrics",
    )
    columns = (
        "runs",
        "error_count",
        "success_rate",
        "last_status",
        "seconds",
        "rows_per_second",
        "peak_rss_bytes",
        "published_at",
        "age_seconds",
        "last_error",
    )
    return {(row[0], row[1]): dict(zip(columns, row[2:], strict=True)) for row in rows}
