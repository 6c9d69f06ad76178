"""What is read from a source: the queries of a plan, its counts, estimates."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

from psycopg2 import sql

from extract_load.catalog import Leaf, TableSchema
from extract_load.chunking import BlockRange, Chunk
from extract_load.config import CursorType, SyncMode, TableSettings
from extract_load.connection import Session
from extract_load.cursor import cursor_of
from extract_load.cursor_values import is_uuid
from extract_load.errors import ConfigError, SchemaMismatch, SourceError
from extract_load.identifiers import columns_sql
from extract_load.snapshot import SourceSnapshot
from extract_load.table_plan import TablePlan
from extract_load.type_contract import ColumnContract

_NO_VALUE = "22"
"""The SQLSTATE class of a text that is no value of its type."""


@dataclass(frozen=True)
class Estimate:
    """What the source's planner expects of a plan."""

    rows: int
    bytes_sent: int
    bytes_read: int
    """What the source reads from its disk or cache."""


def copy_out_query(plan: TablePlan, chunk: Chunk) -> sql.Composable:
    """Returns the COPY that reads a chunk of a leaf."""
    return sql.SQL(
        "COPY ({select} WHERE {range} AND {predicate}) TO STDOUT (FORMAT {format})"
    ).format(
        select=_select(plan, chunk.leaf),
        range=chunk.range.predicate,
        predicate=_predicate(plan, chunk),
        format=sql.SQL(plan.contract.copy_format),
    )


def copy_leaf_query(plan: TablePlan, leaf: Leaf, among: sql.Composable) -> sql.Composable:
    """Returns the COPY that reads the rows of a leaf for which a condition holds."""
    return sql.SQL(
        "COPY ({select} WHERE {belongs} AND {among}) TO STDOUT (FORMAT {format})"
    ).format(
        select=_select(plan, leaf),
        belongs=plan.belongs,
        among=among,
        format=sql.SQL(plan.contract.copy_format),
    )


def copy_keys_query(plan: TablePlan, leaf: Leaf, among: sql.Composable) -> sql.Composable:
    """Returns the COPY that reads the keys of a leaf for which a condition holds."""
    return sql.SQL("COPY (SELECT {keys} FROM {leaf} WHERE {belongs} AND {among}) TO STDOUT").format(
        keys=sql.SQL(", ").join(plan.contract.column(name).expression for name in plan.key),
        leaf=from_leaf(plan, leaf),
        belongs=plan.belongs,
        among=among,
    )


def copy_rows_query(plan: TablePlan, leaf: Leaf, keys: list[tuple[str, ...]]) -> sql.Composable:
    """Returns the COPY that reads the rows of some keys from a leaf.

    Args:
        plan: The table's.
        leaf: Where to look.
        keys: Key values as text, at least one key.
    """
    types = [plan.contract.column(name).source_type for name in plan.key]
    listed = sql.SQL(", ").join(
        sql.SQL("({})").format(
            sql.SQL(", ").join(
                sql.SQL("{}::{}").format(sql.Literal(value), sql.SQL(type_text))
                for value, type_text in zip(key, types, strict=True)
            )
        )
        for key in keys
    )
    is_wanted = sql.SQL("({}) IN (VALUES {})").format(columns_sql(plan.key), listed)
    return copy_leaf_query(plan, leaf, is_wanted)


def gives_rows_only(plan: TablePlan, leaf: Leaf) -> bool:
    """Returns whether a COPY from a leaf sends its rows and nothing between them.

    What people wrote runs for a view, a foreign table, or a custom_where; it may send messages
    (RAISE INFO), which nobody can silence.
    """
    return leaf.kind in "rm" and plan.settings.custom_where is None


def count_rows(source: SourceSnapshot, plan: TablePlan, *, anew: bool = False) -> int:
    """Returns how many rows the table has in the snapshot.

    Leaves whose rows the reads of a delta passed are counted by that.

    Args:
        source: The snapshot.
        plan: The table's.
        anew: Whether what the reads passed does not count: it did not prove what it should.
    """
    is_read = not anew and _is_counted_by_reading(plan)
    return sum(_count_of(source, plan, leaf, is_read=is_read) for leaf in plan.source.leaves)


def _count_of(source: SourceSnapshot, plan: TablePlan, leaf: Leaf, *, is_read: bool) -> int:
    ranges = [chunk.range for chunk in plan.chunks if chunk.leaf.oid == leaf.oid]
    passed = source.counts.passed(leaf.oid, ranges) if is_read else None
    return count_leaf(source, plan, leaf, plan.belongs) if passed is None else passed


