"""What the source computes in place of a masked value.

The salt stands in a setting of the reading transaction, never in a statement: statements are shown
by pg_stat_activity and written to the server's log.
"""

from psycopg2 import sql

from extract_load.config import Mask

SALT_SETTING = "extract_load.mask_salt"


def masked_expression(column: sql.Composable, mask: Mask) -> sql.Composable:
    """Returns what the SELECT holds instead of a column; NULL stays NULL.

    Args:
        column: The column, as SQL.
        mask: What becomes of it.
    """
    if mask is Mask.NULL:
        return sql.SQL("NULL::pg_catalog.text")
    return sql.SQL(
        "pg_catalog.encode(pg_catalog.sha256(pg_catalog.convert_to("
        "pg_catalog.current_setting({salt}) OPERATOR(pg_catalog.||) {column}::pg_catalog.text, "
        "'UTF8')), 'hex')"
    ).format(salt=sql.Literal(SALT_SETTING), column=column)
