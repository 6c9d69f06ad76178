"""Changes that need `--allow-rewrite`, and what stands in the way of them, by name."""

from typing import Any

import pytest

from tests.support.landing import assert_equal, land, land_one
from tests.support.schema_change import failure, raw_columns, raw_key
from tests.support.servers import Database
from tests.support.tables import FULL, MODES, RAW, create_items

EVERY_MODE = pytest.mark.parametrize("table", MODES.values(), ids=MODES)


@pytest.fixture
def items(source: Database) -> Database:
    create_items(source, 500)
    return source


# ---------------------------------------------------------------- asked for, or refused


@EVERY_MODE
def test_another_type_is_followed_when_asked(
    items: Database, target: Database, table: dict[str, Any]
) -> None:
    land_one(items, target, table)
    items.execute("ALTER TABLE public.items ALTER amount TYPE bigint")

    assert "follows only under a lock" in failure(items, target, table).primary
    assert raw_columns(target)["amount"] == ("numeric(12,2)", False)
    land_one(items, target, table, allow_rewrite=True)

    assert raw_columns(target)["amount"] == ("bigint", False)
    assert_equal(items, target, table)


def test_a_narrower_type_takes_rows_that_fit_by_now(items: Database, target: Database) -> None:
    """The raw table still holds the long values when its column is narrowed."""
    land_one(items, target, FULL)
    items.execute(
        "UPDATE public.items SET body = left(body, 5);"
        "ALTER TABLE public.items ALTER body TYPE varchar(5)"
    )

    land_one(items, target, FULL, allow_rewrite=True)

    assert_equal(items, target, FULL)


@pytest.mark.parametrize("allow_rewrite", [True, False])
def test_a_type_is_not_changed_under_views_and_other_tables_go_on(
    items: Database, target: Database, allow_rewrite: bool
) -> None:
    items.execute("CREATE TABLE public.other (id int PRIMARY KEY)")
    other = {"source": "public.other"}
    land(items, target, FULL, other)
    target.execute(
        f"CREATE VIEW public.direct AS SELECT id, amount FROM {RAW};"
        "CREATE MATERIALIZED VIEW public.above AS SELECT id FROM public.direct;"
        f"CREATE VIEW public.not_touched AS SELECT id, body FROM {RAW}"
    )
    items.execute("ALTER TABLE public.items ALTER amount TYPE numeric(14, 2)")
    items.execute("INSERT INTO public.other VALUES (1)")

    report = land(items, target, FULL, other, allow_rewrite=allow_rewrite)

    first, second = report.tables
    assert first.error is not None
    assert "and views depend on it" in first.error.primary
    assert "Depending on it: public.above, public.direct." in first.error.detail
    assert second.rows_inserted == 1
    target.execute("DROP VIEW public.direct CASCADE")
    land_one(items, target, FULL)
    assert_equal(items, target, FULL)


@pytest.mark.parametrize(
    ("ddl", "told"),
    [
        (f"CREATE POLICY mine ON {RAW} USING (amount > 0)", "policy mine on table"),
        (f"CREATE RULE r AS ON UPDATE TO {RAW} WHERE new.amount < 0 DO NOTHING", "rule r on table"),
        (
            f"ALTER TABLE {RAW} ADD COLUMN twice numeric GENERATED ALWAYS AS (amount * 2) STORED",
            "default value for column twice",
        ),
        (
            "CREATE FUNCTION public.f() RETURNS trigger LANGUAGE plpgsql"
            " AS 'BEGIN RETURN new; END';"
            f"CREATE TRIGGER t BEFORE UPDATE OF amount ON {RAW} FOR EACH ROW"
            " EXECUTE FUNCTION public.f()",
            "trigger t on table",
        ),
    ],
    ids=["policy", "rule", "generated", "trigger"],
)
def test_what_else_stands_on_a_column_is_named(
    items: Database, target: Database, ddl: str, told: str
) -> None:
    land_one(items, target, FULL)
    target.execute(ddl)
    items.execute("ALTER TABLE public.items ALTER amount TYPE numeric(14, 2)")

    error = failure(items, target, FULL)

    assert "and something depends on it" in error.primary
    assert told in error.detail


def test_indexes_and_statistics_do_not_hold_a_type(items: Database, target: Database) -> None:
    land_one(items, target, FULL)
    target.execute(
        f"CREATE INDEX mine ON {RAW} (amount); CREATE STATISTICS public.s ON id, amount FROM {RAW}"
    )
    items.execute("ALTER TABLE public.items ALTER amount TYPE numeric(14, 2)")

    land_one(items, target, FULL)

    assert_equal(items, target, FULL)


