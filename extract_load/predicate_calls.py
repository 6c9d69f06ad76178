"""What a `custom_where` calls: functions, operators and types, by name.

Pure: takes a predicate, gives names. What they do is the source's catalog to say.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from extract_load.predicate import Predicate

FORBIDDEN = re.compile(
    r"pg_(?!typeof$|column_size$|collation_for$)|txid_|lo_|loread$|lowrite$|dblink|binary_upgrade"
    r"|(query|table|cursor|schema|database)_to_xml|set_config$|current_setting$|setseed$|random"
    r"|nextval$|setval$|currval$|lastval$|inet_(client|server)_|version$|current_quer|current_sch"
    r"|ts_stat$|currtid|row_security_active$|xpath_table$|has_\w+_privilege$|to_reg|format_type$"
    r"|(col|obj|shobj)_description$"
)
"""Functions that act, or that tell of the server and the session and not of the row."""

_ORDINARY = frozenset({"=", "<>", "<", "<=", ">", ">="})
"""Operators that grammar's own words stand for: IN, BETWEEN, CASE, DISTINCT, GREATEST."""

_WORDS = frozenset(
    {"BETWEEN", "NOT BETWEEN", "BETWEEN SYMMETRIC", "NOT BETWEEN SYMMETRIC", "IN", "DISTINCT"}
)


@dataclass(frozen=True, order=True)
class Called:
    """Something a predicate names."""

    kind: str
    """function, operator or type."""
    schema: str
    """Empty: whatever the path leads to."""
    name: str
    arguments: int = -1
    """-1: any number."""

    def __str__(self) -> str:
        return f"{self.kind} {self.schema + '.' if self.schema else ''}{self.name}"


def calls_of(predicate: Predicate, columns: tuple[str, ...]) -> tuple[Called, ...]:
    """Returns everything a predicate may call.

    Args:
        predicate: As it is sent.
        columns: The table's; `t.f` is a call of `f(t)` where `t` has no column `f`.
    """
    import postgast  # noqa: PLC0415 - 80 ms, needed only where a predicate is declared

    tree = postgast.parse("SELECT " + predicate.sql)
    return tuple(
        sorted({*_functions(tree), *_operators(tree), *_types(tree), *_fields(tree, columns)})
    )


def _functions(tree: Any) -> Iterator[Called]:
    import postgast  # noqa: PLC0415
    from postgast import pg_query_pb2 as nodes  # noqa: PLC0415

    for call in postgast.find_nodes(tree, nodes.FuncCall):
        schema, name = _qualified(call.funcname)
        yield Called("function", schema, name, len(call.args))


def _operators(tree: Any) -> Iterator[Called]:
    import postgast  # noqa: PLC0415
    from postgast import pg_query_pb2 as nodes  # noqa: PLC0415

    for name in _ORDINARY:
        yield Called("operator", "", name)
    for expression in postgast.find_nodes(tree, nodes.A_Expr):
        schema, name = _qualified(expression.name)
        if name not in _WORDS:
            yield Called("operator", schema, name)
    for query in postgast.find_nodes(tree, nodes.SubLink):
        if query.oper_name:
            yield Called("operator", *_qualified(query.oper_name))
    for sort in postgast.find_nodes(tree, nodes.SortBy):
        if sort.use_op:
            yield Called("operator", *_qualified(sort.use_op))


def _types(tree: Any) -> Iterator[Called]:
    import postgast  # noqa: PLC0415
    from postgast import pg_query_pb2 as nodes  # noqa: PLC0415

    for type_name in postgast.find_nodes(tree, nodes.TypeName):
        if type_name.names:
            yield Called("type", *_qualified(type_name.names))


def _fields(tree: Any, columns: tuple[str, ...]) -> Iterator[Called]:
    """Fields that may be functions, of one argument: `t.f`, `(t).f`."""
    import postgast  # noqa: PLC0415
    from postgast import pg_query_pb2 as nodes  # noqa: PLC0415

    refs = [list(ref.fields)[1:] for ref in postgast.find_nodes(tree, nodes.ColumnRef)]
    parts = [list(path.indirection) for path in postgast.find_nodes(tree, nodes.A_Indirection)]
    for part in [part for found in [*refs, *parts] for part in found]:
        if part.HasField("string") and part.string.sval not in columns:
            yield Called("function", "", part.string.sval, 1)


def _qualified(names: Any) -> tuple[str, str]:
    parts = [part.string.sval for part in names]
    return (parts[-2] if len(parts) > 1 else ""), parts[-1]
