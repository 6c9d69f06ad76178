"""What a column becomes, and that every value arrives: binary and text, identical and mapped."""

from typing import Any

import pytest

from tests.support.landing import assert_equal, land_one
from tests.support.servers import Database

TABLE: dict[str, Any] = {"source": "public.t", "sync_mode": "full_sync"}

IDENTICAL = [
    ("bool", "true, false, NULL"),
    ("int2", "-32768, 32767"),
    ("int8", "-9223372036854775808, 9223372036854775807"),
    ("float4", "'NaN', 'Infinity', 1.1"),
    ("float8", "'-Infinity', 0.1, '-0'"),
    ("numeric", "'NaN', 'Infinity', 1.10, 1.100, 1e-300"),
    ("numeric(12,2)", "1.1, -99999.99"),
    ("text", "'', E'tab\\tnew\\nline\\\\', '\\N', '한글', repeat('x', 100000)"),
    ("varchar(10)", "'abc'"),
    ("char(5)", "'ab'"),
    ('"char"', "'a'"),
    ("bytea", "'\\x00ff', ''"),
    ("uuid", "'00000000-0000-0000-0000-000000000001'"),
    ("date", "'infinity', '-infinity', '0044-03-15 BC', '2026-02-28'"),
    ("time", "'23:59:59.999999'"),
    ("timetz", "'12:00+09'"),
    ("timestamp", "'infinity', '2026-01-01 00:00:00.000001'"),
    ("timestamptz", "'-infinity', '2026-01-01 00:00:00+09', '4713-01-01 BC'"),
    ("interval", "'1 mon -1 day 00:00:00.000001', '1 day', '24:00'"),
    ("money", "'12.34', '-0.01'"),
    ("json", "'{\"a\":  1}', 'null'"),
    ("jsonb", "'{\"b\": [1, null]}'"),
    ("inet", "'10.0.0.1/8', '::1'"),
    ("macaddr", "'08:00:2b:01:02:03'"),
    ("bit(3)", "B'101'"),
    ("varbit", "B'1', B''"),
    ("point", "'(1,2)'"),
    ("polygon", "'((0,0),(1,1),(1,0))'"),
    ("int4range", "'[1,5)', 'empty', '(,)'"),
    ("tstzrange", "'[2026-01-01,)'"),
    ("tsvector", "'a:1 b:2'"),
    ("pg_lsn", "'16/B374D848'"),
    ("text[]", "'{}', '{a,NULL,\"q\\\"uo,te\"}', '[2:3]={x,y}'"),
    ("int4[]", "'{{1,2},{3,4}}'"),
    ("interval[]", "'{1 day,NULL}'"),
    ("oid", "42, 4294967295"),
    ("oidvector", "'1 2'"),
    ("xid8", "'18446744073709551615'"),
    ("name", "'한글'"),
]
SINCE_15 = [("numeric(3,-2)", "1250, 99900"), ("numeric(2,4)[]", "'{0.0012,NULL}'")]
"""A scale that 13 and 14 do not know."""
SINCE_14 = [
    ("int4multirange", "'{[1,2),[5,6)}'"),
    ("tstzmultirange[]", "'{\"{[2026-01-01,)}\"}'"),
]
KEPT = [*IDENTICAL, *SINCE_14, *SINCE_15]
MAPPED = [
    ("public.mood", "'ok', 'sad'", "text"),
    ("public.mood[]", "'{ok,NULL,sad}', '{}'", "text[]"),
    ("public.positive", "1, 2", "integer"),
    ("public.price", "1.5, 2.25", "numeric(12,2)"),
    ("public.price[]", "'{1.5,2}'", "text[]"),
    ("public.mood_domain", "'ok'", "text"),
    ("public.pair", "ROW(1, 'a,\"b\"')::public.pair, NULL", "text"),
    ("public.pair[]", "ARRAY[ROW(1, 'x')]::public.pair[]", "text[]"),
    ("regclass", "'pg_class'", "text"),
    ("public.float_range", "'[1.5,2.5]'", "text"),
]
TYPES = """
CREATE TYPE public.mood AS ENUM ('sad', 'ok');
CREATE DOMAIN public.positive AS int CHECK (value > 0);
CREATE DOMAIN public.money_base AS numeric(12, 2);
CREATE DOMAIN public.price AS public.money_base NOT NULL;
CREATE DOMAIN public.mood_domain AS public.mood;
CREATE TYPE public.pair AS (a int, b text);
CREATE TYPE public.float_range AS RANGE (subtype = float8);
"""


def create_rows(source: Database, type_: str, values: str) -> None:
    """One row a value, each cast by itself: an array of arrays would be something else."""
    source.execute(TYPES)
    source.execute(
        f"CREATE TABLE public.t (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v {type_})"
    )
    source.execute(f"INSERT INTO public.t (v) VALUES {_split(values)}")


def _split(values: str) -> str:
    """Values separated by a comma and a space outside of quotes and parentheses."""
    depth, quoted, start, found = 0, False, 0, []
    for place, sign in enumerate(values):
        quoted ^= sign == "'"
        if not quoted:
            depth += (sign in "([") - (sign in ")]")
            if sign == "," and depth == 0:
                found.append(values[start:place])
                start = place + 1
    return ", ".join(f"({value})" for value in [*found, values[start:]])