@pytest.mark.parametrize(
    "ddl",
    [
        f"ALTER TABLE {RAW} ADD CHECK (amount > -1)",
        f"CREATE INDEX ON {RAW} ((amount + 1))",
        f"CREATE INDEX ON {RAW} (id) WHERE amount > 0",
    ],
    ids=["check", "expression", "condition"],
)
def test_what_is_proved_anew_reads_the_table(items: Database, target: Database, ddl: str) -> None:
    """PostgreSQL checks the CHECK, and builds such an index, again: readers would wait."""
    land_one(items, target, FULL)
    target.execute(ddl)
    items.execute("ALTER TABLE public.items ALTER amount TYPE numeric(14, 2)")

    assert "follows only under a lock" in failure(items, target, FULL).primary
    land_one(items, target, FULL, allow_rewrite=True)
    assert_equal(items, target, FULL)


@pytest.mark.parametrize("type_text", ["int USING length(body)", "json USING to_json(body)"])
def test_values_without_a_cast_are_told_with_the_way_out(
    items: Database, target: Database, type_text: str
) -> None:
    land_one(items, target, FULL)
    items.execute(f"ALTER TABLE public.items ALTER body TYPE {type_text}")

    error = failure(items, target, FULL, allow_rewrite=True)
    target.execute(f"ALTER TABLE {RAW} DROP COLUMN body")
    land_one(items, target, FULL)

    assert "that no cast brings into" in error.primary
    assert 'alter column "body" type' in error.detail
    assert "Drop that column" in error.hint
    assert_equal(items, target, FULL)


@EVERY_MODE
@pytest.mark.parametrize("is_late", [True, False])
def test_not_null_that_is_gained_is_followed_when_asked(
    items: Database, target: Database, table: dict[str, Any], is_late: bool
) -> None:
    """The raw rows are NULL until the publish: so it is followed after it."""
    items.execute("UPDATE public.items SET amount = NULL WHERE id <= 5")
    land_one(items, target, table)
    items.execute(
        "UPDATE public.items SET amount = 0, updated_at = now() WHERE amount IS NULL;"
        "ALTER TABLE public.items ALTER amount SET NOT NULL"
    )
    if is_late:
        land_one(items, target, table)
        assert raw_columns(target)["amount"] == ("numeric(12,2)", False)

    land_one(items, target, table, allow_rewrite=True)

    assert raw_columns(target)["amount"] == ("numeric(12,2)", True)
    assert_equal(items, target, table)


def test_not_null_is_not_forced_on_rows_that_are_gone(items: Database, target: Database) -> None:
    """A soft-deleted row keeps its NULL; the run is done all the same."""
    table = {**FULL, "deletes": "soft"}
    items.execute("UPDATE public.items SET amount = NULL WHERE id = 5")
    land_one(items, target, table)
    items.execute(
        "DELETE FROM public.items WHERE id = 5; ALTER TABLE public.items ALTER amount SET NOT NULL"
    )

    assert land_one(items, target, table, allow_rewrite=True).rows_deleted == 1
    assert raw_columns(target)["amount"] == ("numeric(12,2)", False)


# ---------------------------------------------------------------- another key


def key_of(target: Database) -> list[str]:
    rows = target.execute(
        "SELECT a.attname FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid "
        f"AND a.attnum = ANY (i.indkey) WHERE i.indrelid = '{RAW}'::regclass AND i.indisprimary"
        " ORDER BY a.attnum"
    )
    return [name for (name,) in rows]


@EVERY_MODE
def test_a_longer_key_may_hold_what_the_old_one_forbade(
    items: Database, target: Database, table: dict[str, Any]
) -> None:
    land_one(items, target, table)
    items.execute(
        "ALTER TABLE public.items DROP CONSTRAINT items_pkey;"
        "ALTER TABLE public.items ADD PRIMARY KEY (id, body);"
        "INSERT INTO public.items VALUES (1, 'second', 1)"
    )
    assert "the key of" in failure(items, target, table).primary
    assert raw_key(target) == ["id"]

    land_one(items, target, table, allow_rewrite=True)

    assert raw_key(target) == ["id", "body"]
    assert_equal(items, target, table)
    assert land_one(items, target, table).rows_updated == 0


@EVERY_MODE
def test_a_shorter_key_leaves_one_row_each(
    source: Database, target: Database, table: dict[str, Any]
) -> None:
    """The raw table has two rows of one new key: each would be made the source's row."""
    source.execute(
        "CREATE TABLE public.items (id int, part int, body text,"
        " updated_at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (id, part));"
        "INSERT INTO public.items SELECT i, p, i || '.' || p"
        " FROM generate_series(1, 100) i, generate_series(1, 2) p"
    )
    land_one(source, target, table)
    source.execute(
        "DELETE FROM public.items WHERE part = 2;"
        "ALTER TABLE public.items DROP CONSTRAINT items_pkey, ADD PRIMARY KEY (id),"
        " ALTER part DROP NOT NULL; UPDATE public.items SET part = NULL WHERE id = 3"
    )
    error = failure(source, target, table, allow_rewrite=True)
    assert type(error).__name__ == "GuardTripped"

    land_one(source, target, table, allow_rewrite=True, allow_deletes=True)

    assert raw_key(target) == ["id"]
    assert_equal(source, target, table)


