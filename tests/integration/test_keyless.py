"""Tables without a key: whole rows are counted, and equal ones are left alone."""

from collections import Counter
from typing import Any

import pytest

from extract_load.errors import GuardTripped, SchemaMismatch
from tests.support.landing import land, land_one
from tests.support.servers import Database

TABLE: dict[str, Any] = {"source": "public.t", "sync_mode": "full_sync"}
RAW = "raw_data.digitalocean_t"
ROWS = """
CREATE TABLE public.t (name text, amount numeric, doc json, ratio float8);
INSERT INTO public.t SELECT 'row ' || i % 50, i % 7, '{"a":  1}', 'NaN'
FROM generate_series(1, 1000) AS i;
INSERT INTO public.t VALUES (NULL, NULL, NULL, NULL), (NULL, NULL, NULL, NULL);
INSERT INTO public.t VALUES ('', 1.0, NULL, -0.0)
"""


@pytest.fixture
def keyless(source: Database) -> Database:
    source.execute(ROWS)
    return source


def rows(database: Database, table: str, where: str = "true") -> Counter[tuple[Any, ...]]:
    """Every row as text, and how often it is there."""
    query = f"SELECT name, amount::text, doc::text, ratio::text FROM {table} WHERE {where}"
    return Counter(database.execute(query))


def test_every_row_is_there_as_often_as_in_the_source(keyless: Database, target: Database) -> None:
    first = land_one(keyless, target, {**TABLE, "batch_size": 100})
    assert (first.rows_inserted, first.rows_read) == (1003, 1003)
    assert rows(keyless, "public.t") == rows(target, RAW)

    keyless.execute("DELETE FROM public.t WHERE ctid = (SELECT min(ctid) FROM public.t)")
    keyless.execute("INSERT INTO public.t VALUES ('row 1', 1, NULL, 0), ('row 1', 1, NULL, 0)")
    keyless.execute("UPDATE public.t SET amount = 1.00 WHERE name = ''")
    keyless.execute("DELETE FROM public.t WHERE name IS NULL")
    keyless.execute("INSERT INTO public.t VALUES (NULL, NULL, NULL, NULL)")
    second = land_one(keyless, target, TABLE)

    assert (second.rows_inserted, second.rows_updated, second.rows_deleted) == (3, 0, 3)
    assert rows(keyless, "public.t") == rows(target, RAW)
    assert target.execute(f"SELECT count(DISTINCT _loaded_at) FROM {RAW}") == [(2,)]


def test_an_unchanged_table_is_not_touched(keyless: Database, target: Database) -> None:
    land_one(keyless, target, TABLE)
    before = target.execute(f"SELECT ctid, xmin, _loaded_at FROM {RAW} ORDER BY ctid")
    result = land_one(keyless, target, TABLE)

    assert (result.rows_unchanged, result.rows_inserted, result.rows_deleted) == (1003, 0, 0)
    assert target.execute(f"SELECT ctid, xmin, _loaded_at FROM {RAW} ORDER BY ctid") == before


def test_a_row_that_comes_back_is_a_new_one(keyless: Database, target: Database) -> None:
    table = {**TABLE, "deletes": "soft"}
    land_one(keyless, target, table)
    keyless.execute("DELETE FROM public.t WHERE name IS NULL")
    gone = land_one(keyless, target, table)
    keyless.execute("INSERT INTO public.t VALUES (NULL, NULL, NULL, NULL)")
    back = land_one(keyless, target, table)

    assert (gone.rows_deleted, gone.rows_inserted) == (2, 0)
    assert (back.rows_deleted, back.rows_inserted) == (0, 1)
    assert rows(keyless, "public.t") == rows(target, RAW, "_deleted_at IS NULL")
    assert target.execute(f"SELECT count(*) FROM {RAW} WHERE _deleted_at IS NOT NULL") == [(2,)]


def test_soft_deletes_that_become_hard_are_purged(keyless: Database, target: Database) -> None:
    land_one(keyless, target, {**TABLE, "deletes": "soft"})
    keyless.execute("DELETE FROM public.t WHERE name IS NULL")
    land_one(keyless, target, {**TABLE, "deletes": "soft"})
    land_one(keyless, target, TABLE)

    assert rows(keyless, "public.t") == rows(target, RAW)


