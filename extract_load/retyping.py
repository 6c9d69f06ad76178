"""Which changes of a column's type leave the rows of a table as they are.

Pure: takes types as SQL writes them. What PostgreSQL rewrites for certain and what it may
rewrite are treated alike: a change that is not known to keep the rows needs `--allow-rewrite`.
"""

import re

_TYPE = re.compile(
    r"(?P<base>character varying|bit varying|numeric|timestamp|time|interval|text|cidr|inet)"
    r"(?:\((?P<sizes>-?\d+(?:,-?\d+)?)\))?"
    r"(?P<zone> with time zone| without time zone)?"
)
_WITH_LENGTH = frozenset({"character varying", "bit varying"})
_WITH_FRACTION = frozenset({"timestamp", "time", "interval"})
_COERCIBLE = frozenset({("character varying", "text"), ("text", "character varying")}) | {
    ("cidr", "inet")
}
"""Types with one binary form: the first is the second, without its length."""


def keeps_rows(old: str, new: str) -> bool:
    """Returns whether ALTER COLUMN TYPE neither rewrites nor reads the table.

    Example:
        >>> keeps_rows("character varying(10)", "text"), keeps_rows("integer", "bigint")
        (True, False)
        >>> keeps_rows("numeric(10,2)", "numeric(12,2)"), keeps_rows("numeric(10,2)", "numeric")
        (True, True)
        >>> keeps_rows("numeric(10,2)", "numeric(12,4)")
        False
    """
    before, after = _TYPE.fullmatch(old), _TYPE.fullmatch(new)
    if before is None or after is None or before["zone"] != after["zone"]:
        return False
    if after["sizes"] is None and (before["base"], after["base"]) in _COERCIBLE:
        return True
    return before["base"] == after["base"] and _holds(before, after)


def _holds(before: re.Match[str], after: re.Match[str]) -> bool:
    """Whether every value of one size has the other size too."""
    base = before["base"]
    if base not in _WITH_LENGTH | _WITH_FRACTION | {"numeric"}:
        return False
    if after["sizes"] is None:
        return True
    if before["sizes"] is None:
        return False
    (size, *scale), (new_size, *new_scale) = (
        [int(part) for part in match["sizes"].split(",")] for match in (before, after)
    )
    return new_size >= size and new_scale == scale
