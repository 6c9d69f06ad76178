"""The statements that make a raw table equal to what was landed, touching no equal row.

Pure: takes a plan, gives SQL. No ON CONFLICT and no MERGE: both rewrite rows that are equal.
"""

from collections.abc import Sequence

from psycopg2 import sql

from extract_load.config import Deletes, SyncMode
from extract_load.cursor import cursor_of
from extract_load.identifiers import TableName, columns_sql
from extract_load.table_plan import TablePlan
from extract_load.type_contract import DELETED_AT, LOADED_AT


def is_live(plan: TablePlan, alias: str) -> sql.Composable:
    """Returns the condition for a raw row not to be soft-deleted."""
    if not plan.has_tombstones:
        return sql.SQL("true")
    return sql.SQL("{} IS NULL").format(sql.Identifier(alias, DELETED_AT))


def same_key(plan: TablePlan, first: str, second: str) -> sql.Composable:
    """Returns the condition for two rows to have one key: as an index compares it.

    Under the empty path `=` of two citext would be that of text.
    """
    columns = [plan.contract.column(name) for name in plan.key]
    return sql.SQL(" AND ").join(
        sql.SQL("{} OPERATOR({}.{}) {}").format(
            sql.Identifier(first, column.name),
            sql.Identifier(column.equality[0]),
            sql.SQL(column.equality[1]),
            sql.Identifier(second, column.name),
        )
        for column in columns
    )


def purge_tombstones(plan: TablePlan) -> sql.Composable:
    """Returns the statement that deletes what was soft-deleted before the setting became hard."""
    return sql.SQL("DELETE FROM {} WHERE {} IS NOT NULL").format(
        plan.settings.target.sql, sql.Identifier(DELETED_AT)
    )


def remove_ambiguous(plan: TablePlan) -> sql.Composable:
    """Returns the statement that leaves one row a key, and none without a key.

    Needed where no index of the raw table holds the key, as after the source got another one: a
    row of the source would else meet several.
    """
    return sql.SQL(
        "DELETE FROM {raw} AS t USING (SELECT t.ctid, pg_catalog.row_number() OVER "
        "(PARTITION BY {key} ORDER BY {live} DESC) AS place FROM {raw} AS t) AS one "
        "WHERE t.ctid = one.ctid AND (one.place > 1 OR {nameless})"
    ).format(
        raw=plan.settings.target.sql,
        key=columns_sql(plan.key, "t"),
        live=is_live(plan, "t"),
        nameless=sql.SQL(" OR ").join(
            sql.SQL("{} IS NULL").format(sql.Identifier("t", name)) for name in plan.key
        ),
    )


def delete_gone(
    plan: TablePlan, keys: TableName, loaded_at: str, among: sql.Composable
) -> sql.Composable:
    """Returns the statement that deletes, or marks, live rows whose key is not among `keys`.

    Args:
        plan: The table's.
        keys: A table of keys.
        loaded_at: When a row is marked.
        among: The condition for a row `t` to be one whose key `keys` would hold.
    """
    soft = plan.deletes is Deletes.SOFT
    action = (
        "UPDATE {raw} AS t SET {deleted} = {at}, {loaded} = {at}"
        if soft
        else "DELETE FROM {raw} AS t"
    )
    return sql.SQL(
        action + " WHERE {live} AND {among} AND NOT EXISTS (SELECT FROM {keys} AS s WHERE {match})"
    ).format(
        raw=plan.settings.target.sql,
        deleted=sql.Identifier(DELETED_AT),
        loaded=sql.Identifier(LOADED_AT),
        at=sql.Literal(loaded_at),
        live=is_live(plan, "t"),
        among=among,
        keys=keys.sql,
        match=same_key(plan, "t", "s"),
    )


def update_different(plan: TablePlan, table: TableName, loaded_at: str) -> sql.Composable:
    """Returns the statement that updates rows whose record image differs, or that were deleted.

    Args:
        plan: The table's.
        table: The raw table, or one like it.
        loaded_at: The publish's own time.
    """
    sets = [
        sql.SQL("{} = {}").format(sql.Identifier(name), sql.Identifier("s", name))
        for name in plan.contract.names
    ]
    sets.append(sql.SQL("{} = {}").format(sql.Identifier(LOADED_AT), sql.Literal(loaded_at)))
    if plan.has_tombstones:
        sets.append(sql.SQL("{} = NULL").format(sql.Identifier(DELETED_AT)))
    return sql.SQL(
        "UPDATE {table} AS t SET {sets} FROM {scratch} AS s WHERE {match} AND {differs}"
    ).format(
        table=table.sql,
        sets=sql.SQL(", ").join(sets),
        scratch=plan.scratch.sql,
        match=same_key(plan, "t", "s"),
        differs=_differs(plan),
    )


