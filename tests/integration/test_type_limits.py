"""What is too wide or too large, and names of every kind: landed, or refused by name."""

from itertools import cycle
from typing import Any

import pytest

from extract_load.config import SyncMode
from tests.support.landing import assert_equal, land, land_one
from tests.support.servers import Database

TABLE: dict[str, Any] = {"source": "public.t", "sync_mode": "full_sync"}
RAW = "raw_data.digitalocean_t"


def refusal(source: Database, target: Database, **keys: Any) -> Any:
    """The error of a table that cannot be landed; the raw table is not there then."""
    (result,) = land(source, target, {**TABLE, **keys}).tables
    assert target.execute("SELECT to_regclass(%s)", (RAW,)) == [(None,)]
    assert result.error is not None
    return result.error


# ---------------------------------------------------------------- columns


@pytest.mark.parametrize("name", ["_loaded_at", "_deleted_at"])
def test_a_column_with_a_name_of_ours_is_refused(
    source: Database, target: Database, name: str
) -> None:
    source.execute(f"CREATE TABLE public.t (id int PRIMARY KEY, {name} text)")

    error = refusal(source, target)

    assert error.primary == f'"public.t" has a column "{name}", which extract-load writes itself'
    assert f"exclude_columns: [{name}]" in error.hint
    land_one(source, target, {**TABLE, "exclude_columns": [name]})


def test_1598_columns_land_and_1599_are_refused(source: Database, target: Database) -> None:
    columns = [f"c{number} bool" for number in range(1597)]
    source.execute(f"CREATE TABLE public.t (id int PRIMARY KEY, {', '.join(columns)})")
    source.execute("INSERT INTO public.t (id, c0, c1596) VALUES (1, true, false), (2, NULL, true)")
    table = {**TABLE, "deletes": "soft"}
    land_one(source, target, table)
    source.execute("UPDATE public.t SET c1000 = true WHERE id = 1; DELETE FROM public.t WHERE id=2")
    result = land_one(source, target, table)
    assert (result.rows_updated, result.rows_deleted) == (1, 1)
    assert_equal(source, target, table)

    source.execute("ALTER TABLE public.t ADD COLUMN c1597 bool")
    (refused,) = land(source, target, table).tables

    assert refused.error is not None
    assert refused.error.primary == '"public.t" has 1599 columns; a raw table holds 1598'
    assert refused.error.hint == 'Leave some out with "exclude_columns".'


def test_600_enums_that_outgrow_a_page_are_named(source: Database, target: Database) -> None:
    """Four bytes each in the source, at least eighteen in the target."""
    label = "a label of twenty-one"
    columns = ", ".join(f"e{number} public.long" for number in range(600))
    values = ", ".join([f"'{label}'"] * 600)
    source.execute(
        f"CREATE TYPE public.long AS ENUM ('{label}');"
        f"CREATE TABLE public.t (id int PRIMARY KEY, {columns});"
        f"INSERT INTO public.t VALUES (1, {values})"
    )

    error = refusal(source, target)

    assert error.primary == 'a row of "public.t" fits no page of the target "postgres_default"'
    assert "600 columns e0, e1, e2" in error.detail
    assert "and 580 more, which land as other types" in error.detail
    assert error.hint == 'Leave some of these columns out with "exclude_columns".'
    left_out = [f"e{number}" for number in range(300)]
    land_one(source, target, {**TABLE, "exclude_columns": left_out})


def test_a_row_that_outgrows_a_page_by_the_landing_columns_is_named(
    source: Database, target: Database
) -> None:
    """It fits the scratch table of a later run, not the raw table."""
    columns = ", ".join(f"c{number} float8" for number in range(1016))
    source.execute(f"CREATE TABLE public.t (id int PRIMARY KEY, {columns})")
    land_one(source, target, TABLE)
    source.execute(f"INSERT INTO public.t VALUES (1{', 1' * 1016})")

    (result,) = land(source, target, TABLE).tables

    assert result.error is not None
    assert result.error.primary == (
        'a row of "public.t" fits no page of the target "postgres_default"'
    )
    assert "1017 columns id, c0, c1" in result.error.detail
    assert "all of them, take too many bytes" in result.error.detail


