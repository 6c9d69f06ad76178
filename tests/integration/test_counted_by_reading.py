"""Reading a delta counts its source: a number that is too large would hide a deleted row."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from psycopg2 import sql

from demo.embedded_server import EmbeddedServer
from extract_load.chunking import BlockRange, Range, WholeTable, split_blocks
from extract_load.connection import READ_CONSISTENT, Session
from extract_load.source_counts import SourceCounts
from tests.integration.test_counts import evidence_of
from tests.support.doctor import new_role
from tests.support.landing import assert_equal, land_one, session_on
from tests.support.servers import Database

XMIN: dict[str, Any] = {
    "source": "public.items",
    "sync_mode": "xmin_incremental",
    "batch_size": 1000,
}
FULL: dict[str, Any] = {**XMIN, "sync_mode": "full_sync"}
EVERY = pytest.mark.parametrize("table", [XMIN, FULL], ids=["xmin", "full"])
RAW = "raw_data.digitalocean_items"
COUNT = 'SELECT count(*) FROM ONLY "public"."items"'
CHANGE = (
    "UPDATE public.items SET body = 'changed' WHERE id % 100 = 0;"
    "INSERT INTO public.items SELECT i, 'new' FROM generate_series(20001, 20050) AS i"
)
VERSION = 180000


def create_items(source: Database) -> None:
    """Makes the table of these tests: 20 000 rows."""
    source.execute(
        "CREATE TABLE public.items (id int PRIMARY KEY, body text);"
        "INSERT INTO public.items SELECT i, 'body' FROM generate_series(1, 20000) AS i;"
        "ANALYZE public.items"
    )


@pytest.fixture
def items(source: Database) -> Database:
    create_items(source)
    return source


@contextmanager
def counts_asked(
    source: Database, server: EmbeddedServer, count: str = COUNT
) -> Iterator[list[str]]:
    """Yields a list that holds, after the block, the counts the source was asked for in it."""
    source.execute(f"ALTER DATABASE \"{source.name}\" SET log_statement = 'all'")
    log = Path(server.data_dir) / "server.log"
    before = log.stat().st_size
    found: list[str] = []
    yield found
    lines = log.read_bytes()[before:].decode().splitlines()
    found += [line for line in lines if count in line]


@EVERY
def test_a_delta_is_not_counted_once_more(
    items: Database, target: Database, source_server: EmbeddedServer, table: dict[str, Any]
) -> None:
    land_one(items, target, table)
    items.execute(CHANGE)

    with counts_asked(items, source_server) as asked:
        result = land_one(items, target, table)

    assert asked == []
    assert (result.rows_inserted, result.rows_updated, result.rows_deleted) == (50, 200, 0)
    assert_equal(items, target, table)


@EVERY
@pytest.mark.parametrize("gone", ["id = 1", "id = 20000", "id % 7 = 3", "id <= 10000"])
def test_deleted_rows_are_missed(
    items: Database,
    target: Database,
    source_server: EmbeddedServer,
    table: dict[str, Any],
    gone: str,
) -> None:
    table = {**table, "max_delete_ratio": 0.9}
    land_one(items, target, table)
    items.execute(f"{CHANGE}; DELETE FROM public.items WHERE {gone}")

    with counts_asked(items, source_server) as asked:
        result = land_one(items, target, table)

    assert len(asked) == 1  # that something is gone is not proved by what reads passed
    assert result.rows_deleted > 0
    assert_equal(items, target, table)


def test_what_reads_do_not_tell_is_counted(
    items: Database,
    target: Database,
    source_server: EmbeddedServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    land_one(items, target, XMIN)
    items.execute(CHANGE)
    items.execute(f'ALTER DATABASE "{items.name}" SET track_counts = off')
    told = evidence_of(monkeypatch, lambda: None)

    with counts_asked(items, source_server) as asked:
        land_one(items, target, XMIN)

    assert len(asked) == 1
    assert [each.is_by_count for each in told] == [True], "the count proved it; no key was read"
    assert_equal(items, target, XMIN)


def test_rows_a_condition_leaves_out_are_not_counted(
    items: Database,
    target: Database,
    source_server: EmbeddedServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    table = {**XMIN, "custom_where": "id % 2 = 0"}
    land_one(items, target, table)
    items.execute(CHANGE)
    told = evidence_of(monkeypatch, lambda: None)

    with counts_asked(items, source_server) as asked:
        land_one(items, target, table)

    assert len(asked) == 1
    assert [each.is_by_count for each in told] == [True], "the count proved it; no key was read"
    assert_equal(items, target, table)


def test_rows_an_index_finds_are_not_counted(
    items: Database, target: Database, source_server: EmbeddedServer
) -> None:
    """By (kind, at) the planner finds the rows of a range of blocks, and passes no others."""
    items.execute(
        "ALTER TABLE public.items ADD COLUMN kind int DEFAULT 1, ADD COLUMN at timestamptz;"
        "UPDATE public.items SET at = timestamptz '2026-01-01' + id * interval '1 minute';"
        "CREATE INDEX ON public.items (kind, at)"
    )
    items.execute("VACUUM ANALYZE public.items")
    table = {
        **XMIN,
        "sync_mode": "incremental_sync",
        "incremental_field": "at",
        "deletes": "hard",
    }
    land_one(items, target, table)
    items.execute(
        "UPDATE public.items SET body = 'changed', at = now() WHERE id = 7;"
        "DELETE FROM public.items WHERE id = 8"
    )

    with counts_asked(items, source_server) as asked:
        assert land_one(items, target, table).rows_deleted == 1

    assert len(asked) == 1
    assert_equal(items, target, table)


def test_partitions_of_one_chunk_each_are_counted_by_reading(
    source: Database, target: Database, source_server: EmbeddedServer
) -> None:
    source.execute(
        "CREATE TABLE public.items (id int PRIMARY KEY, body text) PARTITION BY HASH (id)"
    )
    for rest in range(3):
        source.execute(
            f"CREATE TABLE public.items_{rest} PARTITION OF public.items"
            f" FOR VALUES WITH (MODULUS 3, REMAINDER {rest})"
        )
    source.execute(
        "INSERT INTO public.items SELECT i, 'body' FROM generate_series(1, 9000) AS i;"
        "ANALYZE public.items"
    )
    table = {"source": "public.items", "sync_mode": "xmin_incremental"}
    land_one(source, target, table)
    source.execute("DELETE FROM public.items WHERE id IN (7, 8, 9)")

    with counts_asked(source, source_server, 'SELECT count(*) FROM ONLY "public"."items') as asked:
        assert land_one(source, target, table).rows_deleted == 3

    assert len(asked) == 3  # it was not proved that nothing is gone
    with counts_asked(source, source_server, 'SELECT count(*) FROM ONLY "public"."items') as asked:
        land_one(source, target, table)
    assert asked == []
    rows = [f"SELECT id, body FROM {name} ORDER BY id" for name in ("public.items", RAW)]
    assert source.execute(rows[0]) == target.execute(rows[1])


@pytest.mark.parametrize("wrong", [-1, 1])
def test_a_wrong_number_costs_a_count(
    items: Database, target: Database, monkeypatch: pytest.MonkeyPatch, wrong: int
) -> None:
    """It may send the run to compare keys; it fails no run and is compared with no raw table."""
    land_one(items, target, XMIN)
    items.execute(f"{CHANGE}; DELETE FROM public.items WHERE id <= 5")
    passed = SourceCounts.passed

    def miscounted(self: SourceCounts, oid: int, ranges: Any) -> int | None:
        rows = passed(self, oid, ranges)
        return None if rows is None else rows + wrong

    monkeypatch.setattr(SourceCounts, "passed", miscounted)
    assert land_one(items, target, XMIN).rows_deleted == 5
    assert_equal(items, target, XMIN)


def test_who_may_not_ask_counts(
    items: Database, target: Database, source_server: EmbeddedServer
) -> None:
    land_one(items, target, XMIN)
    items.execute(CHANGE)
    reader = new_role(items)
    items.execute(f'GRANT SELECT ON public.items TO "{reader.user}"')
    function = "FUNCTION pg_catalog.pg_stat_get_xact_tuples_returned(oid)"
    items.execute(f"REVOKE EXECUTE ON {function} FROM PUBLIC")

    with counts_asked(items, source_server) as asked:
        assert land_one(reader, target, XMIN).rows_inserted == 50

    assert len(asked) == 1


def test_a_baseline_is_counted_by_itself(
    items: Database, target: Database, source_server: EmbeddedServer
) -> None:
    with counts_asked(items, source_server) as asked:
        land_one(items, target, FULL)

    assert len(asked) == 1


def read(reader: Session, range_: Range) -> None:
    """Reads a range as a chunk does, choosing next to nothing of it."""
    query = sql.SQL("SELECT id FROM ONLY public.items WHERE {} AND xmin::text = '3'")
    reader.execute(query.format(range_.predicate))


@pytest.mark.parametrize("seed", range(10))
def test_the_rows_passed_are_those_of_the_snapshot(items: Database, seed: int) -> None:
    assert_reads_count(items, seed)


def assert_reads_count(items: Database, seed: int) -> None:
    """Among updates, deletes, rolled back and open transactions, before the snapshot and after."""
    chance = random.Random(seed)
    ((oid,),) = items.execute("SELECT 'public.items'::regclass::oid::bigint")
    with items.connect() as others, session_on(items, "source") as reader:
        with others.cursor() as cursor:
            for end in ("COMMIT", "ROLLBACK", "VACUUM", None):
                _change_rows(cursor, chance)
                if end == "VACUUM":
                    cursor.execute("COMMIT")
                    items.execute("VACUUM public.items")
                elif end is not None:
                    cursor.execute(end)
            reader.begin(READ_CONSISTENT)
            ((rows,),) = reader.execute("SELECT count(*) FROM public.items")
            others.commit()
            _change_rows(cursor, chance)
            others.commit()
        ((blocks,),) = items.execute(
            "SELECT pg_relation_size('public.items') / current_setting('block_size')::int"
        )
        ranges = list(split_blocks(int(blocks), chance.randint(1, int(blocks) // 3)))
        chance.shuffle(ranges)
        counts = SourceCounts()
        for range_ in ranges:
            with counts.noting(reader, oid, range_, VERSION):
                read(reader, range_)

        assert counts.passed(oid, ranges) == rows


def _change_rows(cursor: Any, chance: random.Random) -> None:
    part, other = chance.randint(2, 30), chance.randint(2, 30)
    cursor.execute(f"UPDATE public.items SET body = body || '!' WHERE id % {part} = 0")
    cursor.execute(f"DELETE FROM public.items WHERE id % {other} = 1")
    cursor.execute(
        "INSERT INTO public.items SELECT (SELECT max(id) FROM public.items) + i, 'more' "
        f"FROM generate_series(1, {chance.randint(0, 3000)}) AS i"
    )


def test_a_range_that_was_not_read_leaves_the_number_open(items: Database) -> None:
    ((oid,),) = items.execute("SELECT 'public.items'::regclass::oid::bigint")
    first, last = BlockRange(0, 3), BlockRange(3, None)
    counts = SourceCounts()
    with session_on(items, "source") as reader:
        reader.begin(READ_CONSISTENT)
        with counts.noting(reader, oid, first, VERSION):
            read(reader, first)
        with counts.noting(reader, oid, WholeTable(), VERSION):
            read(reader, WholeTable())
        with counts.noting(reader, oid, last, 190000):
            read(reader, last)

    assert counts.passed(oid, [first]) is not None
    assert counts.passed(oid, [first, last]) is None
    assert counts.passed(oid, [WholeTable()]) is None
    assert counts.passed(oid, []) is None


def test_a_read_that_scans_the_whole_table_is_not_noted(items: Database) -> None:
    ((oid,),) = items.execute("SELECT 'public.items'::regclass::oid::bigint")
    range_ = BlockRange(0, 3)
    counts = SourceCounts()
    with session_on(items, "source") as reader:
        reader.begin(READ_CONSISTENT)
        with counts.noting(reader, oid, range_, VERSION):
            reader.execute("SET LOCAL enable_seqscan = on; SELECT FROM public.items")

    assert counts.passed(oid, [range_]) is None


def test_two_numbers_for_one_range_are_none(items: Database) -> None:
    """As of a read by ranges, and one that found its rows by an index."""
    ((oid,),) = items.execute("SELECT 'public.items'::regclass::oid::bigint")
    range_ = BlockRange(0, 3)
    counts = SourceCounts()
    with session_on(items, "source") as reader:
        reader.begin(READ_CONSISTENT)
        with counts.noting(reader, oid, range_, VERSION):
            read(reader, range_)
        assert counts.passed(oid, [range_]) is not None
        with counts.noting(reader, oid, range_, VERSION):
            reader.execute("SELECT FROM public.items WHERE id = 1")

    assert counts.passed(oid, [range_]) is None
