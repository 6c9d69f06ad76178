"""What `custom_where` may be: one expression, by PostgreSQL's own grammar.

Pure: takes text, gives text. The source proves later that the expression is boolean.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

CLOCK_CALLS = frozenset({"now", "clock_timestamp", "statement_timestamp", "transaction_timestamp"})
"""Functions that tell the time, as timestamptz."""

_CLOCK_WORDS = ("CURRENT_DATE", "CURRENT_TIME", "LOCALTIME")
"""How grammar's own words for the time begin; the others tell of the session."""

_CLOCK_TEXT = re.compile(
    r"\s*(now|today|tomorrow|yesterday)(\s|$)"
    r"|\s*[{[(](.*\W)?(now|today|tomorrow|yesterday)(\W|$)",  # in an array or a range
    re.IGNORECASE | re.DOTALL,
)
"""What PostgreSQL reads as a moment, wherever a date or time is wanted."""

_LOCATION = re.compile(r"\b(\w+_)?(location|list_start|list_end): -?\d+")


@dataclass(frozen=True)
class Predicate:
    """An expression over one table's columns."""

    sql: str
    """As it was written, in parentheses of its own; proved to mean the same within them."""
    reads_tables: bool
    """Whether it holds a sub-query."""
    written: str
    """As it stood in the settings."""
    reads_clock: bool = False
    """Whether it asks for the time: that of the run's snapshot is put in its place."""
    may_move_alone: bool = False
    """Whether a row may enter or leave it without being written, as far as is known: what it
    calls is looked up in the source."""
    reads_more: bool = False
    """Whether its sub-queries, or what it calls, may read tables or ask for the time."""
    called: str | None = None
    """A digest of the functions it may call that neither PostgreSQL nor an extension brought."""

    def __str__(self) -> str:
        return self.written


def parse_predicate(written: str) -> Predicate:
    r"""Returns the expression a settings file wrote as `custom_where`.

    Raises:
        ValueError: If it is empty, no SQL, more than one expression, or depends on the session.

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
            f"{written!r} depends on the session or on chance, "
            "so two chunks could disagree; write a fixed value"
        )
        raise ValueError(msg)
    if (place := _place_column(tree, nodes)) is not None:
        msg = (
            f"{written!r} asks for {place!r}, which changes without the row being written; "
            "ask for columns of the table"
        )
        raise ValueError(msg)
    if (moment := _moment_text(tree, nodes)) is not None:
        msg = (
            f"{written!r} holds {moment!r}, which is another day in each session that reads it as "
            "a time; write current_date, or add ::text where it is a text"
        )
        raise ValueError(msg)
    # Not written again from the tree: postgast 0.2.0 drops parentheses that matter, as in
    # "NOT (a AND b) IS NOT NULL". The line break ends a comment.
    enclosed = f"({written}\n)"
    if not _means_the_same(enclosed, tree):
        msg = f"{written!r} does not stand alone; write one expression"
        raise ValueError(msg)
    reads_tables = any(True for _ in postgast.find_nodes(tree, nodes.SubLink))
    reads_clock = any(True for _ in clock_nodes(tree))
    return Predicate(
        sql=enclosed,
        reads_tables=reads_tables,
        written=written,
        reads_clock=reads_clock,
        may_move_alone=reads_tables or reads_clock,
        reads_more=reads_tables,
    )


def names_in(predicate: Predicate) -> frozenset[str]:
    """Returns every name a predicate may mean a column by, and maybe some of other things.

    A star stands as `*`.

    Example:
        >>> sorted(names_in(parse_predicate("items.amount > 0 AND code LIKE 'a%'")))
        ['amount', 'code']
    """
    import postgast  # noqa: PLC0415
    from postgast import pg_query_pb2 as nodes  # noqa: PLC0415

    tree = postgast.parse(f"SELECT {predicate.sql}")
    last = [ref.fields[-1] for ref in postgast.find_nodes(tree, nodes.ColumnRef)]
    return frozenset(part.string.sval if part.HasField("string") else "*" for part in last)


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
    return same_tree(condition.where_clause, expression)


def same_tree(first: Any, second: Any) -> bool:
    """Returns whether two syntax trees differ in nothing but where their texts stand."""
    return _LOCATION.sub("", str(first)) == _LOCATION.sub("", str(second))


def clock_nodes(tree: Any) -> Iterator[Any]:
    """Yields the nodes of a syntax tree that ask for the time."""
    import postgast  # noqa: PLC0415
    from postgast import pg_query_pb2 as nodes  # noqa: PLC0415

    for word in postgast.find_nodes(tree, nodes.SQLValueFunction):
        if _word(word, nodes).startswith(_CLOCK_WORDS):
            yield word
    for call in postgast.find_nodes(tree, nodes.FuncCall):
        names = [part.string.sval for part in call.funcname]
        if names[-1] in CLOCK_CALLS and names[:-1] in ([], ["pg_catalog"]) and not call.args:
            yield call


def _word(node: Any, nodes: Any) -> str:
    name: str = nodes.SQLValueFunctionOp.Name(node.op)
    return name.removeprefix("SVFOP_")


def _reads_session(tree: Any, nodes: Any) -> bool:
    import postgast  # noqa: PLC0415

    words = postgast.find_nodes(tree, nodes.SQLValueFunction)
    if any(not _word(word, nodes).startswith(_CLOCK_WORDS) for word in words):
        return True
    if any(True for _ in postgast.find_nodes(tree, nodes.RangeTableSample)):
        return True
    # age(x) counts from the session's day, age(x, y) does not.
    return any(
        call.funcname[-1].string.sval == "timeofday"
        or (call.funcname[-1].string.sval == "age" and len(call.args) == 1)
        for call in postgast.find_nodes(tree, nodes.FuncCall)
    )


def _place_column(tree: Any, nodes: Any) -> str | None:
    """A system column that tells where a row stands, or who locks it; None where none is asked."""
    import postgast  # noqa: PLC0415

    names = {ref.fields[-1].string.sval for ref in postgast.find_nodes(tree, nodes.ColumnRef)}
    return min(names & {"ctid", "xmax", "cmin", "cmax"}, default=None)


def _moment_text(tree: Any, nodes: Any) -> str | None:
    """A text that PostgreSQL may read as the present day; None where there is none."""
    import postgast  # noqa: PLC0415

    as_text = {
        cast.arg.a_const.location
        for cast in postgast.find_nodes(tree, nodes.TypeCast)
        if cast.type_name.names and cast.type_name.names[-1].string.sval in {"text", "varchar"}
    }
    for constant in postgast.find_nodes(tree, nodes.A_Const):
        text: str = constant.sval.sval
        if _CLOCK_TEXT.match(text) and constant.location not in as_text:
            return text
    return None