def move_different(plan: TablePlan, beside: TableName) -> sql.Composable:
    """Returns the statement that moves such rows, as they are, to a table like the raw table."""
    return sql.SQL(
        "WITH moved AS (DELETE FROM {raw} AS t USING {scratch} AS s WHERE {match} AND {differs} "
        "RETURNING t.*) INSERT INTO {beside} SELECT * FROM moved"
    ).format(
        raw=plan.settings.target.sql,
        scratch=plan.scratch.sql,
        match=same_key(plan, "t", "s"),
        differs=_differs(plan),
        beside=beside.sql,
    )


def differs_in(names: Sequence[str]) -> sql.Composable:
    """Returns the condition for rows `t` and `s` to differ in some columns.

    `*<>` compares bytes (manual, 9.25.6), so 1.0 becomes 1.00.
    """
    return sql.SQL("ROW({})::record *<> ROW({})::record").format(
        columns_sql(names, "t"), columns_sql(names, "s")
    )


def _differs(plan: TablePlan) -> sql.Composable:
    differs = differs_in(plan.contract.names)
    if not plan.has_tombstones:
        return differs
    return sql.SQL("({} OR {} IS NOT NULL)").format(differs, sql.Identifier("t", DELETED_AT))


def new_rows(plan: TablePlan) -> TableName:
    """Returns the name of the table that lists new rows, in the publishing transaction only."""
    return TableName(plan.scratch.schema, f"{plan.scratch.table}_new")


def list_new(plan: TablePlan) -> sql.Composable:
    """Returns the statement that lists the places of scratch rows whose key the raw table lacks.

    Before anything is changed the index alone tells it, to several workers at once; after an
    UPDATE each key costs a look at its row (manual, 11.9: index-only scans). In the order of
    their places, that is as they were landed, whatever the join.
    """
    return sql.SQL(
        "CREATE UNLOGGED TABLE {listed} AS SELECT s.ctid AS place FROM {scratch} AS s "
        "WHERE NOT EXISTS (SELECT FROM {raw} AS t WHERE {match}) ORDER BY s.ctid"
    ).format(
        listed=new_rows(plan).sql,
        scratch=plan.scratch.sql,
        raw=plan.settings.target.sql,
        match=same_key(plan, "t", "s"),
    )


def insert_new(plan: TablePlan, loaded_at: str, *, are_all: bool) -> sql.Composable:
    """Returns the statement that inserts the scratch rows that are listed as new.

    Args:
        plan: The table's.
        loaded_at: The publish's own time.
        are_all: Whether all of them are, and the list need not be asked.
    """
    names = plan.contract.names
    # OFFSET keeps the subquery one: each row is found at its place, and no hash of whole rows
    # goes through files.
    listed = sql.SQL(
        "{} AS listed CROSS JOIN LATERAL "
        "(SELECT s.* FROM {} AS s WHERE s.ctid = listed.place OFFSET 0)"
    )
    return sql.SQL(
        "INSERT INTO {raw} AS t ({names}, {loaded}) SELECT {values}, {at} FROM {rows} AS s"
    ).format(
        raw=plan.settings.target.sql,
        names=columns_sql(names),
        loaded=sql.Identifier(LOADED_AT),
        values=columns_sql(names, "s"),
        at=sql.Literal(loaded_at),
        rows=plan.scratch.sql if are_all else listed.format(new_rows(plan).sql, plan.scratch.sql),
    )


def count_not_live(plan: TablePlan) -> sql.Composable:
    """Returns the query for the number of scratch rows whose key no live raw row has."""
    return sql.SQL(
        "SELECT count(*) FROM {scratch} AS s "
        "WHERE NOT EXISTS (SELECT FROM {raw} AS t WHERE {match} AND {live})"
    ).format(
        scratch=plan.scratch.sql,
        raw=plan.settings.target.sql,
        match=same_key(plan, "t", "s"),
        live=is_live(plan, "t"),
    )


def late_condition(plan: TablePlan) -> sql.Composable | None:
    """Returns the condition for a changed row to lie below the last watermark: a late commit.

    None where nothing can be late: baselines, and modes without a cursor.
    """
    watermark = plan.target.watermark
    if plan.is_baseline or plan.settings.sync_mode is not SyncMode.INCREMENTAL_SYNC:
        return None
    if watermark is None or watermark.cursor_value is None:
        return None
    cursor = cursor_of(plan.settings, plan.source)
    return cursor.is_below("t", watermark.cursor_value, plan.cut)
