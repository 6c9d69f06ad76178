"""Altering a raw table: in moments so short that its readers do not notice, or not at all."""

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from psycopg2 import sql

from extract_load import lease, ledger, log
from extract_load.connection import Session
from extract_load.ddl import Ddl
from extract_load.errors import (
    ExtractLoadError,
    LeaseHeld,
    SchemaMismatch,
    TargetError,
    TargetUnavailable,
)
from extract_load.load import Load
from extract_load.raw_table import lock_holders_said
from extract_load.retry import LOCK_NOT_AVAILABLE
from extract_load.schema_change import plan_schema_change
from extract_load.schema_difference import Sides
from extract_load.table_plan import TablePlan, TargetState

LOCK_TIMEOUT_MS = 100
"""How long the lock is waited for at a time: new readers queue behind the one who waits."""
LOCK_LIMIT_SECONDS = 30.0
_PAUSE_SECONDS = (0.1, 0.5)
"""Between two times, at random: readers that queued go first."""

_NO_CAST = ("22", "42846")
"""SQLSTATEs: a value, or a whole type, that has no form in another type."""

logger = log.get_logger(__name__)


def evolve(session: Session, load: Load, look: Callable[[], TargetState]) -> None:
    """Alters the raw table as planned, in one transaction of its own, before rows are read.

    Where rows have to be read again for it, the transaction forgets what the watermark was saved
    for: a run that ends before its publish leaves a baseline to the next.

    Args:
        session: To the target.
        load: The table.
        look: Reads the target's state in the session's transaction.

    Raises:
        TargetUnavailable: If no moment without other sessions came within 30 seconds, or somebody
            else altered the table since the plan.
        SchemaMismatch: If values that are there have no form in a column's new type.
        LeaseHeld: If another run took the lease over.
    """
    change = load.plan.schema_change
    if not change.before:
        return
    # In one piece: the exclusive lock lasts one round trip and the COMMIT.
    statements = sql.SQL("; ").join(ddl.statement for ddl in change.before)

    def alter() -> None:
        _require_planned(load.plan, look())
        if change.baseline_reason is not None:
            ledger.forget_fingerprint(session, load.target)
        session.execute(statements, doing=f"alter {load.target.said}")

    try:
        _in_a_moment(session, load, alter)
    except TargetError as error:
        if (error.sqlstate or "").startswith(_NO_CAST):
            raise _not_castable(load.plan, error) from error
        raise
    _tell(change.before)


def follow_up(session: Session, load: Load) -> None:
    """Alters what only published rows allow, each thing by itself.

    The rows are published: what cannot be done is told, and planned again by the next run.
    """
    for ddl in load.plan.schema_change.after:
        alter = partial(session.execute, ddl.statement, doing=ddl.said)
        try:
            _in_a_moment(session, load, alter)
        except (TargetError, LeaseHeld) as error:
            logger.warning("not altered", extra={"ddl": ddl.said, "why": error.detail})
        else:
            _tell((ddl,))


def _require_planned(plan: TablePlan, now: TargetState) -> None:
    """Refuses to go on where the table is no longer what the statements were planned for."""
    was = plan.target.raw
    is_same = was is not None and now.raw is not None and was.oid == now.raw.oid
    if is_same:
        sides = Sides(
            plan.settings,
            plan.contract,
            plan.key,
            plan.source,
            replace(now, watermark=plan.target.watermark),
        )
        planned = plan.schema_change
        again = plan_schema_change(sides, allow_rewrite=planned.may_rewrite)
        is_same = again.statements == planned.statements
    if not is_same:
        raise TargetUnavailable(
            f'{plan.settings.target.said} in target "{plan.settings.target_connection}" '
            "was altered during the run",
            "It is not what the plan was made for. Nothing was changed.",
            "Run again: it looks anew.",
        )


def _not_castable(plan: TablePlan, error: TargetError) -> SchemaMismatch:
    altered = "; ".join(ddl.said for ddl in plan.schema_change.before)
    return SchemaMismatch(
        f'{plan.settings.target.said} in target "{plan.settings.target_connection}" holds values '
        "that no cast brings into their column's new type",
        f"{error.detail}. In: {altered}. Nothing was changed.",
        "Drop that column from the raw table and run again: it is added at the end, and filled "
        "from the source.",
    )


def _in_a_moment(session: Session, load: Load, alter: Callable[[], object]) -> None:
    """Does something in a transaction that keeps other DDL out; readers wait for its own only."""
    target, started = load.target, time.monotonic()

    def once() -> None:
        with session.transaction(settings={"lock_timeout": f"{LOCK_TIMEOUT_MS}ms"}):
            lease.hold(session, load.lease)
            session.execute(
                sql.SQL("LOCK TABLE {} IN SHARE UPDATE EXCLUSIVE MODE").format(target.sql),
                doing=f"lock {target.said}",
            )
            alter()

    def is_busy(exc: BaseException) -> bool:
        return isinstance(exc, ExtractLoadError) and exc.sqlstate == LOCK_NOT_AVAILABLE

    from tenacity import (  # noqa: PLC0415 - it brings asyncio along, and is hardly ever needed
        Retrying,
        retry_if_exception,
        stop_after_delay,
        wait_random,
    )

    moments = Retrying(
        stop=stop_after_delay(LOCK_LIMIT_SECONDS),
        wait=wait_random(*_PAUSE_SECONDS),
        retry=retry_if_exception(is_busy),
        reraise=True,
    )
    try:
        moments(once)
    except TargetUnavailable as error:
        if not is_busy(error):
            raise
        tries = moments.statistics["attempt_number"]
        raise _busy(session, load, tries, time.monotonic() - started) from error


def _busy(session: Session, load: Load, tries: int, seconds: float) -> TargetUnavailable:
    error = TargetUnavailable(
        f'"{load.target}" in target "{session.parameters.conn_id}" was never free to be altered',
        f"It was asked for {tries} times within {seconds:.0f} s, {LOCK_TIMEOUT_MS} ms each, since "
        f"readers queue behind. {lock_holders_said(session, load.target)} Nothing was changed.",
        "Run again when these sessions have ended.",
    )
    error.sqlstate = LOCK_NOT_AVAILABLE
    return error


def _tell(altered: tuple[Ddl, ...]) -> None:
    for ddl in altered:
        logger.info("altered", extra={"ddl": ddl.said})
