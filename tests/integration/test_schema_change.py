"""The source's columns change between runs: the raw table follows, and keeps what it has."""

from typing import Any

import pytest

from tests.support.landing import assert_equal, land_one
from tests.support.schema_change import failure, killed_after_ddl, raw_columns
from tests.support.servers import Database
from tests.support.tables import FULL, MODES, RAW, create_items, leftovers

EVERY_MODE = pytest.mark.parametrize("table", MODES.values(), ids=MODES)


@pytest.fixture
def items(source: Database) -> Database:
    create_items(source, 500)
    return source


OID = f"SELECT '{RAW}'::regclass::oid"


@EVERY_MODE
def test_a_new_column_comes_with_its_values_and_comment(
    items: Database, target: Database, table: dict[str, Any]
) -> None:
    land_one(items, target, table)
    target.execute(f"CREATE VIEW public.seen AS SELECT * FROM {RAW}")
    oid = target.execute(OID)
    items.execute(
        "ALTER TABLE public.items ADD COLUMN extra int NOT NULL DEFAULT 7;"
        "COMMENT ON COLUMN public.items.extra IS 'why';"
        "UPDATE public.items SET extra = 8 WHERE id <= 10"
    )

    result = land_one(items, target, table)

    assert result.baseline
    assert_equal(items, target, table)
    assert target.execute(OID) == oid
    assert list(raw_columns(target)) == [
        "id",
        "body",
        "amount",
        "updated_at",
        "_loaded_at",
        "extra",
    ]
    assert raw_columns(target)["extra"] == ("integer", False)
    comment = f"SELECT col_description('{RAW}'::regclass, 6)"
    assert target.execute(comment) == [("why",)]
    assert target.execute("SELECT count(*) FROM public.seen") == [(500,)]
    assert land_one(items, target, table).rows_updated == 0
    assert leftovers(target) == []


@EVERY_MODE
def test_a_dropped_column_keeps_its_values_on_rows_that_stay(
    items: Database, target: Database, table: dict[str, Any]
) -> None:
    land_one(items, target, table)
    items.execute(
        "ALTER TABLE public.items DROP COLUMN body;"
        "UPDATE public.items SET amount = 0, updated_at = now() WHERE id = 1;"
        "INSERT INTO public.items (id, amount) VALUES (999, 1)"
    )

    result = land_one(items, target, table)

    assert (result.rows_inserted, result.rows_updated) == (1, 1)
    kept = f"SELECT count(*) FILTER (WHERE body IS NOT NULL), count(*) FROM {RAW}"
    assert target.execute(kept) == [(500, 501)]
    assert target.execute(f"SELECT body FROM {RAW} WHERE id = 999") == [(None,)]
    assert raw_columns(target)["body"] == ("text", False)
    assert land_one(items, target, table).rows_updated == 0


@EVERY_MODE
def test_a_column_dropped_and_added_again_is_used_again(
    items: Database, target: Database, table: dict[str, Any]
) -> None:
    """Its rows get the new values although no xmin and no cursor moved."""
    land_one(items, target, table)
    for _ in range(2):  # at once, and with a run that saw it gone
        items.execute("ALTER TABLE public.items DROP COLUMN amount")
        items.execute("ALTER TABLE public.items ADD COLUMN amount numeric(12, 2) DEFAULT 5")
        land_one(items, target, table)
        assert_equal(items, target, table)
        items.execute("ALTER TABLE public.items DROP COLUMN amount")
        land_one(items, target, table)
        items.execute("ALTER TABLE public.items ADD COLUMN amount numeric(12, 2) DEFAULT 6")
        land_one(items, target, table)
        assert_equal(items, target, table)
    assert list(raw_columns(target)) == ["id", "body", "amount", "updated_at", "_loaded_at"]


@EVERY_MODE
def test_a_renamed_column_is_renamed_and_views_go_on(
    items: Database, target: Database, table: dict[str, Any]
) -> None:
    land_one(items, target, table)
    target.execute(f"CREATE VIEW public.seen AS SELECT id, body FROM {RAW}")
    items.execute("ALTER TABLE public.items RENAME body TO content")

    result = land_one(items, target, table)

    assert result.rows_updated == 0
    assert list(raw_columns(target)) == ["id", "content", "amount", "updated_at", "_loaded_at"]
    assert target.execute("SELECT count(body) FROM public.seen") == [(500,)]
    assert_equal(items, target, table)


