"""What dead runs left and nobody came back for, and runs that the ledger need not keep."""

from datetime import timedelta

from psycopg2 import sql

from extract_load import checkpoints, lease, log
from extract_load.connection import Session
from extract_load.errors import ExtractLoadError, LeaseHeld
from extract_load.identifiers import TableName
from extract_load.ledger import scratch_tables
from extract_load.sql import queries

ABANDONED_AFTER = timedelta(days=3)
"""What a table's last run left is kept so long for the next one to go on from."""

logger = log.get_logger(__name__)


def collect(session: Session, run_id: str, retention: timedelta) -> None:
    """Drops what was abandoned in a target, and forgets runs older than the ledger is to keep.

    Args:
        session: To the target.
        run_id: The run that collects.
        retention: How long runs stay in the ledger.
    """
    seconds = {"seconds": ABANDONED_AFTER.total_seconds()}
    with session.transaction(doing="look for what dead runs left"):
        found = session.execute(queries("ledger")["abandoned"], seconds)
        old = {"seconds": retention.total_seconds()}
        forgotten = session.change(queries("ledger")["forget_old_runs"], old)
    if forgotten:
        logger.info("runs forgotten", extra={"runs": forgotten, "older_than": str(retention)})
    for schema, table, scratch in found:
        target = TableName(schema, table)
        try:
            _drop(session, run_id, target, scratch)
        except ExtractLoadError as error:  # the next run finds it again
            told = {"table": target.written, "why": error.detail}
            logger.warning("not collected", extra=told)


def _drop(session: Session, run_id: str, target: TableName, scratch: str) -> None:
    """Drops one table's leavings, under its lease: a run that begins just now keeps them."""
    try:
        held = lease.acquire(session, target, run_id, 0)
    except LeaseHeld as error:
        logger.debug("not abandoned", extra={"why": error.detail})
        return
    try:
        with session.transaction(doing="drop what a dead run left"):
            lease.hold(session, held)
            for place in scratch_tables(target, scratch):
                session.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(place.sql))
            checkpoints.forget(session, target)
    finally:
        lease.release(session, held)
    logger.info("collected what a dead run left", extra={"table": target.written})
