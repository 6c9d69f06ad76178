"""Many tables of one source: the catalog is asked about all of them at once."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from demo.embedded_server import EmbeddedServer
from extract_load.catalog import read_row_versions
from extract_load.connection import READ_CONSISTENT
from extract_load.identifiers import TableName
from extract_load.source_table import SourceTables, read_source_table, read_source_tables
from tests.support.landing import assert_equal, land, session_on
from tests.support.servers import Database

EVERY_KIND = """
CREATE SCHEMA shop;
CREATE TYPE shop.mood AS ENUM ('good', 'bad');
CREATE TYPE shop.pair AS (low int, mood shop.mood);
CREATE DOMAIN shop.short AS varchar(10) CHECK (length(VALUE) < 9);
CREATE TABLE public.plain (id int PRIMARY KEY, body text DEFAULT 'none', moods shop.mood[]);
CREATE TABLE shop.plain (
    id bigint, mood shop.mood NOT NULL, pair shop.pair, short shop.short,
    spans int4range[], UNIQUE (id, mood)
);
COMMENT ON COLUMN shop.plain.mood IS 'how it was';
CREATE TABLE shop.parent (id int, body text);
CREATE TABLE shop.child (more int) INHERITS (shop.parent);
CREATE TABLE public.events (id int, day date, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
CREATE TABLE public.events_01 PARTITION OF public.events
    FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');
CREATE TABLE shop.events_02 PARTITION OF public.events
    FOR VALUES FROM ('2026-02-01') TO ('2026-03-01') PARTITION BY HASH (id);
CREATE TABLE shop.events_02_all PARTITION OF shop.events_02
    FOR VALUES WITH (modulus 1, remainder 0);
CREATE TABLE public.empty ();
CREATE TABLE public."Odd, {name}%" ("Id" int PRIMARY KEY, "a b" text);
CREATE VIEW public.both AS
    SELECT id, body FROM shop.parent UNION ALL SELECT id, body FROM public.plain;
CREATE MATERIALIZED VIEW public.kept AS SELECT id FROM public.both;
INSERT INTO public.plain SELECT i, 'body', '{good,bad}' FROM generate_series(1, 2000) AS i;
INSERT INTO public.events SELECT i, '2026-01-01'::date + i % 50 FROM generate_series(1, 500) AS i;
ANALYZE
"""
NAMES = [
    *(TableName("public", name) for name in ("plain", "events", "events_01", "empty")),
    *(TableName("shop", name) for name in ("plain", "parent", "child", "events_02")),
    *(TableName("public", name) for name in ("Odd, {name}%", "both", "kept")),
]
SOME = [f"t{number}" for number in range(12)]
TABLES: list[dict[str, Any]] = [
    {"source": f"public.{name}", "sync_mode": "full_sync"} for name in SOME
]


@pytest.fixture
def some(source: Database) -> Database:
    for name in SOME:
        source.execute(
            f"CREATE TABLE public.{name} (id int PRIMARY KEY, body text);"
            f"INSERT INTO public.{name} SELECT i, '{name}' FROM generate_series(1, 50) AS i"
        )
    return source


def test_read_together_each_is_as_it_is_read_alone(source: Database) -> None:
    source.execute(EVERY_KIND)
    with session_on(source, "source") as session, session.transaction(READ_CONSISTENT):
        together = read_source_tables(session, NAMES)
        alone = {name: read_source_table(session, name) for name in NAMES}
        assert together == alone
        plain = [table for table in alone.values() if table.kind == "r"]
        versions = read_row_versions(session, plain)
    assert len(together) == len(NAMES)
    assert [len(together[name].leaves) for name in NAMES[:2]] == [1, 2]
    assert versions == {table.oid: table.row_versions for table in plain}
    assert len(set(versions.values())) == len(plain)


def test_what_is_not_expected_is_read_later(source: Database) -> None:
    source.execute(EVERY_KIND)
    absent, *others = TableName("public", "absent"), *NAMES
    with session_on(source, "source") as session, session.transaction(READ_CONSISTENT):
        tables = SourceTables([others[0], absent, others[0]])
        assert tables.get(session, others[1]) == read_source_table(session, others[1])
        assert tables.get(session, others[0]) == read_source_table(session, others[0])


def test_a_run_asks_the_catalog_once_for_all_tables(
    some: Database, target: Database, source_server: EmbeddedServer
) -> None:
    some.execute(f"ALTER DATABASE \"{some.name}\" SET log_statement = 'all'")
    log = Path(source_server.data_dir) / "server.log"
    before = log.stat().st_size
    report = land(some, target, *TABLES)
    said = log.read_bytes()[before:].decode()
    asked = Counter(
        {
            comment: said.count(comment)
            for comment in ("Relations by name", "The columns of relations", "Types of columns")
        }
    )
    assert not report.failed
    assert asked == dict.fromkeys(asked, 1)
    assert_equal(some, target, *TABLES)


def test_one_that_is_not_there_fails_alone(some: Database, target: Database) -> None:
    some.execute("DROP TABLE public.t5")
    report = land(some, target, *TABLES)
    assert [one.source for one in report.failed] == ["public.t5"]
    assert 'no table "public.t5"' in str(report.failed[0].error)
    assert_equal(some, target, *TABLES[:5], *TABLES[6:])


@pytest.mark.parametrize(
    "alter",
    [
        "ALTER TABLE public.t{n} RENAME body TO text",
        "ALTER TABLE public.t{n} DROP COLUMN body",
        "ALTER TABLE public.t{n} ADD COLUMN more int DEFAULT 7;INSERT INTO public.t{n} VALUES (99)",
        "TRUNCATE public.t{n}; INSERT INTO public.t{n} VALUES (1, 'later')",
        "DROP TABLE public.t{n}; CREATE TABLE public.t{n} AS SELECT 3 AS id, 'other' AS body;"
        "ALTER TABLE public.t{n} ADD PRIMARY KEY (id)",
    ],
)
def test_tables_altered_before_their_turn_are_landed_as_they_are(
    some: Database, target: Database, alter: str
) -> None:
    """The catalog told of them when the first table began."""
    done: list[int] = []

    def once(chunks: int) -> None:
        done.append(chunks)
        if len(done) == 1:
            for number in range(4, len(SOME)):
                some.execute(alter.format(n=number))

    report = land(some, target, *TABLES, after_chunk=once)
    assert done
    assert not report.failed, [str(one.error) for one in report.failed]
    assert_equal(some, target, *TABLES)


def test_one_that_is_locked_keeps_no_other_waiting(some: Database, target: Database) -> None:
    """To tell its size the server waits for whoever rewrites it."""
    some.execute("CREATE MATERIALIZED VIEW public.m AS SELECT 1 AS id")
    tables = [*TABLES, {"source": "public.m", "sync_mode": "full_sync"}]
    done: list[int] = []
    holder = some.connect()
    holder.autocommit = False
    with holder.cursor() as cursor:
        cursor.execute("REFRESH MATERIALIZED VIEW public.m")

    def free(chunks: int) -> None:
        done.append(chunks)
        if len(done) == len(TABLES):
            holder.rollback()

    report = land(some, target, *tables, after_chunk=free)
    holder.close()

    assert not report.failed, [str(one.error) for one in report.failed]
    assert [one.retries for one in report.tables] == [0] * len(tables)


def test_what_a_view_reads_is_not_locked_before_its_turn(some: Database, target: Database) -> None:
    some.execute(
        "CREATE TABLE public.orders AS SELECT 1 AS id; CREATE VIEW public.v AS TABLE public.orders"
    )
    tables = [*TABLES, {"source": "public.v", "sync_mode": "full_sync"}]
    altered: list[int] = []

    def alter(chunks: int) -> None:
        if not altered:
            altered.append(chunks)
            some.execute("SET lock_timeout = '300ms'; ALTER TABLE public.orders ADD more int")

    report = land(some, target, *tables, after_chunk=alter)

    assert altered
    assert not report.failed, [str(one.error) for one in report.failed]


def test_a_function_that_misses_a_column_is_no_change_of_the_table(
    some: Database, target: Database
) -> None:
    some.execute(
        "CREATE FUNCTION public.fine(id int) RETURNS bool IMMUTABLE LANGUAGE plpgsql AS "
        "$$ DECLARE one record; BEGIN SELECT id AS a INTO one; RETURN one.b > 0; END $$"
    )
    table = {**TABLES[0], "custom_where": "fine(id)", "search_path": ["public"]}

    (result,) = land(some, target, table).tables

    assert result.error is not None
    assert 'record "one" has no field "b"' in result.error.detail
    assert "altered" not in str(result.error)
    assert result.retries == 0