@contextmanager
def holding_chunk(
    source: SourceSnapshot, plan: TablePlan, chunk: Chunk, reader: Session
) -> Iterator[None]:
    """Holds a chunk's leaf still; the rows that the block's read passes are noted where they count.

    Args:
        source: The snapshot.
        plan: The table's.
        chunk: What the block reads.
        reader: Of the chunk's leaf.
    """
    counts, leaf = source.counts, chunk.leaf
    with (
        source.holding(reader, leaf),
        counts.noting(reader, leaf.oid, chunk.range, plan.cut.version)
        if _is_counted_by_reading(plan)
        else nullcontext(),
    ):
        yield


def _is_counted_by_reading(plan: TablePlan) -> bool:
    """Whether the rows that a plan's reads pass are those of the table.

    A baseline's are not asked: its count has to prove the reads. Nor those of a mode whose window
    an index may serve, nor of one chunk: counting that costs as little.
    """
    return (
        plan.proves_equality_by_count
        and plan.counts_source
        and plan.settings.custom_where is None
        and len(plan.chunks) > 1
    )


def count_leaf(
    source: SourceSnapshot, plan: TablePlan, leaf: Leaf, condition: sql.Composable
) -> int:
    """Returns for how many rows of a leaf a condition holds in the snapshot.

    Several targets of a table ask the same: the snapshot answers all of them alike.
    """
    query = sql.SQL("SELECT count(*) FROM {} WHERE {}").format(from_leaf(plan, leaf), condition)

    def ask() -> int:
        with source.reading(leaf) as reader:
            return int(reader.execute(query, doing=f"count the rows of {leaf.name.said}")[0][0])

    return source.counts.answer(f"{leaf.search_path} {query!r}", ask)


def largest_values(
    source: SourceSnapshot, plan: TablePlan, chunk: Chunk, small_bytes: int = 0
) -> tuple[int, dict[str, int]]:
    """Returns how many bytes a chunk's largest row has, and the largest value of each column.

    Reads no TOAST for texts and bytes, which tell their length beside their pointer.

    Args:
        source: The snapshot.
        plan: The table's.
        chunk: What of it.
        small_bytes: Of other types, a value that takes less than this on disk counts as much.
    """
    columns = plan.contract.columns
    names = [sql.Identifier(f"size_{number}") for number in range(len(columns))]
    query = sql.SQL(
        "SELECT max({total}), {each} FROM (SELECT {sizes} FROM {leaf} "
        "WHERE {range} AND {predicate}) AS one ({names})"
    ).format(
        total=sql.SQL(" + ").join(names),
        each=sql.SQL(", ").join(sql.SQL("max({})").format(name) for name in names),
        sizes=sql.SQL(", ").join(_size(column, small_bytes) for column in columns),
        leaf=from_leaf(plan, chunk.leaf),
        range=chunk.range.predicate,
        predicate=_predicate(plan, chunk),
        names=sql.SQL(", ").join(names),
    )
    with source.reading(chunk.leaf) as reader:
        ((total, *each),) = reader.execute(
            query, doing=f"find the largest value of {chunk.leaf.name.said}"
        )
    sizes = {one.name: int(size or 0) for one, size in zip(columns, each, strict=True)}
    return int(total or 0), sizes


def _size(column: ColumnContract, small_bytes: int) -> sql.Composable:
    """The bytes of a value as it is sent, or about so."""
    is_told = column.source_type in {"text", "bytea"} or "character varying" in column.source_type
    if is_told and not column.is_changed:
        size = "pg_catalog.octet_length({value})"
    else:
        size = (
            "CASE WHEN pg_catalog.pg_column_size({value}) > {small} "
            "THEN pg_catalog.octet_length(({value})::pg_catalog.text) "
            "ELSE pg_catalog.pg_column_size({value}) END"
        )
    return sql.SQL("coalesce(" + size + ", 0)::pg_catalog.int8").format(
        value=column.expression, small=sql.Literal(small_bytes)
    )


def estimate(source: SourceSnapshot, plan: TablePlan) -> Estimate:
    """Returns what the source's planner expects; reads no row."""
    of_leaf = {chunk.leaf.oid: chunk for chunk in plan.chunks}
    found = [_estimate_leaf(source, plan, chunk) for chunk in of_leaf.values()]
    return Estimate(
        rows=sum(leaf.rows for leaf in found),
        bytes_sent=sum(leaf.bytes_sent for leaf in found),
        bytes_read=sum(leaf.bytes_read for leaf in found),
    )


