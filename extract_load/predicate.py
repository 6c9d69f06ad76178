"""What `custom_where` may be: one expression, by PostgreSQL's own grammar.

Pure: takes text, gives text. The source proves later that the expression is boolean.
"""

import re
from dataclasses import dataclass
from typing import Any

_CLOCKS = frozenset(
    {"now", "clock_timestamp", "statement_timestamp", "transaction_timestamp", "timeofday"}
)

_LOCATION = re.compile(r"\b(\w+_)?location: -?\d+")


@dataclass(frozen=True)
class Predicate:
    """An expression over one table's columns."""

    sql: str
    """As it was written, in parentheses of its own; proved to mean the same within them."""
    reads_tables: bool
    """Whether it holds a sub-query."""
    written: str
    """As it stood in the settings."""

    def __str__(self) -> str:
        return self.written


def parse_predicate(written: str) -> Predicate:
    r"""Returns the expression a settings file wrote as `custom_where`.

    Raises:
        ValueError: If it is empty, no SQL, more than one expression, or depends on the clock.

    Example:
        >>> parse_predicate("code LIKE '%-L' -- the other lines").sql
        "(code LIKE '%-L' -- the other lines\n)"
    """
    import postgast  # noqa: PLC0415 - 80 ms, needed only where a predicate is declared
    from postgast import pg_query_pb2 as nodes  # noqa: PLC0415

    if not written.strip():
        msg = "it is empty; leave the key out to land every row"
        raise ValueError(msg)
    try:
        tree = postgast.parse("SELECT " + written)
    except postgast.PgQueryError as exc:
        msg = f"{written!r} is no SQL expression: {exc.message}"
        raise ValueError(msg) from exc
    if not _is_one_expression(tree):
        msg = f"{written!r} is not one expression; write what would stand behind WHERE"
        raise ValueError(msg)
    if _reads_session(tree, nodes):
        msg = (
            f"{written!r} depends on the clock or the session, "
            "so two chunks could disagree; write a fixed value"
        )
        raise ValueError(msg)
    # Not written again from the tree: postgast 0.2.0 drops parentheses that matter, as in
    # "NOT (a AND b) IS NOT NULL". The line break ends a comment.
    enclosed = f"({written}\n)"
    if not _means_the_same(enclosed, tree):
        msg = f"{written!r} does not stand alone; write one expression"
        raise ValueError(msg)
    return Predicate(
        sql=enclosed,
        reads_tables=any(True for _ in postgast.find_nodes(tree, nodes.SubLink)),
        written=written,
    )


def _is_one_expression(tree: Any) -> bool:
    statements = list(tree.stmts)
    if len(statements) != 1 or not statements[0].stmt.HasField("select_stmt"):
        return False
    select = statements[0].stmt.select_stmt
    fields = {descriptor.name for descriptor, _ in select.ListFields()}
    if fields != {"target_list", "limit_option", "op"} or len(select.target_list) != 1:
        return False
    result = select.target_list[0].res_target
    is_star = result.val.HasField("column_ref") and any(
        part.HasField("a_star") for part in result.val.column_ref.fields
    )
    return not result.name and not is_star


def _means_the_same(enclosed: str, tree: Any) -> bool:
    """Whether a text behind WHERE has the syntax tree it had as a column."""
    import postgast  # noqa: PLC0415

    try:
        condition = postgast.parse(f"SELECT 1 WHERE {enclosed}").stmts[0].stmt.select_stmt
    except postgast.PgQueryError:
        return False
    expression = tree.stmts[0].stmt.select_stmt.target_list[0].res_target.val
    return _LOCATION.sub("", str(condition.where_clause)) == _LOCATION.sub("", str(expression))


def _reads_session(tree: Any, nodes: Any) -> bool:
    import postgast  # noqa: PLC0415

    if any(True for _ in postgast.find_nodes(tree, nodes.SQLValueFunction)):
        return True
    calls = postgast.find_nodes(tree, nodes.FuncCall)
    return any(call.funcname[-1].string.sval in _CLOCKS for call in calls)
