"""The difference of two tables without a key: how often each row is there.

Pure: takes a plan, gives SQL. Rows are the same where the texts of all columns are, which is what
`equality` means too; a hash stands for the text, so that rows of any width and type can be counted.
A row that comes back after a soft delete is a new row: nothing says that it is the old one.
"""

from psycopg2 import sql

from extract_load.config import Deletes
from extract_load.difference import is_live
from extract_load.identifiers import columns_sql
from extract_load.table_plan import TablePlan
from extract_load.type_contract import DELETED_AT, LOADED_AT


def delete_surplus(plan: TablePlan, loaded_at: str) -> sql.Composable:
    """Returns the statement that deletes, or marks, live rows the scratch table has less often."""
    soft = plan.deletes is Deletes.SOFT
    action = (
        sql.SQL("UPDATE {raw} AS t SET {deleted} = {at}, {loaded} = {at} FROM")
        if soft
        else sql.SQL("DELETE FROM {raw} AS t USING")
    ).format(
        raw=plan.settings.target.sql,
        deleted=sql.Identifier(DELETED_AT),
        loaded=sql.Identifier(LOADED_AT),
        at=sql.Literal(loaded_at),
    )
    return sql.SQL(
        "{action} (SELECT t.ctid AS place, {image} AS image, pg_catalog.row_number() OVER "
        "(PARTITION BY {image}) AS number FROM {raw} AS t WHERE {live}) AS numbered "
        "LEFT JOIN (SELECT {landed_image} AS image, pg_catalog.count(*) AS rows "
        "FROM {scratch} AS s GROUP BY 1) AS wanted ON wanted.image = numbered.image "
        "WHERE t.ctid = numbered.place AND numbered.number > coalesce(wanted.rows, 0)"
    ).format(
        action=action,
        raw=plan.settings.target.sql,
        image=_image(plan, "t"),
        landed_image=_image(plan, "s"),
        live=is_live(plan, "t"),
        scratch=plan.scratch.sql,
    )


def insert_missing(plan: TablePlan, loaded_at: str) -> sql.Composable:
    """Returns the statement that inserts scratch rows the raw table has less often, alive."""
    names = plan.contract.names
    return sql.SQL(
        "INSERT INTO {raw} ({names}) SELECT {values} FROM (SELECT s.*, {image} AS {is_image}, "
        "pg_catalog.row_number() OVER (PARTITION BY {image}) AS {is_number} FROM {scratch} AS s) "
        "AS s LEFT JOIN (SELECT {raw_image} AS image, pg_catalog.count(*) AS rows FROM {raw} AS t "
        "WHERE {live} GROUP BY 1) AS present ON present.image = s.{is_image} "
        "WHERE s.{is_number} > coalesce(present.rows, 0)"
    ).format(
        raw=plan.settings.target.sql,
        names=columns_sql([*names, LOADED_AT]),
        values=sql.SQL(", ").join(
            [*(sql.Identifier("s", name) for name in names), sql.Literal(loaded_at)]
        ),
        image=_image(plan, "s"),
        raw_image=_image(plan, "t"),
        # Names that no landed column has.
        is_image=sql.Identifier(LOADED_AT),
        is_number=sql.Identifier(DELETED_AT),
        scratch=plan.scratch.sql,
        live=is_live(plan, "t"),
    )


def _image(plan: TablePlan, alias: str) -> sql.Composable:
    return sql.SQL(
        "pg_catalog.sha256(pg_catalog.convert_to(ROW({})::pg_catalog.text, 'UTF8'))"
    ).format(columns_sql(plan.contract.names, alias))
