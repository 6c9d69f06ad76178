"""Writing beside the raw table: scratch tables, and one COPY with its checkpoint a chunk."""

from dataclasses import dataclass

from psycopg2 import sql

from extract_load import lease, ledger
from extract_load.catalog import Leaf
from extract_load.chunking import Chunk
from extract_load.connection import Session
from extract_load.extract import copy_out_query, key_columns
from extract_load.identifiers import TableName, columns_sql
from extract_load.snapshot import SourceSnapshot
from extract_load.stream import CopyStats, move
from extract_load.table_plan import Publish, TablePlan


@dataclass(frozen=True)
class Load:
    """One table's way into one target in this run."""

    plan: TablePlan
    lease: lease.Lease

    @property
    def run_id(self) -> str:
        """The run."""
        return self.lease.run_id

    @property
    def target(self) -> TableName:
        """The raw table."""
        return self.plan.settings.target

    @property
    def keys(self) -> TableName:
        """The scratch table of all keys in the snapshot, where deletes need one."""
        return TableName(ledger.SCRATCH_SCHEMA, f"{self.plan.scratch.table}_keys")


def prepare(session: Session, load: Load) -> None:
    """Makes an empty scratch table; what a dead run left is dropped with its checkpoints."""
    plan = load.plan
    with session.transaction(doing="create the scratch table"):
        lease.hold(session, load.lease)
        ledger.create_schema(session, plan.settings.target.schema)
        drop_scratch(session, load)
        ledger.forget_checkpoints(session, load.target)
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


def load_chunk(
    session: Session, source: SourceSnapshot, load: Load, chunk: Chunk
) -> CopyStats | None:
    """Returns what a chunk brought, or None when an earlier attempt had loaded it.

    The checkpoint commits with the rows. Its commit need not be durable by itself: WAL is flushed
    in order, and the publish commits synchronously (manual, 30.4).
    """
    plan = load.plan
    doing = f"copy {chunk.range} of {chunk.leaf.name.said}"
    with session.transaction(settings={"synchronous_commit": "off"}, doing="commit a chunk"):
        lease.hold(session, load.lease)
        if not ledger.claim_checkpoint(
            session, plan.checkpoints, load.run_id, load.target, chunk.number, str(chunk)
        ):
            return None
        with source.reading(chunk.leaf) as reader:
            stats = move(
                lambda stream: reader.copy(copy_out_query(plan, chunk), stream, doing),
                lambda stream: session.copy(copy_in_query(plan), stream, doing),
            )
        ledger.complete_checkpoint(
            session,
            plan.checkpoints,
            load.run_id,
            load.target,
            ledger.Checkpoint(chunk.number, stats.rows, stats.bytes),
        )
    return stats


def copy_into(
    session: Session,
    source: SourceSnapshot,
    leaf: Leaf,
    query: sql.Composable,
    into: sql.Composable,
    doing: str,
) -> CopyStats:
    """Returns what a COPY from a leaf brought that belongs to no chunk.

    Works in the caller's transaction.
    """
    with source.reading(leaf) as reader:
        return move(
            lambda stream: reader.copy(query, stream, doing),
            lambda stream: session.copy(into, stream, doing),
        )


def create_keys(session: Session, load: Load) -> None:
    """Makes an empty table for all keys of the snapshot."""
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
    return sql.SQL("COPY {} ({}) FROM STDIN").format(load.keys.sql, key_columns(load.plan))


def finish_scratch(session: Session, load: Load) -> None:
    """Proves the key where only the data can, and lets the target's planner know the sizes.

    A first load gets its primary key now: building it after the data is cheaper than keeping it.
    """
    plan = load.plan
    with session.transaction(doing="commit the key"):
        lease.hold(session, load.lease)
        if plan.key and (plan.publish is Publish.FIRST_LOAD or not plan.is_key_proved):
            build_key(session, plan, plan.scratch)
        session.execute(sql.SQL("ANALYZE {}").format(plan.scratch.sql), doing="analyze the rows")


def build_key(session: Session, plan: TablePlan, table: TableName) -> None:
    """Builds the primary key of a table beside the raw table; fails on a key that stands twice."""
    session.execute(
        sql.SQL("ALTER TABLE {} ADD PRIMARY KEY ({})").format(table.sql, key_columns(plan)),
        doing=f"build the key ({', '.join(plan.key)}) of {plan.settings.source.said}",
    )


def drop_scratch(session: Session, load: Load) -> None:
    """Drops what this table's runs left beside the raw table, in the caller's transaction."""
    name = load.plan.scratch.table
    for table in (
        TableName(load.target.schema, name),
        TableName(ledger.SCRATCH_SCHEMA, name),
        load.keys,
    ):
        session.execute(
            sql.SQL("DROP TABLE IF EXISTS {}").format(table.sql), doing="drop a scratch table"
        )


def copy_in_query(plan: TablePlan) -> sql.Composable:
    """Returns the COPY that takes rows into the scratch table."""
    names = plan.contract.names
    return sql.SQL("COPY {} {} FROM STDIN (FORMAT {})").format(
        plan.scratch.sql,
        # COPY knows no empty list; a table without columns takes empty rows.
        sql.SQL("({})").format(columns_sql(names)) if names else sql.SQL(""),
        sql.SQL(plan.contract.copy_format),
    )
