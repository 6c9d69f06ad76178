"""Writing beside the raw table: scratch tables, and one COPY with its checkpoint a chunk."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

from psycopg2 import sql

from extract_load import checkpoints, lease, ledger
from extract_load.catalog import Leaf
from extract_load.checkpoints import Checkpoints, SnapshotMark
from extract_load.connection import NOT_DURABLE, Session
from extract_load.copies import CopyFrom, CopyTo
from extract_load.frame_stream import move_below_libpq
from extract_load.identifiers import TableName, columns_sql
from extract_load.resume import Parts, Resumed, resume
from extract_load.snapshot import SourceSnapshot
from extract_load.stream import move_by_libpq
from extract_load.stream_watch import CopyStats, StreamWatch
from extract_load.table_plan import Publish, TablePlan

_OTHER_ROWS = "the scratch table does not hold the rows that they brought"
_MANY_ROWS = 100_000
_SAMPLED_PAGES = 300
_ORDERED_SHARE = 0.9
"""From this share of neighbours on, up or down, rows count as lying in order."""
_EMPTY = "none was done, or a crash of the target emptied unlogged tables"


@dataclass(frozen=True)
class Load:
    """One table's way into one target in this run, under one snapshot."""

    plan: TablePlan
    lease: lease.Lease
    snapshot: SnapshotMark

    @property
    def target(self) -> TableName:
        """The raw table."""
        return self.plan.settings.target

    @cached_property
    def checkpoints(self) -> Checkpoints:
        """Those of this raw table."""
        return Checkpoints(self.plan.checkpoints, self.target, self.lease.run_id, self.snapshot)

    @cached_property
    def parts(self) -> Parts:
        """What its chunks bring."""
        return Parts(self.plan)

    @property
    def whole_leaves(self) -> frozenset[int]:
        """Leaves (OIDs) that are read whatever the window says."""
        return frozenset(chunk.leaf.oid for chunk in self.plan.chunks if chunk.is_whole)

    @property
    def keys(self) -> TableName:
        """The scratch table of keys in the snapshot that are compared, where deletes need one."""
        return self._beside("keys")

    @property
    def changed(self) -> TableName:
        """The scratch table of what a repair reads again."""
        return self._beside("changed")

    def _beside(self, name: str) -> TableName:
        return TableName(ledger.SCRATCH_SCHEMA, f"{self.plan.scratch.table}_{name}")


def prepare(session: Session, load: Load) -> Resumed:
    """Makes the scratch table ready, and returns what of a dead run's work stands in it.

    What no longer counts is deleted with its checkpoints; where nothing counts it starts empty.
    """
    plan = load.plan
    with session.transaction(settings=NOT_DURABLE, doing="create the scratch table"):
        lease.hold(session, load.lease)
        ledger.create_schema(session, plan.settings.target.schema)
        is_there = _has_table(session, plan.scratch)
        if is_there:
            _settle_chunks(session, plan)
        found = load.checkpoints.read(session) if is_there else []
        resumed = resume(plan, load.snapshot.id, found)
        if resumed.kept and count_scratch(session, plan) != sum(each.rows for each in found):
            resumed = Resumed(dropped=tuple(found), why_dropped=_OTHER_ROWS)
        if resumed.kept:
            load.checkpoints.discard(session, plan.scratch, resumed.dropped)
            _drop_key(session, plan)
        else:
            drop_scratch(session, load)
            _create_scratch(session, plan)
        if is_there and not found:
            resumed = replace(resumed, why_dropped=_EMPTY)
    return resumed


def _settle_chunks(session: Session, plan: TablePlan) -> None:
    """Waits for lost chunks whose COMMIT was sent: their checkpoints count, or would be missed."""
    session.execute(
        sql.SQL("LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE").format(plan.scratch.sql),
        doing="wait for chunks that were lost",
    )


def _create_scratch(session: Session, plan: TablePlan) -> None:
    columns = sql.SQL(", ").join(
        sql.SQL("{} {}{}").format(
            sql.Identifier(column.name),
            sql.SQL(column.target_type),
            sql.SQL(" NOT NULL" if column.is_not_null else ""),
        )
        for column in plan.contract.columns
    )
    kind = "TABLE" if plan.publish is Publish.FIRST_LOAD else "UNLOGGED TABLE"
    session.execute(
        sql.SQL("CREATE {} {} ({})").format(sql.SQL(kind), plan.scratch.sql, columns),
        doing=f'create a table in schema "{plan.scratch.schema}"',
    )


