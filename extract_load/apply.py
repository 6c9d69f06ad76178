"""Making the raw table equal to what was landed, inside the publishing transaction."""

from dataclasses import dataclass

from psycopg2 import sql

from extract_load.catalog import read_columns
from extract_load.config import Deletes
from extract_load.connection import Session
from extract_load.deletes import Evidence, count_live, guard
from extract_load.difference import (
    delete_gone,
    insert_new,
    late_condition,
    move_different,
    purge_tombstones,
    remove_ambiguous,
    update_different,
)
from extract_load.errors import TargetError
from extract_load.identifiers import TableName, columns_sql
from extract_load.ledger import SCRATCH_SCHEMA
from extract_load.multiset import delete_surplus, insert_missing
from extract_load.raw_table import ForeignKey, read_foreign_keys
from extract_load.table_plan import TablePlan

_CONFLICTS = ("23505", "23P01")
"""A unique index, or an exclusion constraint, met two rows (manual, appendix A)."""
_STILL_REFERENCED = ("23503", "23001")


@dataclass(frozen=True)
class Applied:
    """How many rows were changed, and how."""

    inserted: int = 0
    updated: int = 0
    deleted: int = 0
    late: int = 0


def apply_difference(
    session: Session,
    plan: TablePlan,
    loaded_at: str,
    *,
    evidence: Evidence,
    source_rows: int | None,
    allow_deletes: bool,
) -> Applied:
    """Deletes the gone, updates what differs, inserts what is new; equal rows are not touched.

    Args:
        session: In the publishing transaction.
        plan: The table's.
        loaded_at: The publish's own time, for every row it changes.
        evidence: What tells which rows are gone.
        source_rows: Rows of the snapshot, where they were counted.
        allow_deletes: Whether the guards are off.

    Raises:
        GuardTripped: If too much would be deleted.
        TargetError: If a unique index of somebody else's does not take the rows, or a foreign key
            forbids a delete or would spread it.
    """
    deleted = _delete(session, plan, loaded_at, evidence, source_rows, allow_deletes=allow_deletes)
    if not plan.key:
        missing = insert_missing(plan, loaded_at)
        return Applied(_insert(session, plan, missing, None)[0], deleted=deleted)
    late = late_condition(plan)
    updated, late_updated = _update(session, plan, loaded_at, late)
    inserted, late_inserted = _insert(session, plan, insert_new(plan, loaded_at), late)
    return Applied(inserted, updated, deleted, late_updated + late_inserted)


# ---------------------------------------------------------------- deletes


def _delete(
    session: Session,
    plan: TablePlan,
    loaded_at: str,
    evidence: Evidence,
    source_rows: int | None,
    *,
    allow_deletes: bool,
) -> int:
    purged = deleted = 0
    keys = evidence.keys
    if plan.deletes is Deletes.HARD and plan.has_tombstones:
        purged = _deleted(session, plan, purge_tombstones(plan))
    if keys is not None or plan.has_ambiguous_rows:
        live = count_live(session, plan)
        if plan.has_ambiguous_rows:
            deleted += _deleted(session, plan, remove_ambiguous(plan))
        if keys is not None and plan.key:
            deleted += _deleted(session, plan, delete_gone(plan, keys, loaded_at, evidence.among))
        elif keys is not None:
            deleted += _deleted(session, plan, delete_surplus(plan, loaded_at))
        if not allow_deletes:
            rows = _count(session, plan.scratch) if source_rows is None else source_rows
            # Without a key a changed row is one gone and one new: only a net loss is a loss.
            gone_rows = deleted if plan.key else max(0, live - rows)
            guard(plan, source_rows=rows, live_rows=live, gone_rows=gone_rows)
    if purged or (deleted and plan.deletes is Deletes.HARD):
        _refuse_spreading(session, plan)
    return deleted


def _deleted(session: Session, plan: TablePlan, statement: sql.Composable) -> int:
    try:
        return session.change(statement, doing="delete gone rows")
    except TargetError as error:
        if error.sqlstate not in _STILL_REFERENCED:
            raise
        raise TargetError(
            f"{_where(plan)} has rows that are gone, and a foreign key holds them",
            f"{error.detail}. Nothing was published.",
            _KEEP_ROWS,
        ) from error


