"""The time a `custom_where` asks for, fixed at the snapshot's: workers' clocks would differ.

Pure: takes a predicate and a moment, gives a predicate.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime
from typing import Any

from extract_load.predicate import CLOCK_CALLS, Predicate, clock_nodes, same_tree

_SELECT = "SELECT "
_WORDS: dict[str, tuple[str, Callable[[datetime], str]]] = {
    "CURRENT_DATE": ("date", lambda at: at.date().isoformat()),
    "CURRENT_TIMESTAMP": ("timestamptz", lambda at: at.isoformat(" ")),
    "CURRENT_TIME": ("timetz", lambda at: at.timetz().isoformat()),
    "LOCALTIMESTAMP": ("timestamp", lambda at: at.replace(tzinfo=None).isoformat(" ")),
    "LOCALTIME": ("time", lambda at: at.time().isoformat()),
}
_CLOSING = ")"


def at_moment(predicate: Predicate, cut_at: str) -> Predicate:
    """Returns the predicate with a literal of the same type wherever it asks for the time.

    The text is changed, not written again from its tree: postgast drops parentheses that matter.
    That nothing else changed is proved on the trees.

    Args:
        predicate: As the settings have it.
        cut_at: The snapshot's time, ISO 8601 in UTC; sessions read in UTC too.

    Raises:
        ValueError: If the changed text does not mean the same.
    """
    import postgast  # noqa: PLC0415 - 80 ms, needed only where a predicate is declared

    if not predicate.reads_clock:
        return predicate
    moment = datetime.fromisoformat(cut_at)
    written = _SELECT + predicate.sql
    tree = postgast.parse(written)
    places = sorted(_places(written, tree, moment), reverse=True)
    changed = written.encode()
    for start, end, literal in places:
        changed = changed[:start] + literal.encode() + changed[end:]
    text = changed.decode()
    for node in list(clock_nodes(tree)):
        _put_literal(tree, node, _literal(node, moment))
    if not same_tree(postgast.parse(text), tree):
        msg = f"{predicate.written!r} cannot be read at {cut_at}"
        raise ValueError(msg)
    return replace(predicate, sql=text.removeprefix(_SELECT), reads_clock=False)


def _places(written: str, tree: Any, moment: datetime) -> Iterator[tuple[int, int, str]]:
    """First and last byte of each question for the time, and what goes there."""
    import postgast  # noqa: PLC0415

    tokens = list(postgast.scan(written).tokens)
    texts = [written.encode()[token.start : token.end].decode() for token in tokens]
    starts = {token.start: number for number, token in enumerate(tokens)}
    for node in clock_nodes(tree):
        number = starts[node.location]
        is_call = "funcname" in node.DESCRIPTOR.fields_by_name
        if is_call or (node.typmod >= 0 and texts[number + 1 : number + 2] == ["("]):
            number = texts.index(_CLOSING, number)
        yield node.location, tokens[number].end, _literal(node, moment)


def _literal(node: Any, moment: datetime) -> str:
    """The moment as the node would have told it."""
    from postgast import pg_query_pb2 as nodes  # noqa: PLC0415

    if "funcname" in node.DESCRIPTOR.fields_by_name:
        assert node.funcname[-1].string.sval in CLOCK_CALLS  # noqa: S101 - clock_nodes says so
        word, digits = "CURRENT_TIMESTAMP", ""
    else:
        name = nodes.SQLValueFunctionOp.Name(node.op).removeprefix("SVFOP_")
        word = name.removesuffix("_N")
        digits = f"({node.typmod})" if name.endswith("_N") else ""
    type_name, text_of = _WORDS[word]
    return f"CAST('{text_of(moment)}' AS pg_catalog.{type_name}{digits})"


def _put_literal(message: Any, node: Any, literal: str) -> None:
    """Puts the tree of a literal where a tree has a node."""
    import postgast  # noqa: PLC0415

    parsed = postgast.parse(_SELECT + literal).stmts[0].stmt.select_stmt.target_list[0]
    for holder, field in _holders(message):
        if getattr(holder, field) == node:
            holder.CopyFrom(parsed.res_target.val)


def _holders(message: Any) -> Iterator[tuple[Any, str]]:
    """Every node of a tree that holds a call or a word, with the field that holds it."""
    for descriptor, value in message.ListFields():
        if descriptor.message_type is None:
            continue
        is_many = not hasattr(value, "ListFields")
        for part in list(value) if is_many else [value]:
            yield from _holders(part)
        if descriptor.name in {"func_call", "sqlvalue_function"}:
            yield message, descriptor.name