# ---------------------------------------------------------------- values


@pytest.mark.parametrize("other", ["int", "interval"], ids=["binary", "text"])
def test_values_of_100_mb_land(source: Database, target: Database, other: str) -> None:
    source.execute(
        f"CREATE TABLE public.t (id int PRIMARY KEY, body text, bytes bytea, other {other});"
        "INSERT INTO public.t (id, body) SELECT 1, string_agg(md5(i::text), '')"
        " FROM generate_series(1, 3276800) AS i;"
        "INSERT INTO public.t (id, bytes)"
        " SELECT 2, decode(repeat('00ff5c0a', 100 * 1024 * 1024 / 4), 'hex')"
    )

    result = land_one(source, target, {**TABLE, "memory_limit_mb": 1024})

    assert result.bytes_read > 2 * 100 * 1024 * 1024
    assert target.execute(
        f"SELECT octet_length(body), octet_length(bytes) FROM {RAW} ORDER BY id"
    ) == [(104857600, None), (None, 104857600)]
    assert_equal(source, target, TABLE)


# ---------------------------------------------------------------- names

ODD = {
    "quote": 'a "quoted" name',
    "dots": "a.b.c",
    "spaces": "  spaces  ",
    "percent": "%(x)s 100% %s %%",
    "upper": "UPPER",
    "korean": "종목 마스터",
    "63 bytes": "ㅎ" * 21,
    "backslash": "back\\slash'",
    "braces": "{} {0}",
}


def quoted(name: str) -> str:
    doubled = name.replace('"', '""')
    return f'"{doubled}"'


@pytest.mark.parametrize(
    ("name", "mode"), list(zip(ODD.values(), cycle(SyncMode), strict=False)), ids=ODD
)
def test_a_name_may_be_anything_everywhere(
    source: Database, target: Database, name: str, mode: SyncMode
) -> None:
    """Schema, table, key, columns, cursor, enum and its labels, raw table."""
    odd = quoted(name)
    label = name.replace("'", "''")
    key = (name[:20] + " key") if len(name.encode()) < 59 else name[:-1] + "k"
    cursor = (name[:20] + " at") if len(name.encode()) < 59 else name[:-1] + "c"
    source.execute(
        f"CREATE SCHEMA {odd}; CREATE TYPE public.{odd} AS ENUM ('{label}', 'other');"
        f"CREATE TABLE {odd}.{odd} ({quoted(key)} public.{odd}, number int, {odd} public.{odd}[],"
        f" {quoted(cursor)} int NOT NULL, PRIMARY KEY ({quoted(key)}, number));"
        f"COMMENT ON COLUMN {odd}.{odd}.{odd} IS '{label}';"
        f"INSERT INTO {odd}.{odd} SELECT '{label}', i, ARRAY['{label}', 'other']::public.{odd}[], i"
        " FROM generate_series(1, 5) AS i"
    )
    table = {
        "source": f"{odd}.{odd}",
        "target": f"{odd}.{odd}",
        "sync_mode": mode,
        "deletes": "hard",
        "custom_where": f"{odd} IS NOT NULL",
        **(
            {"incremental_field": cursor, "lookback": 0}
            if mode is SyncMode.INCREMENTAL_SYNC
            else {}
        ),
    }
    land_one(source, target, table)
    assert_equal(source, target, table)
    source.execute(
        f"DELETE FROM {odd}.{odd} WHERE number = 1;"
        f"UPDATE {odd}.{odd} SET {odd} = '{{other}}', {quoted(cursor)} = 9 WHERE number = 2;"
        f"INSERT INTO {odd}.{odd} VALUES ('{label}', 7, '{{}}', 1)"
    )

    result = land_one(source, target, table)

    assert (result.rows_inserted, result.rows_updated, result.rows_deleted) == (1, 1, 1)
    assert_equal(source, target, table)