def _estimate_leaf(source: SourceSnapshot, plan: TablePlan, chunk: Chunk) -> Estimate:
    """What is expected of the leaf that a chunk is a part of."""
    leaf = chunk.leaf
    query = sql.SQL("EXPLAIN (FORMAT JSON) {} WHERE {}").format(
        _select(plan, leaf), _predicate(plan, chunk)
    )
    with source.reading(leaf) as reader:
        found = reader.execute(query, doing=f"estimate the rows of {leaf.name.said}")
    node = found[0][0][0]["Plan"]
    rows = int(node["Plan Rows"])
    sent = rows * int(node["Plan Width"])
    scans_all = "Seq Scan" in node["Node Type"] or isinstance(chunk.range, BlockRange)
    return Estimate(rows, sent, leaf.table_bytes if scans_all else sent)


def read_since(session: Session, table: TableSettings, schema: TableSchema, since: str) -> str:
    """Returns a low bound as the source reads it: of the cursor's type, in one text form.

    Args:
        session: To the source.
        table: Settings of a table in `incremental_sync`.
        schema: The source table.
        since: As the user wrote it.

    Raises:
        ConfigError: If it is no value of the cursor's type.
        SchemaMismatch: If the table has no such cursor.
    """
    cursor = cursor_of(table, schema)
    values = cursor.values
    asked_as = "uuid" if cursor.type is CursorType.UUID and is_uuid(since) else values.asked_as
    query = sql.SQL("SELECT {}::{}::text").format(sql.Literal(since), sql.SQL(asked_as))

    def refused(said: str) -> ConfigError:
        return ConfigError(
            f'since "{since}" cannot bound cursor "{cursor.name}" of {table.source.said}',
            f"The cursor is {cursor.type}. {said} Nothing was read.",
            f'Write "since" like {values.example}; a full refresh reads all rows.',
        )

    try:
        read = str(session.execute(query, doing="read the low bound")[0][0])
    except SourceError as exc:
        if (exc.sqlstate or "").startswith(_NO_VALUE):
            raise refused(exc.detail + ".") from exc
        raise
    try:
        bound = values.from_asked(read)
        values.rank(bound)
    except (ValueError, OverflowError) as exc:
        raise refused(f'The source reads it as "{read}".') from exc
    return bound


def require_boolean(session: Session, plan: TablePlan) -> None:
    """Lets the source prove that custom_where is a condition, without reading a row.

    Raises:
        SourceError: If it is not, or names what the table does not have.
    """
    query = sql.SQL("EXPLAIN SELECT FROM ONLY {} WHERE {}").format(
        plan.settings.source.sql, plan.belongs
    )
    session.execute(query, doing=f"use custom_where of {plan.settings.source.said}")


def require_regular_cursor(source: SourceSnapshot, plan: TablePlan) -> None:
    """Proves, before a row is landed, that a cursor's values compare as they are declared.

    Raises:
        SchemaMismatch: If one does not; it is named.
    """
    if plan.settings.sync_mode is not SyncMode.INCREMENTAL_SYNC:
        return
    cursor = cursor_of(plan.settings, plan.source)
    irregular = cursor.irregular()
    if irregular is None:
        return
    for leaf in plan.source.leaves:
        query = sql.SQL("SELECT {}::pg_catalog.text FROM {} WHERE {} AND {} LIMIT 1").format(
            sql.Identifier(cursor.name), from_leaf(plan, leaf), plan.belongs, irregular
        )
        with source.reading(leaf) as reader:
            found = reader.execute(query, doing=f"look at the cursor of {leaf.name.said}")
        if found:
            raise SchemaMismatch(
                f'column "{cursor.name}" of {plan.settings.source.said} is no {cursor.type}',
                f'A row has "{found[0][0]}"; only eight digits are in the order of days. '
                "Nothing was landed.",
                f'Mend the rows, set "incremental_field_type" to {cursor.plain_type}, or leave '
                'them out with "custom_where".',
            )


def _predicate(plan: TablePlan, chunk: Chunk) -> sql.Composable:
    return plan.belongs if chunk.is_whole else plan.predicate


def _select(plan: TablePlan, leaf: Leaf) -> sql.Composable:
    return sql.SQL("SELECT {} FROM {}").format(
        sql.SQL(", ").join(column.expression for column in plan.contract.columns),
        from_leaf(plan, leaf),
    )


def from_leaf(plan: TablePlan, leaf: Leaf) -> sql.Composable:
    """Returns what follows FROM to read a leaf.

    ONLY: a table's children are tables of their own. custom_where may name the table.
    """
    if leaf.oid == plan.source.oid:
        return sql.SQL("ONLY {}").format(leaf.name.sql)
    return sql.SQL("ONLY {} AS {}").format(leaf.name.sql, sql.Identifier(plan.source.name.table))
