"""A raw table after its source's columns changed, and runs that end between DDL and rows."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from extract_load.landing import Landing
from tests.support.landing import land
from tests.support.servers import Database
from tests.support.tables import RAW


def raw_columns(target: Database) -> dict[str, tuple[str, bool]]:
    """Returns each column's type, and whether it is NOT NULL."""
    rows = target.execute(
        "SELECT attname, format_type(atttypid, atttypmod), attnotnull FROM pg_attribute "
        f"WHERE attrelid = '{RAW}'::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum"
    )
    return {name: (type_text, is_not_null) for name, type_text, is_not_null in rows}


def raw_key(target: Database) -> list[str]:
    """Returns the columns of the raw table's primary key, in the table's order."""
    rows = target.execute(
        "SELECT a.attname FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid "
        f"AND a.attnum = ANY (i.indkey) WHERE i.indrelid = '{RAW}'::regclass AND i.indisprimary"
        " ORDER BY a.attnum"
    )
    return [name for (name,) in rows]


def failure(source: Database, target: Database, table: dict[str, Any], **options: Any) -> Any:
    """Returns the error of landing one table, which must fail."""
    (result,) = land(source, target, table, **options).tables
    assert result.error is not None
    return result.error


@contextmanager
def killed_after_ddl() -> Iterator[None]:
    """Ends runs between their DDL and their first row."""

    def end(*_: object) -> None:
        raise KeyError

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Landing, "_load_rows", end)
        yield
