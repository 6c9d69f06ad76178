"""Changes that neither an xmin nor a count tells, on the way between two snapshots.

Rows come and go in equal numbers here, so that no count helps.
"""

from typing import Any

import pytest

from tests.support.interrupted import BrokenOffError, broken_off
from tests.support.landing import assert_equal, land, land_one
from tests.support.servers import Database, fresh_database
from tests.support.tables import FULL, RAW, XMIN, create_items

SMALL = {"batch_size": 200}
BOTH = pytest.mark.parametrize("mode", [FULL, XMIN], ids=["full", "xmin"])


def ids(database: Database, table: str, where: str = "true") -> list[int]:
    found = database.execute(f"SELECT id FROM {table} WHERE {where} ORDER BY id")
    return [number for (number,) in found]


# ---------------------------------------------------------------- columns that are asked only

SWAP = (
    "ALTER TABLE public.items RENAME a TO c; ALTER TABLE public.items RENAME b TO a;"
    "ALTER TABLE public.items RENAME c TO b"
)
ASKED = {"custom_where": "a", "columns": ["id", "body"], **SMALL}


@pytest.fixture
def flagged(source: Database) -> Database:
    """Even rows are an `a`, odd ones a `b`; neither column is landed."""
    create_items(source, 2000)
    source.execute("ALTER TABLE public.items ADD a boolean, ADD b boolean")
    source.execute("UPDATE public.items SET a = id % 2 = 0, b = id % 2 = 1")
    source.execute("VACUUM FULL public.items")
    return source


@BOTH
def test_columns_that_only_custom_where_reads_change_places(
    mode: dict[str, Any], flagged: Database, target: Database
) -> None:
    table = {**mode, **ASKED}
    land_one(flagged, target, table)
    flagged.execute(SWAP)

    land_one(flagged, target, table, allow_deletes=True)

    assert ids(target, RAW) == ids(flagged, "public.items", "a")


def test_they_change_places_between_a_crash_and_the_next_run(
    flagged: Database, target: Database
) -> None:
    table = {**FULL, **ASKED}
    broken_off(flagged, target, table, after=4)
    flagged.execute(SWAP)

    land_one(flagged, target, table, allow_deletes=True)

    assert ids(target, RAW) == ids(flagged, "public.items", "a")


def test_they_change_places_during_a_run(flagged: Database, target: Database) -> None:
    def swap(chunks: int) -> None:
        if chunks == 4:
            flagged.execute(SWAP)

    assert land(flagged, target, {**FULL, **ASKED}, after_chunk=swap).tables[0].error is None

    either = (ids(flagged, "public.items", "a"), ids(flagged, "public.items", "b"))
    assert ids(target, RAW) in either


# ---------------------------------------------------------------- what a condition calls

CHOSEN = """
CREATE TABLE public.chosen AS SELECT i AS id FROM generate_series(1, 1000) AS i;
CREATE FUNCTION public.is_chosen(int) RETURNS boolean STABLE LANGUAGE sql
    AS 'SELECT EXISTS (SELECT FROM public.chosen WHERE id = $1)';
CREATE FUNCTION public.is_alive(public.items) RETURNS boolean STABLE LANGUAGE sql
    AS 'SELECT public.is_chosen($1.id)';
CREATE FUNCTION public.is_odd(int) RETURNS boolean IMMUTABLE LANGUAGE sql AS 'SELECT $1 % 2 = 1';
CREATE FUNCTION public.chosen_by(int, int) RETURNS boolean STABLE LANGUAGE sql
    AS 'SELECT public.is_chosen($1)';
CREATE OPERATOR public.@@@ (LEFTARG = int, RIGHTARG = int, FUNCTION = public.chosen_by)
"""
CALLS = pytest.mark.parametrize(
    ("where", "named"),
    [
        ("public.is_chosen(id)", "function public.is_chosen"),
        ("items.is_alive", "function public.is_alive"),
        ("id OPERATOR(public.@@@) 1", "operator public.@@@"),
    ],
    ids=["function", "field", "operator"],
)


