"""How a first load's table becomes the raw table: landing columns, comments, names."""

from psycopg2 import sql

from extract_load.config import Deletes
from extract_load.connection import Session
from extract_load.table_plan import TablePlan
from extract_load.type_contract import DELETED_AT, LOADED_AT


def name_first_load(session: Session, plan: TablePlan, loaded_at: str) -> None:
    """Gives the loaded table its landing columns and its name.

    A column with a constant default costs no rewrite (manual, ALTER TABLE, Notes), so each row
    gets the very time of the publish without having been loaded with it.

    Args:
        session: In the publishing transaction.
        plan: The table's, of a first load.
        loaded_at: The publish's own time.
    """
    name, target = plan.scratch, plan.settings.target
    session.execute(
        sql.SQL("ALTER TABLE {} ADD COLUMN {} timestamptz NOT NULL DEFAULT {}").format(
            name.sql, sql.Identifier(LOADED_AT), sql.Literal(loaded_at)
        )
    )
    session.execute(
        sql.SQL("ALTER TABLE {} ALTER COLUMN {} DROP DEFAULT").format(
            name.sql, sql.Identifier(LOADED_AT)
        )
    )
    if plan.deletes is Deletes.SOFT:
        session.execute(
            sql.SQL("ALTER TABLE {} ADD COLUMN {} timestamptz").format(
                name.sql, sql.Identifier(DELETED_AT)
            )
        )
    for column in plan.contract.columns:
        if column.comment:
            session.execute(
                sql.SQL("COMMENT ON COLUMN {} IS {}").format(
                    sql.Identifier(*name.parts, column.name), sql.Literal(column.comment)
                )
            )
    session.execute(
        sql.SQL("ALTER TABLE {} RENAME TO {}").format(name.sql, sql.Identifier(target.table)),
        doing=f"name {target.said}",
    )
    if plan.key:
        _name_key(session, plan)


def _name_key(session: Session, plan: TablePlan) -> None:
    """Names the primary key after the raw table, unless that name is taken or too long."""
    target = plan.settings.target
    wanted = f"{target.table}_pkey"
    taken = session.execute(
        "SELECT count(*) FROM pg_class WHERE relname = %(name)s "
        "AND relnamespace = to_regnamespace(quote_ident(%(schema)s))",
        {"name": wanted, "schema": target.schema},
    )[0][0]
    if not taken and len(wanted.encode()) <= 63:
        session.execute(
            sql.SQL("ALTER TABLE {} RENAME CONSTRAINT {} TO {}").format(
                target.sql,
                sql.Identifier(f"{plan.scratch.table}_pkey"),
                sql.Identifier(wanted),
            )
        )
