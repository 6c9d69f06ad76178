"""Versions of catalog rows: they change with all that alters a table, and with nothing else."""

import pytest

from extract_load.catalog import read_row_versions
from extract_load.connection import READ_CONSISTENT
from extract_load.identifiers import TableName
from extract_load.source_table import read_source_table
from tests.support.landing import session_on
from tests.support.servers import Database

TABLE = TableName("shop", "items")
CREATE = """
CREATE SCHEMA shop;
CREATE SCHEMA kinds;
CREATE TYPE kinds.mood AS ENUM ('good', 'bad');
CREATE TYPE kinds.inner AS (low int, high int);
CREATE TYPE kinds.pair AS (name text, range kinds.inner);
CREATE DOMAIN kinds.short AS text CHECK (length(VALUE) < 100);
CREATE TABLE shop.items (
    id int PRIMARY KEY, body text, mood kinds.mood, pair kinds.pair, pairs kinds.pair[],
    short kinds.short, twice int GENERATED ALWAYS AS (id * 2) STORED
);
INSERT INTO shop.items SELECT i, 'body', 'good' FROM generate_series(1, 100) AS i
"""
ALTERING = [
    "ALTER TABLE shop.items RENAME body TO text",
    "ALTER TABLE shop.items ADD COLUMN more int DEFAULT 7",
    "ALTER TABLE shop.items DROP COLUMN body",
    "ALTER TABLE shop.items ALTER body TYPE varchar",
    "ALTER TABLE shop.items ALTER body SET NOT NULL",
    "ALTER TABLE shop.items DROP COLUMN twice;"
    "ALTER TABLE shop.items ADD COLUMN twice int GENERATED ALWAYS AS (id * 3) STORED",
    "ALTER TYPE kinds.mood RENAME VALUE 'good' TO 'fine'",
    "ALTER TYPE kinds.mood ADD VALUE 'none'",
    "ALTER TYPE kinds.pair RENAME ATTRIBUTE name TO title",
    "ALTER TYPE kinds.pair ADD ATTRIBUTE more int",
    "ALTER TYPE kinds.inner RENAME TO bounds",
    "ALTER SCHEMA kinds RENAME TO types",
    "ALTER SCHEMA shop RENAME TO store; CREATE SCHEMA shop;"
    "CREATE TABLE shop.items (id int PRIMARY KEY)",
    "ALTER TABLE shop.items RENAME TO old; CREATE TABLE shop.items (id int PRIMARY KEY)",
    "ALTER TABLE shop.items SET SCHEMA public",
    "DROP TABLE shop.items",
]
HARMLESS = [
    "INSERT INTO shop.items SELECT i FROM generate_series(101, 5000) AS i",
    "UPDATE shop.items SET body = 'new'; DELETE FROM shop.items WHERE id > 50",
    "VACUUM shop.items",
    "ANALYZE shop.items",
    "VACUUM FULL pg_catalog.pg_attribute",
    "VACUUM FREEZE pg_catalog.pg_attribute",
    "CREATE TABLE shop.another (id int, mood kinds.mood)",
]


@pytest.fixture
def items(source: Database) -> Database:
    source.execute(CREATE)
    return source


def versions_around(source: Database, statements: str) -> tuple[str, str]:
    """Returns the versions that a snapshot showed, and those after some statements."""
    with session_on(source, "source") as session:
        with session.transaction(READ_CONSISTENT):
            table = read_source_table(session, TABLE)
        for statement in statements.split(";"):
            source.execute(statement)
        with session.transaction(READ_CONSISTENT):
            return str(table.row_versions), str(read_row_versions(session, [table]).get(table.oid))


@pytest.mark.parametrize("statements", ALTERING)
def test_what_alters_a_table_shows(items: Database, statements: str) -> None:
    before, after = versions_around(items, statements)
    assert before != after


@pytest.mark.parametrize("statement", HARMLESS)
def test_what_does_not_is_not_seen(items: Database, statement: str) -> None:
    before, after = versions_around(items, statement)
    assert before == after


def test_only_plain_tables_have_them(source: Database) -> None:
    """A partition may come, a view's tables may be altered: these are read as a whole again."""
    source.execute(
        "CREATE TABLE public.parts (id int) PARTITION BY RANGE (id);"
        "CREATE VIEW public.view AS SELECT 1 AS one"
    )
    with session_on(source, "source") as session, session.transaction(READ_CONSISTENT):
        for name in ("parts", "view"):
            assert read_source_table(session, TableName("public", name)).row_versions is None