@CALLS
def test_full_sync_reads_all_where_a_condition_reads_tables(
    where: str, named: str, source: Database, target: Database
) -> None:
    assert named
    create_items(source, 2000)
    source.execute(CHOSEN)
    table = {**FULL, **SMALL, "custom_where": where}
    land_one(source, target, table)
    source.execute("UPDATE public.chosen SET id = 1500 WHERE id = 5")

    land_one(source, target, table)

    assert ids(target, RAW) == ids(source, "public.items", "public.is_chosen(id)")


@CALLS
def test_xmin_incremental_refuses_a_condition_that_reads_tables(
    where: str, named: str, source: Database, target: Database
) -> None:
    create_items(source, 2000)
    source.execute(CHOSEN)

    error = land(source, target, {**XMIN, "custom_where": where}).tables[0].error

    assert error is not None
    assert error.primary == (
        f'custom_where of "public.items" may not call {named} in xmin_incremental'
    )
    assert "rows would enter unseen" in error.detail
    assert "IMMUTABLE" in error.hint


@BOTH
def test_what_a_row_alone_decides_is_read_as_a_delta(
    mode: dict[str, Any], source: Database, target: Database
) -> None:
    create_items(source, 2000)
    source.execute(CHOSEN)
    table = {**mode, "custom_where": "public.is_odd(id) AND lower(body) <> 'x'"}
    land_one(source, target, table)
    source.execute("UPDATE public.items SET body = 'X' WHERE id = 5")

    assert not land_one(source, target, table).baseline
    assert ids(target, RAW) == [i for i in range(1, 2000, 2) if i != 5]


def test_a_resumed_run_reads_again_what_a_function_decides(
    source: Database, target: Database
) -> None:
    create_items(source, 2000)
    source.execute(CHOSEN)
    source.execute("DELETE FROM public.chosen WHERE id = 6")
    table = {**FULL, **SMALL, "custom_where": "public.is_chosen(id)"}
    broken_off(source, target, table, after=4)
    source.execute("UPDATE public.chosen SET id = 6 WHERE id = 5")

    land_one(source, target, table)

    assert ids(target, RAW) == ids(source, "public.items", "public.is_chosen(id)")


# ---------------------------------------------------------------- types within types

NESTED = """
CREATE TYPE public.mood AS ENUM ('sad', 'ok');
CREATE TYPE public.inside AS (m public.mood);
CREATE TYPE public.pair AS (a int, m public.mood);
CREATE TYPE public.deep AS (a int, i public.inside);
CREATE TYPE public.moods AS RANGE (subtype = public.mood);
CREATE TABLE public.items (id int PRIMARY KEY, v {type}, pad text);
INSERT INTO public.items SELECT i, {value}, repeat('x', 100) FROM generate_series(1, 2000) AS i;
ANALYZE public.items
"""
RENAME = "ALTER TYPE public.mood RENAME VALUE 'sad' TO 'blue'"
PAIR = {"type": "public.pair", "value": "ROW(1, 'sad')::public.pair"}
DEEP = {"type": "public.deep", "value": "ROW(1, ROW('sad'))::public.deep"}
RANGE = {"type": "public.moods", "value": "public.moods('sad', 'ok')"}


@BOTH
@pytest.mark.parametrize(
    ("column", "change"),
    [
        (PAIR, RENAME),
        (DEEP, RENAME),
        (RANGE, RENAME),
        (DEEP, "ALTER TYPE public.inside ADD ATTRIBUTE more int"),
    ],
    ids=["composite", "composite in composite", "range", "attribute"],
)
def test_a_type_within_a_type_is_changed(
    column: dict[str, str], change: str, mode: dict[str, Any], source: Database, target: Database
) -> None:
    source.execute(NESTED.format(**column))
    land_one(source, target, mode)
    source.execute(change)

    land_one(source, target, mode)

    assert_equal(source, target, mode)


