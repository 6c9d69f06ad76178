"""Whether a key that no index proves names every row just now: one look, with a limit."""

from psycopg2 import sql

from extract_load.connection import READ_CONSISTENT, Session
from extract_load.errors import ExtractLoadError
from extract_load.extract import from_leaf
from extract_load.identifiers import columns_sql
from extract_load.leaf_lock import use_path
from extract_load.table_plan import TablePlan
from extract_load.table_rules import KeyCheck

LIMITS = {"statement_timeout": "5s", "lock_timeout": "5s"}
_TIMED_OUT = "57014"


def check_key(session: Session, plan: TablePlan) -> KeyCheck:
    """Returns what the rows say about a table's key; reads them for some seconds at the most.

    Args:
        session: To the source, outside a transaction.
        plan: Of a table with a key.
    """
    rows = sql.SQL(" UNION ALL ").join(
        sql.SQL("SELECT {} FROM {} WHERE {}").format(
            columns_sql(plan.key), from_leaf(plan, leaf), plan.belongs
        )
        for leaf in plan.source.leaves
    )
    names = [sql.Identifier(name) for name in plan.key]
    is_null = sql.SQL(" OR ").join(sql.SQL("{} IS NULL").format(name) for name in names)
    texts = sql.SQL(", ").join(sql.SQL("{}::pg_catalog.text").format(name) for name in names)
    nulls = sql.SQL("SELECT EXISTS (SELECT FROM ({}) AS row WHERE {})").format(rows, is_null)
    twice = sql.SQL(
        "SELECT {} FROM ({}) AS row WHERE NOT ({}) GROUP BY {} HAVING count(*) > 1 LIMIT 1"
    ).format(texts, rows, is_null, columns_sql(plan.key))
    doing = f"look at the key of {plan.settings.source.said}"
    try:
        with session.transaction(READ_CONSISTENT, LIMITS):
            use_path(session, plan.settings.search_path)
            has_null = bool(session.execute(nulls, doing=doing)[0][0])
            found = session.execute(twice, doing=doing)
    except ExtractLoadError as error:
        if error.sqlstate != _TIMED_OUT:
            raise
        return KeyCheck(is_known=False)
    return KeyCheck(tuple(found[0]) if found else None, has_null)