def type_of_v(database: Database, table: str) -> str:
    query = (
        "SELECT format_type(atttypid, atttypmod) FROM pg_attribute "
        "WHERE attname = 'v' AND attrelid = %s::regclass"
    )
    return str(database.execute(query, (table,))[0][0])


@pytest.mark.parametrize(("type_", "values"), KEPT, ids=[name for name, _ in KEPT])
def test_a_type_every_server_has_stays_what_it_is(
    type_: str, values: str, source: Database, target: Database
) -> None:
    create_rows(source, type_, values)

    land_one(source, target, TABLE)
    land_one(source, target, TABLE)

    assert type_of_v(target, "raw_data.digitalocean_t") == type_of_v(source, "public.t")
    assert_equal(source, target, TABLE)


@pytest.mark.parametrize(
    ("type_", "values", "raw_type"), MAPPED, ids=[name for name, _, _ in MAPPED]
)
def test_a_type_of_the_sources_own_lands_as_text(
    type_: str, values: str, raw_type: str, source: Database, target: Database
) -> None:
    create_rows(source, type_, values)

    land_one(source, target, TABLE)

    assert type_of_v(target, "raw_data.digitalocean_t") == raw_type
    assert_equal(source, target, TABLE)


def test_not_null_comments_and_order_are_kept(source: Database, target: Database) -> None:
    source.execute(
        "CREATE TABLE public.t (z text NOT NULL, id int PRIMARY KEY, a text);"
        "COMMENT ON COLUMN public.t.z IS 'what z is; it''s 한글'"
    )

    land_one(source, target, TABLE)

    assert target.execute(
        "SELECT attname, attnotnull, col_description(attrelid, attnum) FROM pg_attribute "
        "WHERE attrelid = 'raw_data.digitalocean_t'::regclass AND attnum > 0 ORDER BY attnum"
    ) == [
        ("z", True, "what z is; it's 한글"),
        ("id", True, None),
        ("a", False, None),
        ("_loaded_at", True, None),
    ]
    assert target.execute(
        "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint "
        "WHERE conrelid = 'raw_data.digitalocean_t'::regclass AND contype = 'p'"
    ) == [("digitalocean_t_pkey", "PRIMARY KEY (id)")]


def test_any_name_lands(source: Database, target: Database) -> None:
    """Quotes, dots, spaces, percent signs, capitals, reserved words, 63 bytes."""
    source.execute(
        'CREATE SCHEMA "시장 ""%s"""; CREATE TABLE "시장 ""%s"""."종목.마스터" ('
        '"User" int, "select" text, "100%" numeric, "%(x)s" text, "{}" text,'
        f' "{"ㅎ" * 21}" text, PRIMARY KEY ("User", "select"));'
        "INSERT INTO \"시장 \"\"%s\"\"\".\"종목.마스터\" VALUES (1, 'a', 1, 'b', 'c', 'd')"
    )
    table = {
        "source": '"시장 ""%s"""."종목.마스터"',
        "target": f'raw_data."{"Raw %s" * 10}"',
        "sync_mode": "xmin_incremental",
        "custom_where": '"100%" = 1 AND "select" LIKE \'%a%\'',
        "deletes": "soft",
    }

    land_one(source, target, table)
    source.execute('UPDATE "시장 ""%s"""."종목.마스터" SET "User" = 2')
    result = land_one(source, target, table)

    assert (result.rows_inserted, result.rows_deleted) == (1, 1)
    assert_equal(source, target, table)


def test_columns_may_be_chosen_or_left_out(source: Database, target: Database) -> None:
    source.execute("CREATE TABLE public.t (id int PRIMARY KEY, a int, b int, c int)")
    query = (
        "SELECT array_agg(attname::text ORDER BY attnum) FROM pg_attribute "
        "WHERE attrelid = %s::regclass AND attnum > 0"
    )

    land_one(source, target, {**TABLE, "columns": ["c", "a"], "target": "raw_data.one"})
    land_one(source, target, {**TABLE, "exclude_columns": ["id", "b"], "target": "raw_data.two"})

    expected = [(["id", "a", "c", "_loaded_at"],)]
    assert target.execute(query, ("raw_data.one",)) == expected
    assert target.execute(query, ("raw_data.two",)) == expected


def test_rows_leave_and_enter_custom_where(source: Database, target: Database) -> None:
    """A row that no longer belongs is a delete, although it is still in the source."""
    source.execute(
        "CREATE TABLE public.t (id int PRIMARY KEY, code text);"
        "INSERT INTO public.t SELECT i, 'A' || i || CASE WHEN i % 2 = 0 THEN '-L' ELSE '' END "
        "FROM generate_series(1, 100) AS i"
    )
    table = {**TABLE, "sync_mode": "xmin_incremental", "custom_where": "code LIKE '%-L'"}
    assert land_one(source, target, table).rows_inserted == 50
    source.execute("UPDATE public.t SET code = 'left' WHERE id = 2")
    source.execute("UPDATE public.t SET code = 'entered-L' WHERE id = 1")

    result = land_one(source, target, table)

    assert (result.rows_inserted, result.rows_deleted) == (1, 1)
    assert_equal(source, target, table)
    changed = land_one(source, target, {**table, "custom_where": "code LIKE 'A%'"})
    assert changed.baseline
    assert_equal(source, target, {**table, "custom_where": "code LIKE 'A%'"})