def _has_table(session: Session, table: TableName) -> bool:
    query = "SELECT to_regclass(%(name)s) IS NOT NULL"
    return bool(session.execute(query, {"name": table.regclass})[0][0])


def _drop_key(session: Session, plan: TablePlan) -> None:
    """While chunks land, a row that moved between two of them stands there twice."""
    session.execute(
        sql.SQL("ALTER TABLE {} DROP CONSTRAINT IF EXISTS {}").format(
            plan.scratch.sql, sql.Identifier(f"{plan.scratch.table}_pkey")
        )
    )
    session.execute(sql.SQL("DROP INDEX IF EXISTS {}").format(_key_index(plan).sql))


def copy_into(
    session: Session,
    source: SourceSnapshot,
    leaf: Leaf,
    query: sql.Composable,
    into: sql.Composable,
    doing: str,
) -> CopyStats:
    """Returns what a COPY from a leaf brought that belongs to no chunk.

    Works in the caller's transaction, and by libpq: a source that breaks off takes no session to
    the target with it.
    """
    with source.reader_of(leaf) as reader:
        copy_to = CopyTo(reader, query, doing, lambda: source.holding(reader, leaf))
        return move_rows(copy_to, CopyFrom(session, into, doing), source)


def move_rows(
    copy_to: CopyTo, copy_from: CopyFrom, source: SourceSnapshot, *, may_go_below: bool = False
) -> CopyStats:
    """Returns what a COPY out of a reader brought. Works in the target's open transaction.

    Args:
        copy_to: Of a reader of the snapshot.
        copy_from: Of the target.
        source: The snapshot.
        may_go_below: Whether its rows may pass below libpq: nothing comes between them
            (`gives_rows_only`), and who breaks off may take the other's connection along.
    """
    reader, session = copy_to.reader, copy_from.session
    watch = _watch(source, reader, session)
    if may_go_below and reader.has_wire and session.has_wire:
        return move_below_libpq(copy_to, copy_from, watch)
    return move_by_libpq(copy_to.write, copy_from.read, watch)


def _watch(source: SourceSnapshot, reader: Session, session: Session) -> StreamWatch:
    """What a stream from a reader to a target may not exceed."""
    return StreamWatch(
        stall_seconds=source.governor.run.stall_timeout.total_seconds(),
        source=reader,
        target=session,
        is_source_working=lambda: source.is_working(reader),
        pace=pace_of(source, reader),
        memory=source.governor.memory,
    )


def pace_of(source: SourceSnapshot, reader: Session) -> Callable[[int], None]:
    """Returns what waits until so many bytes of a reader may pass.

    Its lock is held until the last are in the pipe, or the system has taken them. Where somebody
    waits for that, a cancel request ends nothing once the server has sent all: what is on its way
    then passes at once.
    """
    return lambda size: source.governor.pace(size, lambda: source.is_waited_for(reader))


def create_keys(session: Session, load: Load) -> None:
    """Makes an empty table for keys of the snapshot."""
    plan = load.plan
    columns = sql.SQL(", ").join(
        sql.SQL("{} {}").format(
            sql.Identifier(name), sql.SQL(plan.contract.column(name).target_type)
        )
        for name in plan.key
    )
    session.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(load.keys.sql))
    session.execute(sql.SQL("CREATE UNLOGGED TABLE {} ({})").format(load.keys.sql, columns))


def copy_in_keys(load: Load) -> sql.Composable:
    """Returns the COPY that takes keys into their table."""
    return sql.SQL("COPY {} ({}) FROM STDIN").format(load.keys.sql, columns_sql(load.plan.key))


def finish_scratch(session: Session, load: Load) -> None:
    """Proves the key where only the data can, and lets the target's planner know the sizes.

    A first load gets its primary key now: building it after the data is cheaper than keeping it.
    Nothing joins it before it is the raw table, which autovacuum analyzes.
    """
    plan = load.plan
    with session.transaction(settings=NOT_DURABLE, doing="commit the key"):
        lease.hold(session, load.lease)
        if plan.key and (plan.publish is Publish.FIRST_LOAD or not plan.is_key_proved):
            build_key(session, plan, plan.scratch)
        if plan.publish is not Publish.FIRST_LOAD:
            analyze(session, plan, plan.scratch)
            if plan.key and plan.is_key_proved and _merges_by_key(session, plan):
                _index_key(session, plan)