def test_an_emptied_table_is_guarded(keyless: Database, target: Database) -> None:
    land_one(keyless, target, TABLE)
    keyless.execute("TRUNCATE public.t")
    (result,) = land(keyless, target, TABLE).tables

    assert isinstance(result.error, GuardTripped)
    assert target.execute(f"SELECT count(*) FROM {RAW}") == [(1003,)]
    assert land_one(keyless, target, TABLE, allow_deletes=True).rows_deleted == 1003


def test_rows_that_all_changed_are_no_loss(keyless: Database, target: Database) -> None:
    """A changed row is one gone and one new; the guard asks for the difference."""
    land_one(keyless, target, TABLE)
    keyless.execute("UPDATE public.t SET amount = 8")
    assert land_one(keyless, target, TABLE).rows_deleted == 1003
    keyless.execute("DELETE FROM public.t WHERE name < 'row 3'")
    (result,) = land(keyless, target, TABLE).tables

    assert isinstance(result.error, GuardTripped)
    assert "would be deleted" in result.error.primary


def test_a_table_without_columns_lands_by_count(source: Database, target: Database) -> None:
    source.execute("CREATE TABLE public.t ()")
    source.execute("INSERT INTO public.t SELECT FROM generate_series(1, 9)")
    assert land_one(source, target, TABLE).rows_inserted == 9
    source.execute("INSERT INTO public.t DEFAULT VALUES")
    second = land_one(source, target, TABLE)
    source.execute("DELETE FROM public.t WHERE ctid < '(0,4)'")
    third = land_one(source, target, TABLE)

    assert (second.rows_inserted, second.rows_deleted) == (1, 0)
    assert (third.rows_inserted, third.rows_deleted) == (0, 3)
    assert target.execute(f"SELECT count(*), count(_loaded_at) FROM {RAW}") == [(7, 7)]


def test_a_table_gets_a_key_and_loses_it(keyless: Database, target: Database) -> None:
    land_one(keyless, target, TABLE)
    keyless.execute("ALTER TABLE public.t ADD COLUMN id serial PRIMARY KEY")
    land_one(keyless, target, TABLE, allow_rewrite=True, allow_deletes=True)
    assert rows(keyless, "public.t") == rows(target, RAW)
    keyless.execute("ALTER TABLE public.t DROP COLUMN id")
    land_one(keyless, target, TABLE, allow_rewrite=True)

    assert rows(keyless, "public.t") == rows(target, RAW)


@pytest.mark.parametrize("mode", ["xmin_incremental", "incremental_sync"])
def test_a_mode_that_merges_needs_a_key(mode: str, keyless: Database, target: Database) -> None:
    table = {**TABLE, "sync_mode": mode, "incremental_field": "amount"}
    (result,) = land(keyless, target, table).tables

    assert isinstance(result.error, SchemaMismatch)
    assert result.error.primary == '"public.t" has no primary key'
    assert result.error.detail.startswith(f"{mode} merges rows by their key")
    assert target.execute(f"SELECT to_regclass('{RAW}')") == [(None,)]


def test_a_new_key_over_nothing_but_soft_deleted_rows(source: Database, target: Database) -> None:
    """Rows that were gone before are no loss."""
    source.execute("CREATE TABLE public.t (id int PRIMARY KEY, code int NOT NULL)")
    source.execute("INSERT INTO public.t SELECT i, i FROM generate_series(1, 30) AS i")
    table = {**TABLE, "deletes": "soft"}
    land_one(source, target, table)
    source.execute("DELETE FROM public.t")
    land_one(source, target, table, allow_deletes=True)
    source.execute(
        "ALTER TABLE public.t DROP CONSTRAINT t_pkey, ADD COLUMN key serial PRIMARY KEY;"
        "INSERT INTO public.t VALUES (1, 1, 1)"
    )
    result = land_one(source, target, table, allow_rewrite=True)

    assert (result.rows_inserted, result.rows_deleted) == (1, 0)
    assert target.execute(f"SELECT key FROM {RAW} WHERE _deleted_at IS NULL") == [(1,)]
