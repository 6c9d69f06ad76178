"""When two tables on two servers hold the same rows: the one definition of it.

Per column the text under pinned settings (a session's own, see `connection`), in UTF-8; bytea and
"char" by their bytes. A row's digest is a hash over the lengths and texts of its columns.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from psycopg2 import sql

from extract_load.connection import READ_CONSISTENT, Session
from extract_load.identifiers import TableName

Key = tuple[str | None, ...]


@dataclass(frozen=True)
class TableDifference:
    """Keys by what is wrong with them; all empty when the tables are equal."""

    missing: tuple[Key, ...]
    """In the source only."""
    extra: tuple[Key, ...]
    """In the target only."""
    different: tuple[Key, ...]
    """In both, with other content."""

    @property
    def is_equal(self) -> bool:
        """Whether both tables hold the same rows."""
        return not (self.missing or self.extra or self.different)


def row_digest(columns: Sequence[str], binary: frozenset[str] = frozenset()) -> sql.Composable:
    """Returns the SQL expression for a row's digest.

    Args:
        columns: Names in one order for both sides.
        binary: Those of type bytea or "char".
    """
    parts: list[sql.Composable] = []
    for name in columns:
        form = "encode({}::bytea, 'hex')" if name in binary else "{}::text"
        text = sql.SQL(form).format(sql.Identifier(name))
        # Bytes of UTF-8: a database in SQL_ASCII counts others as characters.
        measured = "coalesce(octet_length(convert_to({0}, 'UTF8')) || ':' || {0}, '-')"
        parts.append(sql.SQL(measured).format(text))
    return sql.SQL("sha256(convert_to(concat({}), 'UTF8'))").format(
        sql.SQL(", ").join(_nested(parts))
    )


def _nested(parts: list[sql.Composable]) -> list[sql.Composable]:
    """At most 50 arguments a call: PostgreSQL's functions end at 100."""
    if len(parts) <= 50:
        return parts
    return [
        sql.SQL("concat({})").format(sql.SQL(", ").join(_nested(parts[start : start + 50])))
        for start in range(0, len(parts), 50)
    ]


def compare(
    source: tuple[Session, TableName, sql.Composable],
    target: tuple[Session, TableName, sql.Composable],
    columns: Sequence[str],
    key: Sequence[str],
    binary: frozenset[str] = frozenset(),
) -> TableDifference:
    """Returns how two tables differ. Reads every row of both; memory grows with the rows.

    Args:
        source: Session, table, and the condition for a row to belong.
        target: The same for the other side.
        columns: Names to compare.
        key: Names that tell rows apart.
        binary: Columns of type bytea or "char".
    """
    ours = _digests(*source, columns, key, binary)
    theirs = _digests(*target, columns, key, binary)
    return TableDifference(
        missing=tuple(sorted(ours.keys() - theirs.keys(), key=repr)),
        extra=tuple(sorted(theirs.keys() - ours.keys(), key=repr)),
        different=tuple(
            sorted((k for k in ours.keys() & theirs.keys() if ours[k] != theirs[k]), key=repr)
        ),
    )


def _digests(
    session: Session,
    table: TableName,
    belongs: sql.Composable,
    columns: Sequence[str],
    key: Sequence[str],
    binary: frozenset[str],
) -> dict[Key, bytes]:
    keys = sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Identifier(name)) for name in key)
    query = sql.SQL("SELECT {}, {} FROM ONLY {} WHERE {}").format(
        keys, row_digest(columns, binary), table.sql, belongs
    )
    with session.transaction(READ_CONSISTENT, {"search_path": "pg_catalog, public"}):
        rows = session.execute(query, doing=f'read "{table}"')
    digests = {tuple(row[:-1]): bytes(row[-1]) for row in rows}
    if len(digests) < len(rows):
        msg = f"{len(rows) - len(digests)} rows of {table} repeat a key"
        raise ValueError(msg)
    return digests
