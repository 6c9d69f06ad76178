"""Types of extensions, and types that only one of two versions has."""

from typing import Any

import pytest

from tests.integration.test_types import KEPT, SINCE_14, SINCE_15, create_rows, type_of_v
from tests.support.landing import assert_equal, land, land_one
from tests.support.servers import Database
from tests.versions.test_pairs import pairs

pytestmark = pytest.mark.slow

TABLE: dict[str, Any] = {"source": "public.t", "sync_mode": "full_sync"}
RAW = "raw_data.digitalocean_t"


@pairs((18, 13))
@pytest.mark.parametrize("has_it", [True, False], ids=["has", "has not"])
def test_types_of_extensions_stay_where_the_target_has_them(
    source: Database, target: Database, has_it: bool
) -> None:
    """In another schema there, and compared by their own operators."""
    source.execute(
        "CREATE EXTENSION citext; CREATE EXTENSION hstore;"
        "CREATE DOMAIN public.email AS citext CHECK (value LIKE '%@%');"
        "CREATE TABLE public.t (id citext PRIMARY KEY, tags hstore, names citext[],"
        " mail public.email);"
        "INSERT INTO public.t VALUES ('A', 'a=>1,b=>NULL', '{X,NULL,y}', 'A@b'),"
        " ('c', '', '{}', NULL)"
    )
    if has_it:
        target.execute(
            'CREATE SCHEMA "Ext "; CREATE EXTENSION citext SCHEMA "Ext ";'
            'CREATE EXTENSION hstore SCHEMA "Ext "'
        )
    land_one(source, target, TABLE)
    types = [
        type_
        for (type_,) in target.execute(
            "SELECT format_type(atttypid, NULL) FROM pg_attribute WHERE attrelid = %s::regclass"
            " AND attnum BETWEEN 1 AND 4 ORDER BY attnum",
            (RAW,),
        )
    ]
    kept = [f'"Ext ".{name}' for name in ("citext", "hstore", "citext[]", "citext")]
    assert types == (kept if has_it else ["text", "text", "text[]", "text"])
    assert_equal(source, target, TABLE)

    source.execute("UPDATE public.t SET id = 'a', tags = 'z=>2' WHERE id = 'A'")
    result = land_one(source, target, TABLE)
    changed = (result.rows_updated, result.rows_inserted, result.rows_deleted)
    assert changed == ((1, 0, 0) if has_it else (0, 1, 1))
    assert target.execute(f'SELECT id::text FROM {RAW} ORDER BY id::text COLLATE "C"') == [
        ("a",),
        ("c",),
    ]
    assert_equal(source, target, TABLE)


@pairs((18, 13))
def test_a_key_that_changes_its_case_is_found_in_a_delta_without_deletes(
    source: Database, target: Database
) -> None:
    """Compared as text it would be inserted, and stand twice for the index."""
    source.execute(
        "CREATE EXTENSION citext;"
        "CREATE TABLE public.t (id citext PRIMARY KEY, at int NOT NULL);"
        "INSERT INTO public.t VALUES ('A', 1), ('B', 1)"
    )
    target.execute("CREATE SCHEMA ext; CREATE EXTENSION citext SCHEMA ext")
    table = {**TABLE, "sync_mode": "incremental_sync", "incremental_field": "at"}
    land_one(source, target, table)
    source.execute("UPDATE public.t SET id = 'a', at = 2 WHERE at = 1 AND id = 'A'")

    assert land_one(source, target, table).rows_updated == 1
    assert_equal(source, target, table)


@pairs((18, 13), (18, 14), (14, 18))
@pytest.mark.parametrize(("type_", "values"), SINCE_14, ids=[name for name, _ in SINCE_14])
def test_multiranges_stay_from_14_on(
    pair: tuple[int, int], source: Database, target: Database, type_: str, values: str
) -> None:
    create_rows(source, type_, values)

    land_one(source, target, TABLE)

    as_text = "text[]" if type_.endswith("[]") else "text"
    assert type_of_v(target, RAW) == (as_text if pair[1] == 13 else type_)
    assert_equal(source, target, TABLE)


@pairs((18, 13), (15, 14))
@pytest.mark.parametrize(("type_", "values"), SINCE_15, ids=[name for name, _ in SINCE_15])
def test_a_scale_the_target_does_not_know_loses_no_digit(
    source: Database, target: Database, type_: str, values: str
) -> None:
    create_rows(source, type_, values)

    land_one(source, target, TABLE)

    assert type_of_v(target, RAW) == ("numeric[]" if type_.endswith("[]") else "numeric")
    assert_equal(source, target, TABLE)


@pairs((18, 13), (16, 15))
def test_a_char_above_127_does_not_become_a_backslash(source: Database, target: Database) -> None:
    """16 and later write it in octal, of which an older one keeps the first sign."""
    source.execute(
        'CREATE TABLE public.t (id int PRIMARY KEY, v "char", i interval);'
        "INSERT INTO public.t VALUES (1, '\\351', '1 day'), (2, 'a', NULL)"
    )
    land_one(source, target, TABLE)

    assert target.execute(f"SELECT v FROM {RAW} ORDER BY id") == [("\\351",), ("a",)]
    assert_equal(source, target, TABLE)


@pairs((18, 13), (14, 13))
@pytest.mark.parametrize("other", ["int", "interval"], ids=["binary", "text"])
def test_a_value_the_target_cannot_hold_names_its_column(
    source: Database, target: Database, other: str
) -> None:
    source.execute(
        f'CREATE TABLE public.t (id int PRIMARY KEY, other {other}, "the: %s" numeric);'
        "INSERT INTO public.t VALUES (1, NULL, 1), (2, NULL, '-Infinity')"
    )
    (result,) = land(source, target, TABLE).tables

    assert result.error is not None
    assert 'of "public.t"' in result.error.primary
    assert 'in column "the: %s"' in result.error.detail
    assert target.execute("SELECT to_regclass(%s)", (RAW,)) == [(None,)]


@pairs((18, 18), (18, 16))
def test_every_kept_type_is_among_those_the_target_says_it_has(
    source: Database, target: Database
) -> None:
    columns = ", ".join(f"c{number} {type_}" for number, (type_, _) in enumerate(KEPT))
    source.execute(f"CREATE TABLE public.t (id int PRIMARY KEY, {columns})")
    land_one(source, target, TABLE)
    query = (
        "SELECT format_type(atttypid, atttypmod) FROM pg_attribute "
        "WHERE attrelid = %s::regclass AND attname ~ '^c' ORDER BY attnum"
    )
    assert target.execute(query, (RAW,)) == source.execute(query, ("public.t",))
