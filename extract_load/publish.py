"""One transaction that makes a snapshot visible: checks, rows and watermark, or nothing.

It trusts nothing a process remembers: checkpoints, counts and the lease are read in the
transaction itself. No ON CONFLICT and no MERGE: equal rows are not touched, so that they keep
their `_loaded_at` and cost no WAL.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from psycopg2 import sql

from extract_load import lease, ledger
from extract_load.apply import Applied, apply_difference
from extract_load.checkpoints import Checkpoint
from extract_load.config import Deletes, SyncMode
from extract_load.connection import Session
from extract_load.cursor import cursor_of
from extract_load.deletes import Counted, SourceFacts, count_live, require_nothing_gone
from extract_load.errors import RawTableTouched, TargetError, TargetUnavailable, VerificationFailed
from extract_load.first_load import name_first_load
from extract_load.load import Load, count_scratch, drop_scratch
from extract_load.modes import MODES
from extract_load.raw_mark import RawRows, read_rows, rows_of_chunks, why_touched
from extract_load.raw_table import read_foreign_keys, read_own_facts
from extract_load.resume import uncovered_leaves
from extract_load.table_plan import Publish, TablePlan
from extract_load.type_contract import LOADED_AT
from extract_load.watermark import RawMark


@dataclass(frozen=True)
class Publication:
    """What a publish changed."""

    published_at: str
    loaded_at: str
    rows_inserted: int = 0
    rows_updated: int = 0
    rows_deleted: int = 0
    rows_unchanged: int = 0
    rows_late: int = 0


def publish(
    session: Session,
    load: Load,
    facts: SourceFacts,
    *,
    allow_deletes: bool = False,
    prove: Callable[[Session], None] | None = None,
) -> Publication:
    """Publishes what is loaded, with its watermark, in the caller's transaction.

    Args:
        session: To the target, in a transaction that is `WRITE_CONSISTENT`.
        load: The table; its scratch table is dropped in the same transaction.
        facts: What the snapshot holds.
        allow_deletes: Whether the guards are off.
        prove: Raises where the raw table, as it would be published, is not what it should be.

    Raises:
        KeysNeeded: If counts were to prove that nothing is gone, and do not; no row is changed.
        VerificationFailed: If counts do not add up, or `prove` finds rows that differ.
        GuardTripped, LeaseHeld: If too much would be deleted; if another run took the lease over.
        RawTableTouched: If the delta relies on the raw table's mark, and somebody wrote into it.
        TargetError: If the raw table, an index or a foreign key of somebody else's is in the way.
        TargetUnavailable: If others changed the same rows, or the target lost chunks in a crash.
    """
    plan = load.plan
    _lock_raw_table(session, plan)
    lease.hold(session, load.lease)
    _require_same_table(session, plan)
    before = _read_marked_rows(session, plan)
    chunks = load.checkpoints.read(session)
    scratch_rows = _verified_scratch_rows(session, load, chunks, facts)
    loaded_at = _loaded_at(session, plan)
    cursor_value = _cursor_value(session, plan)  # before a first load is given its name
    counted = _counted(session, plan, facts, scratch_rows, before)
    if plan.publish is Publish.FIRST_LOAD:
        applied = Applied(inserted=scratch_rows)
        name_first_load(session, plan, loaded_at)
    else:
        applied = apply_difference(
            session, plan, loaded_at, facts, counted, allow_deletes=allow_deletes
        )
    after = _read_rows_after(session, plan, chunks, applied, before)
    if plan.verifies_counts and plan.deletes is not Deletes.IGNORE:
        _verify_live_rows(plan, facts, _live_rows(session, plan, after, counted, applied))
    if prove is not None:
        prove(session)
    mark = after.mark() if after is not None and not _is_altered_by_others(session, plan) else None
    _write_watermark(session, load, loaded_at, cursor_value, mark)
    drop_scratch(session, load)
    published_at = session.execute("SELECT clock_timestamp()::text")[0][0]
    return Publication(
        published_at=published_at,
        loaded_at=loaded_at,
        rows_inserted=applied.inserted,
        rows_updated=applied.updated,
        rows_deleted=applied.deleted,
        rows_unchanged=scratch_rows - applied.inserted - applied.updated,
        rows_late=applied.late,
    )


# ---------------------------------------------------------------- checks


def _lock_raw_table(session: Session, plan: TablePlan) -> None:
    """Keeps others from rewriting the raw table; the transaction's snapshot is taken after it.

    A snapshot from before a rewrite that we waited for would show an empty table (manual, 13.6),
    and every row would be inserted once more.
    """
    target = plan.settings.target
    if plan.target.raw is not None:
        session.execute(
            sql.SQL("LOCK TABLE {} IN ROW EXCLUSIVE MODE").format(target.sql),
            doing=f"lock {target.said} against DDL",
        )


def _require_same_table(session: Session, plan: TablePlan) -> None:
    """The raw table of the plan."""
    if plan.target.raw is None:
        return
    target = plan.settings.target
    oid = session.execute("SELECT to_regclass(%(name)s)::oid::bigint", {"name": target.regclass})
    if oid[0][0] != plan.target.raw.oid:
        raise TargetError(
            f'{target.said} in target "{session.parameters.conn_id}" was replaced during the run',
            f"Its OID was {plan.target.raw.oid} and is {oid[0][0]}. Nothing was published.",
            'Find out who replaced it; "adopt: true" lands in the table that is there now.',
        )


def _verified_scratch_rows(
    session: Session, load: Load, found: Sequence[Checkpoint], facts: SourceFacts
) -> int:
    """Rows in scratch, proved to be those of every planned chunk."""
    plan = load.plan
    uncovered = uncovered_leaves(plan, found)
    if uncovered:
        raise TargetUnavailable(
            f"chunks of {plan.settings.source.said} are not in target "
            f'"{plan.settings.target_connection}" any more',
            f'Those of "{uncovered[0].name}" do not cover it, as after a crash of the target, '
            "which empties unlogged tables. Nothing was published.",
            "Run again: it reads them again.",
        )
    if any(each.snapshot.id != load.snapshot.id for each in found):
        raise _failed(plan, "chunks of another snapshot were not repaired")
    copied = sum(checkpoint.rows for checkpoint in found)
    scratch_rows = count_scratch(session, plan)
    if plan.verifies_counts and scratch_rows != copied:
        raise _failed(
            plan, f"the scratch table has {scratch_rows} rows, its chunks brought {copied}"
        )
    if plan.verifies_counts and plan.is_baseline and facts.rows != scratch_rows:
        raise _failed(plan, f"the snapshot has {facts.rows} rows, {scratch_rows} arrived")
    return scratch_rows


def _hold_all_rows(plan: TablePlan, chunks: Sequence[Checkpoint]) -> bool:
    """Whether the chunks say who wrote each row: none was repaired, and counts were compared."""
    return plan.keeps_mark and plan.verifies_counts and all(each.chunk >= 0 for each in chunks)


def _read_marked_rows(
    session: Session, plan: TablePlan, *, is_applied: bool = False
) -> RawRows | None:
    """The raw table's rows, where the next run may rely on them; proved untouched where this does.

    Args:
        session: In the publishing transaction.
        plan: The table's.
        is_applied: Whether the difference is; before, only a run that relies on the rows asks.
    """
    if not plan.keeps_mark or not (is_applied or plan.relies_on_mark):
        return None
    rows = read_rows(session, plan)
    mark = plan.target.watermark.raw_mark if plan.target.watermark else None
    if is_applied or mark is None:
        return rows
    touched = why_touched(mark, rows)
    if touched is not None:
        raise RawTableTouched(
            f"somebody wrote into {plan.settings.target.said} since its last publish",
            f"{touched[0].upper()}{touched[1:]}.",
            "The next pass reads every row.",
        )
    return rows


def _read_rows_after(
    session: Session,
    plan: TablePlan,
    chunks: Sequence[Checkpoint],
    applied: Applied,
    before: RawRows | None,
) -> RawRows | None:
    """The rows as they are published, counted again only where they are not known by now."""
    if plan.publish is Publish.FIRST_LOAD and _hold_all_rows(plan, chunks):
        return rows_of_chunks(session, plan, chunks)
    if before is None or applied != Applied():
        return _read_marked_rows(session, plan, is_applied=True)
    return before


def _is_altered_by_others(session: Session, plan: TablePlan) -> bool:
    """Whether what this transaction wrote may have been altered in it, as by a trigger."""
    target = plan.settings.target
    oid = session.execute("SELECT to_regclass(%(name)s)::oid::bigint", {"name": target.regclass})
    return read_own_facts(session, target, oid[0][0]).alter_rows


def _counted(
    session: Session,
    plan: TablePlan,
    facts: SourceFacts,
    scratch_rows: int,
    before: RawRows | None,
) -> Counted:
    """What is known before a row is changed; where counts are to prove it, that nothing is gone."""
    counted = Counted(scratch_rows, before.live if before else None)
    if not facts.evidence.is_by_count:
        return counted
    return require_nothing_gone(session, plan, facts.rows, counted)


def _live_rows(
    session: Session,
    plan: TablePlan,
    after: RawRows | None,
    counted: Counted,
    applied: Applied,
) -> int:
    """How many rows of the raw table are not soft-deleted, as it is published.

    This transaction sees one snapshot and its own changes: what it counted, with the rows that the
    server says it inserted, is what it would count again; unless it deleted some, a tombstone came
    back to life, or triggers changed rows too: its own, or those of a table that refers to it.
    """
    if after is not None:
        return after.live
    if (
        counted.live is None
        or applied.deleted
        or plan.has_tombstones
        or _is_altered_by_others(session, plan)
        or read_foreign_keys(session, plan.settings.target)
    ):
        return count_live(session, plan)
    return counted.live + applied.inserted


def _verify_live_rows(plan: TablePlan, facts: SourceFacts, live: int) -> None:
    if live != facts.rows:
        raise _failed(
            plan,
            f"the source snapshot has {facts.rows} rows, "
            f"{plan.settings.target.said} would have {live} (deletes: {plan.deletes})",
        )


def _failed(plan: TablePlan, what: str) -> VerificationFailed:
    name, conn_id = plan.settings.source, plan.settings.target_connection
    return VerificationFailed(
        f'verification of {name.said} on target "{conn_id}" failed',
        f"{what[0].upper()}{what[1:]}. Nothing was published.",
        "Run the table once with --full-refresh; if it happens again, please report it.",
    )


# ---------------------------------------------------------------- the watermark


def _loaded_at(session: Session, plan: TablePlan) -> str:
    """One value for all rows of this publish, larger than that of every one before."""
    last = plan.target.watermark.loaded_at if plan.target.watermark else None
    raw = plan.target.raw
    if last is None and raw is not None and raw.column(LOADED_AT) is not None:
        newest = sql.SQL(
            "SELECT max({name}) FILTER (WHERE isfinite({name}))::text FROM {raw}"
        ).format(name=sql.Identifier(LOADED_AT), raw=plan.settings.target.sql)
        doing = f"find the newest {LOADED_AT} of {plan.settings.target.said}"
        last = session.execute(newest, doing=doing)[0][0]
    query = "SELECT greatest(clock_timestamp(), %(last)s::timestamptz + interval '1 microsecond')"
    return str(session.execute(f"{query}::text", {"last": last or "-infinity"})[0][0])


def _cursor_value(session: Session, plan: TablePlan) -> str | None:
    """The next cursor watermark; None where a baseline held none."""
    if plan.settings.sync_mode is not SyncMode.INCREMENTAL_SYNC:
        return None
    cursor = cursor_of(plan.settings, plan.source)
    watermark = plan.target.watermark
    last = None if plan.is_baseline or watermark is None else watermark.cursor_value
    found = session.execute(
        cursor.newest(plan.scratch.sql, plan.cut, last), doing="find the newest cursor value"
    )
    return found[0][0] if found else None


def _write_watermark(
    session: Session,
    load: Load,
    loaded_at: str,
    cursor_value: str | None,
    mark: RawMark | None,
) -> None:
    plan = load.plan
    mode = MODES[plan.settings.sync_mode]
    name = {"name": load.target.regclass}
    oid = session.execute("SELECT to_regclass(%(name)s)::oid::bigint", name)[0][0]
    ledger.write_watermark(
        session,
        load.target,
        {
            "target_oid": oid,
            "source_connection": plan.settings.source_connection,
            "source_table": plan.settings.source.written,
            "sync_mode": plan.settings.sync_mode.value,
            "identity": plan.cut.identity,
            "fingerprint": plan.fingerprint,
            "lsn": plan.cut.lsn,
            "cursor_value": cursor_value,
            "open_for": plan.cut.open_for if cursor_value is not None else None,
            "xid": plan.cut.xmin if mode.saves_xid(plan.settings) else None,
            "snapshot_xid": plan.cut.xmin,
            "raw_mark": mark,
            "loaded_at": loaded_at,
            "run_id": load.lease.run_id,
        },
    )
