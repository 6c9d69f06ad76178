"""What the ledger of a target says of the tables: freshness, watermarks, open work, leases."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from extract_load import ledger
from extract_load.config import TableSettings
from extract_load.connection import Session
from extract_load.connection_parameters import ConnectionParameters
from extract_load.errors import ExtractLoadError
from extract_load.sql import queries


@dataclass(frozen=True)
class TableStatus:
    """One raw table, or one that is to become one."""

    source: str
    target: str
    target_connection: str
    sync_mode: str | None
    managed: bool
    """Whether the settings still name it."""
    last_status: str | None = None
    last_run_id: str | None = None
    last_started_at: str | None = None
    published_at: str | None = None
    age_seconds: float | None = None
    watermark: str | None = None
    open_chunks: int = 0
    lease_run_id: str | None = None
    error: str | None = None
    unasked: ExtractLoadError | None = None
    """Why the target could not be asked: what it would say of the table is not known then."""

    @property
    def shown_status(self) -> str | None:
        """How the last run ended; of a target that was not asked, `unreachable` or `refused`."""
        if self.unasked is None:
            return self.last_status
        return "unreachable" if self.unasked.retryable else "refused"

    def as_dict(self) -> dict[str, Any]:
        """Returns the table's part of the JSON of `status`."""
        shown = {key: value for key, value in vars(self).items() if key != "unasked"}
        if self.unasked is not None:
            shown |= {"last_status": self.shown_status, "error": self.unasked.primary}
            shown["open_chunks"] = None
        return shown


def read_statuses(
    tables: tuple[TableSettings, ...],
    declared: tuple[TableSettings, ...],
    connections: Mapping[str, ConnectionParameters],
) -> tuple[TableStatus, ...]:
    """Returns the state of the selected tables, then of raw tables that no settings name.

    Args:
        tables: Those selected. With a selection, unmanaged raw tables are not shown.
        declared: All tables of the settings.
        connections: By connection id. The tables of a target that cannot be asked say why.
    """
    return tuple(
        status
        for conn_id in dict.fromkeys(table.target_connection for table in tables)
        for status in _of_target(
            connections[conn_id], [t for t in tables if t.target_connection == conn_id]
        )
        if status.managed or tables == declared
    )


def _of_target(parameters: ConnectionParameters, tables: list[TableSettings]) -> list[TableStatus]:
    known: dict[tuple[str, str], tuple[str, dict[str, Any]]] = {}
    unasked = None
    try:
        with Session(parameters, "target") as session, session.transaction():
            known = _known(session)
    except ExtractLoadError as error:
        unasked = error
    managed = [
        TableStatus(
            source=table.source.written,
            target=table.target.written,
            target_connection=parameters.conn_id,
            sync_mode=table.sync_mode.value,
            managed=True,
            unasked=unasked,
            **known.pop(table.target.parts, (None, {}))[1],
        )
        for table in tables
    ]
    unmanaged = [
        TableStatus(
            source=source,
            target=".".join(parts),
            target_connection=parameters.conn_id,
            sync_mode=None,
            managed=False,
            **facts,
        )
        for parts, (source, facts) in known.items()
    ]
    return managed + unmanaged


def _known(session: Session) -> dict[tuple[str, str], tuple[str, dict[str, Any]]]:
    """By raw table: its source, and what the ledger says."""
    if not ledger.ledger_version(session):
        return {}
    rows = session.execute(queries("ledger")["status"], doing="read the ledger")
    names = (
        "last_status",
        "last_run_id",
        "last_started_at",
        "published_at",
        "age_seconds",
        "watermark",
        "open_chunks",
        "lease_run_id",
        "error",
    )
    return {(row[0], row[1]): (row[2], dict(zip(names, row[3:], strict=True))) for row in rows}