def _refuse_spreading(session: Session, plan: TablePlan) -> None:
    """Refuses a delete that changed rows of tables which are not ours; it is rolled back."""
    spreading = [key for key in _foreign_keys(session, plan) if key.spreads_deletes]
    if spreading:
        raise TargetError(
            f"{_where(plan)} has rows that are gone, and a foreign key would spread the delete",
            f"{_told(spreading)}. Nothing was published.",
            _KEEP_ROWS,
        )


_KEEP_ROWS = 'Drop the foreign key, or keep the rows in the raw table with "deletes: soft".'


def _foreign_keys(session: Session, plan: TablePlan) -> tuple[ForeignKey, ...]:
    return read_foreign_keys(session, plan.settings.target)


def _told(keys: list[ForeignKey] | tuple[ForeignKey, ...]) -> str:
    return ", ".join(f'"{key.name}" of {key.table} ({key.action})' for key in keys)


# ---------------------------------------------------------------- changed and new rows


def _update(
    session: Session, plan: TablePlan, loaded_at: str, late: sql.Composable | None
) -> tuple[int, int]:
    """Updates in place; where that meets somebody's unique index, deletes and inserts instead.

    The index is asked row by row, so two rows that exchange their values meet in the middle.
    """
    raw = plan.settings.target
    session.execute("SAVEPOINT in_place")
    try:
        return _changed(session, update_different(plan, raw, loaded_at), late)
    except TargetError as error:
        if error.sqlstate not in _CONFLICTS:
            raise
        session.execute("ROLLBACK TO SAVEPOINT in_place")
        held = _foreign_keys(session, plan)
        if held:
            raise TargetError(
                f"{_where(plan)} has a unique index and a foreign key, and its rows changed places",
                f"{error.detail}. The rows would have to be deleted and inserted again, but "
                f"a foreign key refers to them: {_told(held)}. Nothing was published.",
                "Drop the unique index, or make it a DEFERRABLE constraint, or drop the "
                "foreign key.",
            ) from error
    return _take_out_and_in(session, plan, loaded_at, late)


def _take_out_and_in(
    session: Session, plan: TablePlan, loaded_at: str, late: sql.Composable | None
) -> tuple[int, int]:
    """Changes rows beside the table, where no index is; columns of somebody else's come along."""
    raw = plan.settings.target
    beside = TableName(SCRATCH_SCHEMA, f"{plan.scratch.table}_changed")
    session.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(beside.sql))
    session.execute(sql.SQL("CREATE UNLOGGED TABLE {} (LIKE {})").format(beside.sql, raw.sql))
    session.change(move_different(plan, beside), doing="take out changed rows")
    changed = _changed(session, update_different(plan, beside, loaded_at), late)
    oid = session.execute("SELECT %(name)s::regclass::oid::bigint", {"name": raw.regclass})[0][0]
    columns = read_columns(session, [oid], f'read the catalog about "{raw}"')[oid]
    names = columns_sql(column.name for column in columns if not column.is_generated)
    back = sql.SQL("INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM {}").format(
        raw.sql, names, names, beside.sql
    )
    _insert(session, plan, back, None)
    session.execute(sql.SQL("DROP TABLE {}").format(beside.sql))
    return changed


def _insert(
    session: Session, plan: TablePlan, statement: sql.Composable, late: sql.Composable | None
) -> tuple[int, int]:
    try:
        return _changed(session, statement, late)
    except TargetError as error:
        if error.sqlstate not in _CONFLICTS:
            raise
        raise TargetError(
            f"{_where(plan)} has an index that does not take the source's rows",
            f"{error.detail}. Nothing was published.",
            "Drop that index, or let it cover only what is unique: rows that are soft-deleted "
            'keep their values, "where _deleted_at is null" leaves them out.',
        ) from error


def _changed(
    session: Session, statement: sql.Composable, late: sql.Composable | None
) -> tuple[int, int]:
    """How many rows a statement changed, and how many of them were late."""
    doing = "apply the difference"
    if late is None:
        return session.change(statement, doing=doing), 0
    counted = sql.SQL(
        "WITH moved AS ({} RETURNING {} AS is_late) "
        "SELECT count(*), count(*) FILTER (WHERE is_late) FROM moved"
    ).format(statement, late)
    changed, late_rows = session.execute(counted, doing=doing)[0]
    return changed, late_rows


def _where(plan: TablePlan) -> str:
    return f'"{plan.settings.target}" in target "{plan.settings.target_connection}"'


def _count(session: Session, table: TableName) -> int:
    return int(session.execute(sql.SQL("SELECT count(*) FROM {}").format(table.sql))[0][0])