@pytest.mark.parametrize("deletes", ["soft", "ignore"])
def test_a_shorter_key_leaves_one_row_each_also_of_those_that_are_gone(
    source: Database, target: Database, deletes: str
) -> None:
    """Their index could not be built otherwise."""
    table = {**MODES["incremental"], "deletes": deletes}
    source.execute(
        "CREATE TABLE public.items (id int, part int, body text,"
        " updated_at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (id, part));"
        "INSERT INTO public.items SELECT i, p, i || '.' || p"
        " FROM generate_series(1, 100) i, generate_series(1, 2) p"
    )
    land_one(source, target, table)
    source.execute("DELETE FROM public.items WHERE id = 1")
    land_one(source, target, table)
    source.execute(
        "DELETE FROM public.items WHERE part = 1; ALTER TABLE public.items"
        " DROP CONSTRAINT items_pkey, ADD PRIMARY KEY (id)"
    )

    land_one(source, target, table, allow_rewrite=True, allow_deletes=True)

    assert raw_key(target) == ["id"]
    live = f"SELECT id, part, body FROM {RAW} WHERE id > 1 ORDER BY id"
    assert target.execute(live) == source.execute(live.replace(RAW, "public.items"))
    assert target.execute(f"SELECT count(*) FROM {RAW} WHERE id = 1") == [(1,)]


def test_a_key_of_a_new_column_replaces_every_row(items: Database, target: Database) -> None:
    land_one(items, target, FULL)
    items.execute(
        "ALTER TABLE public.items DROP CONSTRAINT items_pkey,"
        " ADD COLUMN code int GENERATED ALWAYS AS IDENTITY PRIMARY KEY"
    )

    land_one(items, target, FULL, allow_rewrite=True, allow_deletes=True)

    assert raw_key(target) == ["code"]
    assert_equal(items, target, FULL)


def test_a_key_may_be_lost_and_gained(items: Database, target: Database) -> None:
    """Without a key rows may stand twice; with one again, one of them is left."""
    land_one(items, target, FULL)
    items.execute(
        "ALTER TABLE public.items DROP CONSTRAINT items_pkey, ALTER id DROP NOT NULL;"
        "INSERT INTO public.items SELECT * FROM public.items WHERE id <= 30;"
        "INSERT INTO public.items VALUES (NULL, 'nobody', 1)"
    )
    error = failure(items, target, FULL)
    land_one(items, target, FULL, allow_rewrite=True)
    assert error.detail == "The key is none now, (id) in the raw table."
    assert target.execute(f"SELECT count(*), count(DISTINCT id) FROM {RAW}") == [(531, 500)]
    assert raw_key(target) == []

    items.execute(
        "TRUNCATE public.items; ALTER TABLE public.items ADD PRIMARY KEY (id);"
        "INSERT INTO public.items SELECT i, 'new', 1 FROM generate_series(1, 500) AS i"
    )
    land_one(items, target, FULL)
    assert_equal(items, target, FULL)
    assert raw_key(target) == []
    land_one(items, target, FULL, allow_rewrite=True)
    assert raw_key(target) == ["id"]


@pytest.mark.parametrize(
    ("ddl", "told"),
    [
        (f"CREATE TABLE public.refers (id int REFERENCES {RAW})", "on table public.refers"),
        (
            f"CREATE VIEW public.grouped AS SELECT id, body FROM {RAW} GROUP BY id",
            "view public.grouped",
        ),
        (f"ALTER TABLE {RAW} REPLICA IDENTITY USING INDEX digitalocean_items_pkey", "replica"),
        (f"CREATE PUBLICATION p FOR TABLE {RAW}", "publication p"),
    ],
    ids=["foreign key", "grouping view", "replica identity", "publication"],
)
def test_what_depends_on_the_key_is_named(
    items: Database, target: Database, ddl: str, told: str
) -> None:
    land_one(items, target, FULL)
    target.execute(ddl)
    items.execute("ALTER TABLE public.items DROP CONSTRAINT items_pkey, ADD PRIMARY KEY (id, body)")

    error = failure(items, target, FULL, allow_rewrite=True)

    assert error.primary.startswith('the key of "public.items" changed, and something depends')
    assert told in error.detail
