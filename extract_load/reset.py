"""Forgetting: watermarks and checkpoints, never a raw table."""

from collections.abc import Mapping
from secrets import token_hex
from typing import Any

from extract_load import checkpoints, lease, ledger
from extract_load.config import TableSettings
from extract_load.connection import Session
from extract_load.connection_parameters import ConnectionParameters
from extract_load.identifiers import TableName

WAIT_SECONDS = 10.0
"""For a run that writes the table: it would put back what is forgotten under it."""


def forget(parameters: ConnectionParameters, target: TableName) -> bool:
    """Returns whether there was a watermark to forget.

    Who created the raw table, its OID and its last publish stay in the ledger, so that the next
    run knows the table as its own.

    Raises:
        TargetError: If the target cannot be written.
        LeaseHeld: If a run writes the table.
    """
    run_id = f"reset-{token_hex(4)}"
    with Session(parameters, "target", lease.application_name(run_id)) as session:
        if not ledger.ledger_version(session):
            return False
        held = lease.acquire(session, target, run_id, WAIT_SECONDS)
        try:
            with session.transaction():
                lease.hold(session, held)
                checkpoints.forget(session, target)
                return ledger.forget_watermark(session, target)
        finally:
            lease.release(session, held)


def forget_all(
    tables: tuple[TableSettings, ...], connections: Mapping[str, ConnectionParameters]
) -> list[dict[str, Any]]:
    """Returns what was forgotten of each table, as the JSON of `reset` shows it."""
    return [
        {
            "target": table.target.written,
            "target_connection": table.target_connection,
            "forgotten": forget(connections[table.target_connection], table.target),
        }
        for table in tables
    ]


def forgotten_as_text(forgotten: list[dict[str, Any]]) -> str:
    """Returns the same for people, a line a table."""
    said = {True: "watermark forgotten", False: "nothing to forget"}
    return "\n".join(f"{row['target']}: {said[row['forgotten']]}" for row in forgotten)
