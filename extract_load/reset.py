"""Forgetting: watermarks and checkpoints, never a raw table."""

from extract_load import ledger
from extract_load.connection import Session
from extract_load.connection_parameters import ConnectionParameters
from extract_load.identifiers import TableName


def forget(parameters: ConnectionParameters, target: TableName) -> bool:
    """Returns whether there was a watermark to forget.

    Who created the raw table, its OID and its last publish stay in the ledger, so that the next
    run knows the table as its own.

    Raises:
        TargetError: If the target cannot be written.
    """
    with Session(parameters, "target") as session, session.transaction():
        if not ledger.ledger_version(session):
            return False
        ledger.forget_checkpoints(session, target)
        return ledger.forget_watermark(session, target)