@pytest.mark.parametrize("is_dead", [True, False], ids=["after a crash", "during the run"])
def test_a_type_within_a_type_is_changed_halfway(
    is_dead: bool, source: Database, target: Database
) -> None:
    table = {**FULL, **SMALL}
    source.execute(NESTED.format(**PAIR))

    def change(chunks: int) -> None:
        if chunks == 4:
            source.execute(RENAME)
            if is_dead:
                raise BrokenOffError

    land(source, target, table, after_chunk=change)
    if is_dead:
        land_one(source, target, table)

    assert_equal(source, target, table)


def test_names_of_other_objects_are_read_again_by_xmin_incremental(
    source: Database, target: Database
) -> None:
    source.execute(
        "CREATE TABLE public.other (x int); CREATE TABLE public.items (id int PRIMARY KEY,"
        " v regclass); INSERT INTO public.items VALUES (1, 'public.other')"
    )
    land_one(source, target, XMIN)
    source.execute("ALTER TABLE public.other RENAME TO another")

    land_one(source, target, XMIN)

    assert target.execute(f"SELECT v FROM {RAW}") == [("another",)]


# ---------------------------------------------------------------- what a repair cannot tell


def test_a_key_that_nothing_proves_is_not_repaired(source: Database, target: Database) -> None:
    """Its window would replace both rows of a key by the one that is new."""
    create_items(source, 2000)
    source.execute("ALTER TABLE public.items DROP CONSTRAINT items_pkey")
    table = {**FULL, **SMALL, "primary_key": "id"}
    broken_off(source, target, table, after=4)
    source.execute("INSERT INTO public.items VALUES (7, 'second with key 7', 1)")
    source.execute("DELETE FROM public.items WHERE id = 8")

    assert land(source, target, table).tables[0].error is not None
    assert target.execute("SELECT to_regclass(%s)", (RAW,)) == [(None,)]


@BOTH
def test_a_default_partition_is_split_between_a_crash_and_the_next_run(
    mode: dict[str, Any], source: Database, target: Database
) -> None:
    """Its rows stand in two leaves, older than the window: a repair would never add up."""
    source.execute(
        "CREATE TABLE public.items (id int PRIMARY KEY, body text) PARTITION BY RANGE (id);"
        "CREATE TABLE public.items_d PARTITION OF public.items DEFAULT;"
        "INSERT INTO public.items SELECT i, md5(i::text) FROM generate_series(1, 3000) AS i;"
        "CREATE TABLE public.items_1 (LIKE public.items INCLUDING ALL);"
        "INSERT INTO public.items_1 SELECT * FROM public.items WHERE id <= 100;"
        "ANALYZE public.items"
    )
    table = {**mode, **SMALL}
    broken_off(source, target, table, after=5)
    source.execute(
        "BEGIN; DELETE FROM public.items WHERE id <= 100; ALTER TABLE public.items"
        " ATTACH PARTITION public.items_1 FOR VALUES FROM (1) TO (101); COMMIT"
    )

    land_one(source, target, table)

    assert ids(target, RAW) == list(range(1, 3001))


# ---------------------------------------------------------------- newer servers


def test_a_not_null_that_old_rows_break(target_server: Any, target: Database) -> None:
    """PostgreSQL 18: NOT NULL ... NOT VALID says nothing of the rows that were there."""
    with fresh_database(target_server, "source18") as source:
        source.execute(
            "CREATE TABLE public.items (id int PRIMARY KEY, v text);"
            "INSERT INTO public.items SELECT i, CASE WHEN i > 5 THEN 'x' END"
            " FROM generate_series(1, 100) AS i;"
            "ALTER TABLE public.items ADD CONSTRAINT v_nn NOT NULL v NOT VALID"
        )
        land_one(source, target, FULL)
        assert_equal(source, target, FULL)
