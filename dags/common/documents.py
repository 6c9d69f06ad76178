"""Nested documents: what somebody changed in one, and how that lies over another.

Pure. A list is one value: what is in it is not compared item by item.
"""

from collections.abc import Iterator
from typing import Any

Document = dict[str, Any]

_MISSING = object()


def edits(present: Document, *bases: Document) -> Document:
    """Returns what somebody changed in a document.

    A key that is missing was not changed: who deletes one wants what is declared.

    Args:
        present: The document as it stands.
        bases: What was written into it by the program; a value that equals any of them is no
            edit.

    Example:
        >>> edits({"a": 1, "b": {"c": 2, "d": 3}}, {"a": 1, "b": {"c": 2, "d": 4}})
        {'b': {'d': 3}}
    """
    changed = {}
    for key, value in present.items():
        before = [base.get(key, _MISSING) for base in bases]
        if value in before:
            continue
        nested = [one for one in before if isinstance(one, dict)]
        if isinstance(value, dict) and nested:
            if found := edits(value, *nested):
                changed[key] = found
        else:
            changed[key] = value
    return changed


def overlaid(declared: Document, changed: Document) -> Document:
    """Returns a document with changes over it.

    Example:
        >>> overlaid({"a": 1, "b": {"c": 2}}, {"b": {"d": 3}})
        {'a': 1, 'b': {'c': 2, 'd': 3}}
    """
    result = dict(declared)
    for key, value in changed.items():
        below = declared.get(key)
        both = isinstance(value, dict) and isinstance(below, dict)
        result[key] = overlaid(below or {}, value) if both else value
    return result


def leaves(document: Document, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yields every value of a document that is no mapping, with its path.

    Example:
        >>> list(leaves({"a": {"b": 1}, "c": [2]}))
        [('a.b', 1), ('c', [2])]
    """
    for key, value in document.items():
        place = f"{path}.{key}" if path else key
        if isinstance(value, dict) and value:
            yield from leaves(value, place)
        else:
            yield place, value
