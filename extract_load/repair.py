"""The closing pass: chunks of several snapshots become one.

Rows whose xmin no snapshot of a kept chunk had seen ended are read again, and replace what was
loaded of their keys; keys that are gone by then are deleted. The window begins at the **xmin** of
the oldest snapshot: from its xmax on, rows of transactions that it saw running would be lost.
What is below the window stood at one place in all of the snapshots, and was read once.

Everything is one transaction of the target, with the checkpoints: a run that is killed here has
repaired nothing, or all.
"""

from collections.abc import Sequence

from psycopg2 import sql

from extract_load import checkpoints, lease, log
from extract_load.catalog import Leaf
from extract_load.checkpoints import NO_PART, REPAIR_CHUNK, Checkpoint
from extract_load.connection import NOT_DURABLE, Session
from extract_load.difference import same_key
from extract_load.errors import TargetUnavailable, VerificationFailed
from extract_load.extract import copy_keys_query, copy_leaf_query, count_leaf
from extract_load.identifiers import columns_sql
from extract_load.load import (
    Load,
    analyze,
    copy_in_keys,
    copy_in_query,
    copy_into,
    count_scratch,
    create_keys,
)
from extract_load.snapshot import SourceSnapshot
from extract_load.stream_watch import NOTHING_COPIED, CopyStats
from extract_load.watermark import xmin_predicate

logger = log.get_logger(__name__)


def repair(
    session: Session, source: SourceSnapshot, load: Load, kept: Sequence[Checkpoint]
) -> CopyStats:
    """Brings every chunk of a table to the snapshot of this run.

    Args:
        session: To the target.
        source: The snapshot all of them are to show.
        load: The table; all its chunks are loaded, its scratch table has no key yet.
        kept: The chunks that were there when this run began to load.

    Returns:
        What was read for landing.

    Raises:
        TargetUnavailable: If the rows do not add up afterwards: nothing counts any more then, and
            the next pass starts over.
    """
    try:
        return _repaired(session, source, load, kept)
    except VerificationFailed as error:
        with session.transaction():
            lease.hold(session, load.lease)
            checkpoints.forget(session, load.target)
        raise TargetUnavailable(error.primary, error.detail, error.hint) from error


def _repaired(
    session: Session, source: SourceSnapshot, load: Load, kept: Sequence[Checkpoint]
) -> CopyStats:
    plan = load.plan
    oldest = min(each.snapshot.xmin for each in kept)
    window = xmin_predicate(oldest, plan.cut.xmax, plan.cut.version)
    with session.transaction(settings=NOT_DURABLE, doing="commit a repair"):
        lease.hold(session, load.lease)
        load.checkpoints.delete(session, [REPAIR_CHUNK])
        stats = _replace_changed(session, source, load, window)
        expected = sum(
            count_leaf(source, plan, leaf, _expected(load, leaf, window))
            for leaf in plan.source.leaves
        )
        gone = _delete_gone(session, source, load, window, expected)
        _require_rows(session, load, expected)
        load.checkpoints.move_here(session)
        _write_correction(session, load, expected)
    logger.info("repaired", extra={"rows": stats.rows, "gone": gone, "bytes": stats.bytes})
    return stats


def _expected(load: Load, leaf: Leaf, window: sql.Composable) -> sql.Composable:
    """The condition for a row of a leaf to stand in scratch."""
    plan = load.plan
    if plan.is_baseline or leaf.oid in load.whole_leaves:
        return plan.belongs
    return sql.SQL("({} OR ({} AND {}))").format(plan.predicate, window, plan.belongs)


def _replace_changed(
    session: Session, source: SourceSnapshot, load: Load, window: sql.Composable
) -> CopyStats:
    """Puts the window's rows in the place of what was loaded of their keys."""
    plan, beside = load.plan, load.changed
    session.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(beside.sql))
    session.execute(
        sql.SQL("CREATE UNLOGGED TABLE {} (LIKE {})").format(beside.sql, plan.scratch.sql)
    )
    stats = NOTHING_COPIED
    for leaf in plan.source.leaves:
        stats += copy_into(
            session,
            source,
            leaf,
            copy_leaf_query(plan, leaf, window),
            copy_in_query(plan, beside),
            f"copy what changed in {leaf.name.said}",
        )
    analyze(session, plan, beside)
    session.execute(
        sql.SQL("DELETE FROM {} AS t USING {} AS s WHERE {}").format(
            plan.scratch.sql, beside.sql, same_key(plan, "t", "s")
        )
    )
    names = columns_sql(plan.contract.names)
    session.execute(
        sql.SQL("INSERT INTO {} ({}) SELECT {} FROM {}").format(
            plan.scratch.sql, names, names, beside.sql
        )
    )
    session.execute(sql.SQL("DROP TABLE {}").format(beside.sql))
    return stats


def _delete_gone(
    session: Session,
    source: SourceSnapshot,
    load: Load,
    window: sql.Composable,
    expected: int,
) -> int:
    """Deletes what was loaded and is no longer there; returns how many rows.

    Scratch holds all that it should by now, so equal counts prove that it holds nothing else.
    """
    plan = load.plan
    if count_scratch(session, plan) == expected:
        return 0
    create_keys(session, load)
    for leaf in plan.source.leaves:
        copy_into(
            session,
            source,
            leaf,
            copy_keys_query(plan, leaf, _expected(load, leaf, window)),
            copy_in_keys(load),
            f"compare the keys of {plan.settings.source.said}",
        )
    session.execute(sql.SQL("ANALYZE {}").format(load.keys.sql))
    gone = session.change(
        sql.SQL("DELETE FROM {} AS t WHERE NOT EXISTS (SELECT FROM {} AS s WHERE {})").format(
            plan.scratch.sql, load.keys.sql, same_key(plan, "t", "s")
        )
    )
    session.execute(sql.SQL("DROP TABLE {}").format(load.keys.sql))
    return gone


def _require_rows(session: Session, load: Load, expected: int) -> None:
    found = count_scratch(session, load.plan)
    if found == expected:
        return
    raise VerificationFailed(
        f"{load.plan.settings.source.said} could not be brought to one snapshot",
        f"The source has {expected} rows, {found} stand in scratch after the repair. "
        "Nothing was published.",
        "It starts over, with this run or the next. If it happens again, please report it.",
    )


def _write_correction(session: Session, load: Load, rows: int) -> None:
    """Writes how many rows the repair added to those of the chunks, or took away."""
    loaded = sum(each.rows for each in load.checkpoints.read(session))
    load.checkpoints.claim(session, REPAIR_CHUNK, NO_PART, "what changed between the snapshots")
    load.checkpoints.complete(session, REPAIR_CHUNK, rows=rows - loaded, bytes_=0)
