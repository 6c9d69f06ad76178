"""The only way a name enters SQL.

Table names are written as in SQL, `schema.table`, except that case is never folded: a part
with a dot, a space or a quote in it stands in double quotes, any part may.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from psycopg2 import sql

MAX_BYTES = 63
"""PostgreSQL's NAMEDATALEN - 1: longer names would be cut silently."""

_PART = re.compile(r'"(?P<quoted>(?:[^"]|"")+)"|(?P<plain>[^".\s]+)')


@dataclass(frozen=True)
class TableName:
    """A schema and a table, and how the user wrote them."""

    schema: str
    table: str
    written: str = field(default="", compare=False)
    """As it stood in the settings; messages and JSON repeat it."""

    def __post_init__(self) -> None:
        if not self.written:
            object.__setattr__(self, "written", f"{quoted(self.schema)}.{quoted(self.table)}")

    def __str__(self) -> str:
        return self.written

    @property
    def said(self) -> str:
        """The name in a sentence: in double quotes, unless a part of it stands in some already."""
        return self.written if '"' in self.written else f'"{self.written}"'

    @property
    def parts(self) -> tuple[str, str]:
        """Schema and table."""
        return self.schema, self.table

    @property
    def regclass(self) -> str:
        """The name as a value that `to_regclass` reads."""
        return ".".join(map(quoted_name, self.parts))

    @property
    def sql(self) -> sql.Identifier:
        """The qualified name, quoted for a statement."""
        return sql.Identifier(self.schema, self.table)


def parse_table_name(written: str) -> TableName:
    """Returns the table that a text in a settings file names.

    Args:
        written: `schema.table`; parts may stand in double quotes, a quote in them doubled.

    Raises:
        ValueError: If the text is not two parts, or a part is longer than 63 bytes.

    Example:
        >>> parse_table_name('public.users').parts
        ('public', 'users')
        >>> parse_table_name('"시장"."종목 마스터"').parts
        ('시장', '종목 마스터')
    """
    parts: list[str] = []
    position = 0
    while match := _PART.match(written, position):
        quoted_part = match["quoted"]
        parts.append(match["plain"] if quoted_part is None else quoted_part.replace('""', '"'))
        position = match.end()
        if not written.startswith(".", position):
            break
        position += 1
    if len(parts) != 2 or position != len(written):
        msg = (
            f"{written!r} is no table name; write schema.table, "
            "with double quotes around a part that has a dot, space or quote in it"
        )
        raise ValueError(msg)
    for part in parts:
        check_name(part)
    return TableName(parts[0], parts[1], written)


def check_name(name: str) -> str:
    """Returns the name of a column, schema or table when PostgreSQL can hold it.

    Raises:
        ValueError: If it is empty, has a NUL in it or is longer than 63 bytes.
    """
    if not name or "\0" in name:
        msg = f"{name!r} is no name"
        raise ValueError(msg)
    if len(name.encode()) > MAX_BYTES:
        msg = f"{name!r} has {len(name.encode())} bytes; PostgreSQL's names end at {MAX_BYTES}"
        raise ValueError(msg)
    return name


def quoted_name(name: str) -> str:
    """Returns a name as SQL reads it, always in quotes.

    Example:
        >>> print(quoted_name('my "own" users'))
        "my ""own"" users"
    """
    return '"' + name.replace('"', '""') + '"'


def quoted(name: str) -> str:
    """Returns a part of a table name as the settings would write it.

    Example:
        >>> quoted('users'), quoted('my users')
        ('users', '"my users"')
    """
    if re.search(r'[".\s]', name):
        return quoted_name(name)
    return name


def columns_sql(names: Iterable[str], alias: str = "") -> sql.Composed:
    """Returns column names joined by commas, each behind the alias when one is given."""
    prefix = (alias,) if alias else ()
    return sql.SQL(", ").join(sql.Identifier(*prefix, name) for name in names)
