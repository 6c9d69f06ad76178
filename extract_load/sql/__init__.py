"""Long queries, in files, each named and described."""

import re
from functools import cache
from pathlib import Path

_NAMED = re.compile(r"^-- name: (?P<name>\w+)\n(?P<body>.*?)(?=^-- name: |\Z)", re.M | re.S)


@cache
def queries(file: str) -> dict[str, str]:
    """Returns the queries of one file of this folder, by name.

    Args:
        file: Without its ending, for example `catalog`.
    """
    text = Path(__file__).with_name(f"{file}.sql").read_text(encoding="utf-8")
    return {match["name"]: match["body"].strip() for match in _NAMED.finditer(text)}
