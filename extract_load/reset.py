"""Forgetting: watermarks and checkpoints, never a raw table."""

from secrets import token_hex

from extract_load import checkpoints, lease, ledger
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
