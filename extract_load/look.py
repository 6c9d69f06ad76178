"""Looking at both sides of a table, and the plan that follows; changes nothing."""

from dataclasses import replace

from extract_load import ledger
from extract_load.catalog import read_table
from extract_load.config import SyncMode, TableSettings
from extract_load.connection import Session
from extract_load.extract import read_since, require_boolean, require_regular_cursor
from extract_load.leaf_lock import use_path
from extract_load.planner import plan_table
from extract_load.predicate_judge import judge_predicate
from extract_load.predicate_time import at_moment
from extract_load.raw_table import NO_FACTS, read_facts
from extract_load.readable import readable_part
from extract_load.snapshot import SourceSnapshot
from extract_load.table_plan import NOTHING_ASKED, PlanOptions, TablePlan, TargetState
from extract_load.target_types import read_target_types


def look_and_plan(
    table: TableSettings,
    source: SourceSnapshot,
    session: Session,
    asked: PlanOptions = NOTHING_ASKED,
) -> TablePlan:
    """Returns the plan for a table; reads both sides and changes nothing.

    Args:
        table: Its settings.
        source: The snapshot it would be read in.
        session: To the target.
        asked: What the user asked for.

    Raises:
        ConfigError: If `since` is no value of the cursor.
        SchemaMismatch: If key, cursor or columns do not fit.
        SourceError: If there is no such table, the role may not read it, or `custom_where` may
            not run.
        TargetError: If the raw table is somebody else's.
        SnapshotLost: If the snapshot has ended.
    """
    with session.transaction():
        state = read_target_state(session, table)
    return plan_in(table, source, state, asked)


def plan_in(
    table: TableSettings,
    source: SourceSnapshot,
    state: TargetState,
    asked: PlanOptions = NOTHING_ASKED,
) -> TablePlan:
    """Returns the plan for a table whose target was looked at before; the rest is as above."""
    schema = source.table(table.source)
    table = readable_part(table, schema, source.parameters)
    leaves = tuple(replace(leaf, search_path=table.search_path) for leaf in schema.leaves)
    schema = replace(schema, leaves=leaves)
    if table.custom_where is not None:
        where = at_moment(table.custom_where, source.cut.cut_at)
        where = judge_predicate(source, where, table, schema)
        table = replace(table, custom_where=where)
        leaves = tuple(replace(leaf, is_filtered_by_others=where.reads_more) for leaf in leaves)
        schema = replace(schema, leaves=leaves)
    if asked.since is not None and table.sync_mode is SyncMode.INCREMENTAL_SYNC:
        with source.reader() as reader:
            asked = replace(asked, since=read_since(reader, table, schema, asked.since))
    plan = plan_table(table, schema, source.cut, state, asked)
    if table.custom_where is not None:
        with source.looking() as reader:
            use_path(reader, table.search_path)
            require_boolean(reader, plan)
    require_regular_cursor(source, plan)
    return plan


def read_target_state(session: Session, table: TableSettings) -> TargetState:
    """Returns what stands in the target, as the caller's transaction sees it."""
    raw = read_table(session, table.target)
    has_ledger = ledger.ledger_version(session) > 0
    return TargetState(
        raw=raw,
        watermark=ledger.read_watermark(session, table.target) if has_ledger else None,
        facts=read_facts(session, table.target, raw.oid) if raw else NO_FACTS,
        types=session.remembered(read_target_types),
    )