def analyze(session: Session, plan: TablePlan, table: TableName) -> None:
    """Lets the planner know how many rows a scratch table has, and how its keys are spread.

    What else it could know no join asks for, and wide columns take it 0.3 s to learn.
    """
    columns = plan.key or plan.contract.names[:1]
    session.execute(
        sql.SQL("ANALYZE {} {}").format(
            table.sql, sql.SQL("({})").format(columns_sql(columns)) if columns else sql.SQL("")
        ),
        doing="analyze the rows",
    )


def _merges_by_key(session: Session, plan: TablePlan) -> bool:
    """Whether an index of the landed keys is worth its sort: many rows, that lie in its order.

    Two indexes that follow their tables are merged page by page; a hash of so many whole rows
    would go through files. Rows lie in order where neighbours do: chunks stand beside each other
    as they came, and the statistic `correlation` of a few chunks is that of their places.
    """
    query = (
        "SELECT relpages FROM pg_catalog.pg_class"
        " WHERE oid = to_regclass(%(name)s) AND reltuples >= %(rows)s"
    )
    found = session.execute(query, {"name": plan.scratch.regclass, "rows": _MANY_ROWS})
    if not found:
        return False
    in_order = sql.SQL(
        "SELECT avg((key >= before)::int) FROM ("
        "SELECT ROW({key}) AS key, lag(ROW({key})) OVER (ORDER BY ctid) AS before"
        " FROM {scratch} TABLESAMPLE SYSTEM ({percent})) AS one"
    ).format(
        key=columns_sql(plan.key),
        scratch=plan.scratch.sql,
        percent=sql.Literal(min(100.0, 100 * _SAMPLED_PAGES / max(int(found[0][0]), 1))),
    )
    ((share,),) = session.execute(in_order, doing="look at the order of the landed keys")
    return share is not None and not 1 - _ORDERED_SHARE < share < _ORDERED_SHARE


def _index_key(session: Session, plan: TablePlan) -> None:
    session.execute(
        sql.SQL("CREATE INDEX IF NOT EXISTS {} ON {} ({})").format(
            sql.Identifier(_key_index(plan).table), plan.scratch.sql, columns_sql(plan.key)
        ),
        doing="index the landed keys",
    )


def _key_index(plan: TablePlan) -> TableName:
    return TableName(plan.scratch.schema, f"{plan.scratch.table}_key")


def build_key(session: Session, plan: TablePlan, table: TableName) -> None:
    """Builds the primary key of a table beside the raw table; fails on a key that stands twice."""
    session.execute(
        sql.SQL("ALTER TABLE {} ADD PRIMARY KEY ({})").format(table.sql, columns_sql(plan.key)),
        doing=f"build the key ({', '.join(plan.key)}) of {plan.settings.source.said}",
    )


def count_scratch(session: Session, plan: TablePlan) -> int:
    """Returns how many rows are landed."""
    query = sql.SQL("SELECT count(*) FROM {}").format(plan.scratch.sql)
    doing = f"count what is landed for {plan.settings.target.said}"
    return int(session.execute(query, doing=doing)[0][0])


def drop_scratch(session: Session, load: Load) -> None:
    """Drops what this table's runs left beside the raw table, with its checkpoints.

    Works in the caller's transaction.
    """
    tables = ledger.scratch_tables(load.target, load.plan.scratch.table)
    session.execute(
        sql.SQL("DROP TABLE IF EXISTS {}").format(sql.SQL(", ").join(one.sql for one in tables)),
        doing="drop a scratch table",
    )
    checkpoints.forget(session, load.target)


def copy_in_query(plan: TablePlan, table: TableName) -> sql.Composable:
    """Returns the COPY that takes rows into the scratch table, or one like it."""
    names = plan.contract.names
    return sql.SQL("COPY {} {} FROM STDIN (FORMAT {})").format(
        table.sql,
        # COPY knows no empty list; a table without columns takes empty rows.
        sql.SQL("({})").format(columns_sql(names)) if names else sql.SQL(""),
        sql.SQL(plan.contract.copy_format),
    )
