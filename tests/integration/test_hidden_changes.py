"""Changes that neither an xmin nor a count tells, on the way between two snapshots.

Rows come and go in equal numbers here, so that no count helps.
"""

from typing import Any

import pytest

from tests.support.interrupted import BrokenOffError, broken_off
from tests.support.landing import assert_equal, land, land_one, prepared_run
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
@pytest.mark.parametrize(
    "where", ["a", "(items).a", "to_jsonb(items) ->> 'a' = 'true'"], ids=["name", "field", "row"]
)
def test_columns_that_only_custom_where_reads_change_places(
    where: str, mode: dict[str, Any], flagged: Database, target: Database
) -> None:
    table = {**mode, **ASKED, "custom_where": where}
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


@BOTH
def test_an_extensions_stable_operator_is_no_reason(
    mode: dict[str, Any], source: Database, target: Database
) -> None:
    """As pg_trgm has one of the name of modulo, which depends on a setting and reads no table."""
    create_items(source, 100)
    source.execute(
        "CREATE FUNCTION public.similar(text, text) RETURNS boolean STABLE LANGUAGE sql"
        " AS 'SELECT $1 = $2';"
        "CREATE OPERATOR public.% (LEFTARG = text, RIGHTARG = text, FUNCTION = public.similar);"
        "ALTER EXTENSION plpgsql ADD FUNCTION public.similar(text, text)"
    )
    table = {**mode, "custom_where": "id % 2 = 0"}
    land_one(source, target, table)

    assert not land_one(source, target, table).baseline


@BOTH
def test_a_condition_over_names_of_the_catalog(
    mode: dict[str, Any], source: Database, target: Database
) -> None:
    """A rename moves rows in and out: read as a whole, or refused."""
    create_items(source, 100)
    source.execute(
        "CREATE TABLE public.other (); CREATE TABLE public.another ();"
        "ALTER TABLE public.items ADD rel oid;"
        "UPDATE public.items SET rel = CASE WHEN id % 2 = 0 THEN 'public.other'::regclass"
        " ELSE 'public.another'::regclass END"
    )
    where = "rel::regclass::text ~ '(^|[.])other$'"
    table = {**mode, "custom_where": where}
    first = land(source, target, table).tables[0].error
    if mode is XMIN:
        assert first is not None
        assert "may not call type regclass in xmin_incremental" in first.primary
        return
    source.execute(
        "ALTER TABLE public.other RENAME TO x; ALTER TABLE public.another RENAME TO other"
    )

    land_one(source, target, table, allow_deletes=True)

    assert ids(target, RAW) == ids(source, "public.items", where)


# ---------------------------------------------------------------- tables that are read besides

REFILL = (
    "BEGIN; TRUNCATE public.lines;INSERT INTO public.lines SELECT generate_series(1, 500); COMMIT"
)
LINES = """
CREATE TABLE public.lines AS SELECT generate_series(1, 500) AS id;
CREATE TABLE public.others AS SELECT generate_series(501, 900) AS id;
CREATE FUNCTION public.is_line(int) RETURNS boolean STABLE PARALLEL SAFE LANGUAGE sql
    AS 'SELECT EXISTS (SELECT FROM public.lines WHERE id = $1)';
CREATE VIEW public.shown AS SELECT * FROM public.items WHERE public.is_line(id)
"""
IN_LINES = "id IN (SELECT id FROM public.lines)"


@pytest.mark.parametrize(
    "keys",
    [
        {"custom_where": IN_LINES},
        {"custom_where": f"NOT {IN_LINES}"},
        {"custom_where": "public.is_line(id)"},
        {"source": "public.shown", "target": RAW, "primary_key": "id"},
    ],
    ids=["sub-query", "its opposite", "function", "view"],
)
def test_a_table_that_is_read_besides_is_truncated_and_filled(
    keys: dict[str, Any], source: Database, target: Database
) -> None:
    """The snapshot shows it empty, which it never was; counts would agree."""
    create_items(source, 1000)
    source.execute(LINES)
    run = prepared_run(source, target, {**FULL, **SMALL, **keys})
    source.execute(REFILL)

    (result,) = run.execute().tables

    assert (result.error, result.rows_inserted) == (None, 500)
    assert result.retries == 1
    wanted = keys.get("custom_where", IN_LINES)
    assert ids(target, RAW) == ids(source, "public.items", wanted)


@pytest.mark.parametrize(
    ("ddl", "rows", "retries"),
    [
        (
            "ALTER TABLE public.lines RENAME TO old; ALTER TABLE public.others RENAME TO lines",
            400,
            1,
        ),
        ("DROP TABLE public.others; ALTER TABLE public.lines ADD more int DEFAULT 1", 500, 0),
        ("CREATE INDEX ON public.lines (id); REINDEX TABLE public.items; ANALYZE", 500, 0),
    ],
    ids=["swapped", "extended", "indexed"],
)
def test_a_table_that_is_read_besides_is_altered(
    ddl: str, rows: int, retries: int, source: Database, target: Database
) -> None:
    create_items(source, 1000)
    source.execute(LINES)
    run = prepared_run(source, target, {**FULL, **SMALL, "custom_where": IN_LINES})
    source.execute(ddl)

    (result,) = run.execute().tables

    assert (result.error, result.rows_inserted, result.retries) == (None, rows, retries)


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


@pytest.mark.parametrize("when", ["between runs", "after a crash", "during the run"])
@BOTH
def test_an_attribute_is_dropped_and_added_again(
    when: str, mode: dict[str, Any], source: Database, target: Database
) -> None:
    """(1,2) becomes (1,) in every row, under the same names and types."""
    table = {**mode, **SMALL}
    source.execute(
        "CREATE TYPE public.pair AS (x int, y int);"
        "CREATE TABLE public.items (id int PRIMARY KEY, v public.pair, pad text);"
        "INSERT INTO public.items SELECT i, ROW(1, 2)::public.pair, repeat('x', 100)"
        " FROM generate_series(1, 2000) AS i; ANALYZE public.items"
    )

    def change(chunks: int) -> None:
        if chunks == 4 and when != "between runs":
            source.execute("ALTER TYPE public.pair DROP ATTRIBUTE y, ADD ATTRIBUTE y int")
            if when == "after a crash":
                raise BrokenOffError

    land(source, target, table, after_chunk=change)
    if when == "between runs":
        source.execute("ALTER TYPE public.pair DROP ATTRIBUTE y, ADD ATTRIBUTE y int")
    if when != "during the run":
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