@EVERY_MODE
def test_a_source_dropped_and_created_anew_has_no_renamed_columns(
    items: Database, target: Database, table: dict[str, Any]
) -> None:
    land_one(items, target, table)
    target.execute(f"CREATE VIEW public.seen AS SELECT id, body FROM {RAW}")
    items.execute(
        "DROP TABLE public.items; CREATE TABLE public.items (id int PRIMARY KEY, secret text,"
        " amount numeric(12, 2), updated_at timestamptz NOT NULL DEFAULT now());"
        "INSERT INTO public.items SELECT i, 'secret' FROM generate_series(1, 500) AS i"
    )

    land_one(items, target, table)

    assert_equal(items, target, table)
    assert target.execute("SELECT count(*) FROM public.seen WHERE body = 'secret'") == [(0,)]


@EVERY_MODE
def test_columns_of_a_partitioned_source_are_followed(
    source: Database, target: Database, table: dict[str, Any]
) -> None:
    """A partition that was attached numbers its columns by itself."""
    source.execute(
        "CREATE TABLE public.items (id int PRIMARY KEY, body text, other text,"
        " updated_at timestamptz NOT NULL DEFAULT now()) PARTITION BY RANGE (id);"
        "CREATE TABLE public.low PARTITION OF public.items FOR VALUES FROM (0) TO (100);"
        "CREATE TABLE public.high (other text, gone int, body text,"
        " updated_at timestamptz NOT NULL DEFAULT now(), id int NOT NULL);"
        "ALTER TABLE public.high DROP COLUMN gone;"
        "ALTER TABLE public.items ATTACH PARTITION public.high FOR VALUES FROM (100) TO (200);"
        "INSERT INTO public.items SELECT i, 'body', 'other' FROM generate_series(1, 199) AS i"
    )
    land_one(source, target, table)
    target.execute(f"CREATE VIEW public.seen AS SELECT id, body, other FROM {RAW}")
    source.execute(
        "ALTER TABLE public.items RENAME other TO x; ALTER TABLE public.items RENAME body TO other;"
        "ALTER TABLE public.items RENAME x TO body;"
        "ALTER TABLE public.items ADD extra int DEFAULT 7"
    )

    land_one(source, target, table)

    rows = "SELECT id, body, other, extra, updated_at FROM {} ORDER BY id"
    assert target.execute(rows.format(RAW)) == source.execute(rows.format("public.items"))
    assert target.execute("SELECT DISTINCT body, other FROM public.seen") == [("body", "other")]


def test_names_that_are_exchanged_are_exchanged_once(items: Database, target: Database) -> None:
    """Killed after the renaming, the next run must not rename back."""
    items.execute("ALTER TABLE public.items ADD COLUMN other text NOT NULL DEFAULT 'o'")
    land_one(items, target, FULL)
    target.execute(f"CREATE VIEW public.seen AS SELECT id, other FROM {RAW}")
    items.execute(
        "ALTER TABLE public.items RENAME body TO x; ALTER TABLE public.items RENAME other TO body;"
        "ALTER TABLE public.items RENAME x TO other"
    )
    with killed_after_ddl():
        failure(items, target, FULL)

    land_one(items, target, FULL)

    assert_equal(items, target, FULL)
    assert target.execute("SELECT DISTINCT other FROM public.seen") == [("o",)]


@EVERY_MODE
def test_a_wider_type_is_followed_without_a_rewrite(
    items: Database, target: Database, table: dict[str, Any]
) -> None:
    land_one(items, target, table)
    file = f"SELECT pg_relation_filenode('{RAW}')"
    before = target.execute(file)
    items.execute("ALTER TABLE public.items ALTER amount TYPE numeric(14, 2)")

    land_one(items, target, table)

    assert target.execute(file) == before
    assert raw_columns(target)["amount"] == ("numeric(14,2)", False)
    assert_equal(items, target, table)


@EVERY_MODE
def test_not_null_that_is_lost_is_lost_before_the_rows_come(
    items: Database, target: Database, table: dict[str, Any]
) -> None:
    land_one(items, target, table)
    items.execute(
        "ALTER TABLE public.items ALTER body DROP NOT NULL;"
        "UPDATE public.items SET body = NULL, updated_at = now() WHERE id <= 5"
    )

    assert land_one(items, target, table).rows_updated == 5
    assert_equal(items, target, table)
    assert raw_columns(target)["body"] == ("text", False)


@EVERY_MODE
@pytest.mark.parametrize("is_killed", [True, False])
def test_a_column_that_was_dropped_from_the_raw_table_is_filled_again(
    items: Database, target: Database, table: dict[str, Any], is_killed: bool
) -> None:
    """The source did not change: without a baseline its old rows would stay NULL for ever."""
    land_one(items, target, table)
    target.execute(f"ALTER TABLE {RAW} DROP COLUMN body")
    if is_killed:
        with killed_after_ddl():
            failure(items, target, table)

    assert land_one(items, target, table).baseline
    assert_equal(items, target, table)
