"""The definition of equality: what it must tell apart, and what no server's habits may change."""

import random
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from psycopg2 import sql

from demo.embedded_server import EmbeddedServer
from extract_load import equality
from extract_load.connection import READ_CONSISTENT, Session
from extract_load.digests import Value, row_digest
from extract_load.equality import Part, Side, compare
from tests.support.landing import session_on
from tests.support.servers import Database, fresh_database

UNLIKE = [
    ("text", "''", "NULL"),
    ("text", "'NULL'", "NULL"),
    ("integer", "0", "NULL"),
    ("numeric", "1.0", "1.00"),
    ("double precision", "'-0'", "0"),
    ("double precision", "0.1::float8 + 0.2", "0.3"),
    ("bpchar", "'ab '", "'ab'"),
    ("character varying(9)", "'ab '", "'ab'"),
    ("bytea", "'\\x00'", "''"),
    ('"char"', "'\\200'", "'\\201'"),
    ('"char"', "''", "NULL"),
    ("text[]", "'{NULL}'", "'{\"NULL\"}'"),
    ("text[]", "'[2:3]={a,b}'", "'{a,b}'"),
    ("jsonb", "'null'", "NULL"),
    ("json", "'{\"a\": 1}'", "'{\"a\":1}'"),
    ("interval", "'24:00'", "'1 day'"),
    ("timestamptz", "'infinity'", "'2026-01-01'"),
]


def digest(database: Database, *values: tuple[str, str]) -> bytes:
    """The digest of a row of values, each with its type."""
    columns = [Value(sql.SQL(f"({text})::{type_}"), type_) for text, type_ in values]
    with session_on(database, "source") as session, session.transaction(READ_CONSISTENT):
        ((found,),) = session.execute(sql.SQL("SELECT {}").format(row_digest(columns)))
    return bytes(found)


@pytest.mark.parametrize(("type_", "first", "second"), UNLIKE)
def test_values_that_only_look_alike_are_told_apart(
    type_: str, first: str, second: str, source: Database
) -> None:
    assert digest(source, (first, type_)) != digest(source, (second, type_))
    assert digest(source, (first, type_)) == digest(source, (first, type_))


def test_a_char_is_compared_by_its_byte(source: Database) -> None:
    """Before 16 its text is the bare byte, which is no UTF-8; since then it is an escape."""
    assert digest(source, ("'\\200'", '"char"')) == digest(source, ("80", "integer"))


@pytest.mark.parametrize("type_", ["text", "character varying(9)"])
def test_what_one_column_ends_with_no_other_begins_with(type_: str, source: Database) -> None:
    rows = [("'a'", "'b,c'"), ("'a,b'", "'c'"), ("'a'',''b'", "'c'"), ("'a'", "'b'',''c'")]
    found = {digest(source, *((text, type_) for text in row)) for row in rows}

    assert len(found) == len(rows)


def test_a_table_of_many_columns_or_none_has_a_digest(source: Database) -> None:
    many = digest(source, *(("1", "integer") for _ in range(1598)))
    other = digest(source, *(("1", "integer") for _ in range(1597)), ("2", "integer"))

    assert len({many, other, digest(source)}) == 3


@pytest.mark.parametrize("encoding", ["EUC_KR", "SQL_ASCII"])
@pytest.mark.parametrize("type_", ["text", "character varying(9)"])
def test_a_text_is_the_same_in_every_encoding(
    encoding: str, type_: str, source: Database, source_server: EmbeddedServer
) -> None:
    with fresh_database(source_server, "other", encoding) as other:
        assert digest(source, ("'한글'", type_)) == digest(other, ("'한글'", type_))


@pytest.mark.slow
def test_values_of_megabytes_are_hashed_by_themselves(source: Database) -> None:
    """Five of 100 MB in one text would be more than PostgreSQL can hold."""
    value = ("repeat('x', 100000000)", "text")

    assert len(digest(source, *(value for _ in range(11)))) == 32


# ---------------------------------------------------------------- two tables


def side(session: Session, rows: str, key: tuple[str, ...]) -> Side:
    """Rows of `VALUES`, columns a and b."""

    @contextmanager
    def reading(_: tuple[int, ...]) -> Iterator[Session]:
        with session.transaction(READ_CONSISTENT):
            yield session

    columns = {name: Value(sql.Identifier(name), "text") for name in ("a", "b")}
    origin = sql.SQL("({}) AS t (a, b)").format(sql.SQL(rows))
    return Side(
        columns=tuple(columns.values()),
        key=tuple(columns[name] for name in key),
        parts=(Part(origin, sql.SQL("true")),),
        reading=reading,
    )


def test_two_equal_rows_do_not_cancel_each_other(source: Database) -> None:
    """An XOR of digests would call a pair of rows, and any other pair, the same."""
    twice = "VALUES (1, {0}), (1, {0})"
    with session_on(source, "source") as ours, session_on(source, "source") as theirs:
        found = compare(
            side(ours, twice.format("'x'"), ("a",)), side(theirs, twice.format("'y'"), ("a",))
        )

    assert found.different_count == 2


def test_memory_holds_a_page_of_rows_at_a_time(
    source: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All 5000 rows differ: they are fetched page by page, and the counts are exact."""
    monkeypatch.setattr(equality, "_ROWS_PER_FETCH", 100)
    most = []
    execute = Session.execute

    def watched(self: Session, *arguments: Any, **named: Any) -> Any:
        rows = execute(self, *arguments, **named)
        most.append(len(rows))
        return rows

    monkeypatch.setattr(Session, "execute", watched)
    many = "SELECT i, {} FROM generate_series(1, 5000) AS i"
    with session_on(source, "source") as ours, session_on(source, "source") as theirs:
        found = compare(
            side(ours, many.format("'x'"), ("a",)), side(theirs, many.format("'y'"), ("a",))
        )

    assert (found.different_count, len(found.different)) == (5000, 100)
    assert max(most) == 100


def as_query(rows: list[tuple[int, str | None]]) -> str:
    """The rows as a query; a table without rows has no VALUES."""
    listed = ", ".join(f"({a}, {'NULL' if b is None else repr(b)})" for a, b in rows)
    return f"VALUES {listed}" if rows else "SELECT 1, 'x' WHERE false"


@pytest.mark.parametrize("key", [("a",), ()], ids=["keyed", "keyless"])
def test_random_tables_are_compared_as_python_compares_them(
    source: Database, key: tuple[str, ...]
) -> None:
    dice = random.Random(7)

    def table() -> list[tuple[int, str | None]]:
        keys = dice.sample(range(8), dice.randint(0, 8)) if key else dice.choices(range(3), k=9)
        return [(number, dice.choice(["x", "y", None])) for number in keys]

    with session_on(source, "source") as ours, session_on(source, "source") as theirs:
        for _ in range(40):
            left, right = table(), table()
            found = compare(side(ours, as_query(left), key), side(theirs, as_query(right), key))
            missing, extra = Counter(left) - Counter(right), Counter(right) - Counter(left)
            both = {a for a, _ in missing} & {a for a, _ in extra} if key else set()
            assert found.different_count == len(both)
            assert found.missing_count == missing.total() - len(both)
            assert found.extra_count == extra.total() - len(both)
            assert {one[0] for one in found.different} == {str(number) for number in both}
            assert (found.source_rows, found.target_rows) == (len(left), len(right))
            assert found.is_equal == (Counter(left) == Counter(right))
