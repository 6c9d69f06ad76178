"""Every pair of server versions: the three modes, the types, and what a version cannot hold."""

from itertools import product

import pytest

from tests.integration.test_counted_by_reading import assert_reads_count
from tests.integration.test_counted_by_reading import create_items as create_many_items
from tests.integration.test_types import IDENTICAL, TYPES, _split
from tests.support.builds import MAJORS
from tests.support.landing import assert_equal, land, land_one
from tests.support.servers import Database
from tests.support.tables import MODES, change_items, create_items

CORNERS = {(13, 18), (18, 13), (13, 13)}
PAIRS = [
    pytest.param(pair, id="{} to {}".format(*pair), marks=mark)
    for pair in product(MAJORS, MAJORS)
    for mark in [pytest.mark.slow if pair in CORNERS else pytest.mark.matrix]
]
EVERY_PAIR = pytest.mark.parametrize("pair", PAIRS, indirect=True)


def pairs(*wanted: tuple[int, int]) -> pytest.MarkDecorator:
    """Marks a test that some pairs are for."""
    params = [pytest.param(pair, id="{} to {}".format(*pair)) for pair in wanted]
    return pytest.mark.parametrize("pair", params, indirect=True)


@EVERY_PAIR
@pytest.mark.parametrize("mode", MODES)
def test_every_mode_follows_changes(mode: str, source: Database, target: Database) -> None:
    create_items(source, 2000)
    table = {**MODES[mode], "batch_size": 500}
    first = land_one(source, target, table)
    change_items(source)
    second = land_one(source, target, table)

    assert first.rows_inserted == 2000
    assert (second.rows_inserted, second.rows_deleted) == (200, 40)
    assert_equal(source, target, table)


@pytest.mark.slow
@pairs((14, 18), (15, 18), (16, 18), (17, 18))
def test_reading_counts_the_source(source: Database) -> None:
    create_many_items(source)
    for seed in range(5):
        assert_reads_count(source, seed)


@EVERY_PAIR
def test_every_type_arrives(source: Database, target: Database) -> None:
    """What only some version has is another test's."""
    columns = [
        (f"c{number}", type_, values.replace(", 'Infinity'", "") if type_ == "numeric" else values)
        for number, (type_, values) in enumerate(IDENTICAL)
    ]
    source.execute(TYPES)
    source.execute(
        "CREATE TABLE public.t (id int PRIMARY KEY GENERATED ALWAYS AS IDENTITY, mood public.mood,"
        f" {', '.join(f'{name} {type_}' for name, type_, _ in columns)})"
    )
    for name, _, values in columns:
        source.execute(f"INSERT INTO public.t ({name}) VALUES {_split(values)}")
    table = {"source": "public.t", "sync_mode": "xmin_incremental"}

    land_one(source, target, table)
    source.execute("UPDATE public.t SET mood = 'ok' WHERE id % 2 = 0")
    land_one(source, target, table)

    assert_equal(source, target, table)


@pytest.mark.slow
@pairs((18, 13), (14, 13))
def test_an_infinite_numeric_never_becomes_something_else(
    source: Database, target: Database
) -> None:
    """13 has none (manual 14, E.1): the target refuses the value, and nothing is published."""
    source.execute(
        "CREATE TABLE public.t (id int PRIMARY KEY, v numeric);"
        "INSERT INTO public.t VALUES (1, 'Infinity')"
    )
    (result,) = land(source, target, {"source": "public.t"}).tables

    assert result.error is not None
    assert 'copy blocks 0 to the end of "public.t"' in result.error.primary
    assert target.execute("SELECT to_regclass('raw_data.digitalocean_t')") == [(None,)]


@pytest.mark.slow
@pairs((17, 16), (18, 13))
def test_an_infinite_interval_never_becomes_something_else(
    source: Database, target: Database
) -> None:
    """Through binary it would arrive as garbage before 17."""
    source.execute(
        "CREATE TABLE public.t (id int PRIMARY KEY, v interval);"
        "INSERT INTO public.t VALUES (1, 'infinity')"
    )
    (result,) = land(source, target, {"source": "public.t"}).tables

    assert result.error is not None
    assert "infinity" in result.error.detail
    assert target.execute("SELECT to_regclass('raw_data.digitalocean_t')") == [(None,)]


@pytest.mark.slow
@pairs((18, 18), (17, 18))
def test_an_infinite_interval_arrives_where_it_exists(source: Database, target: Database) -> None:
    source.execute(
        "CREATE TABLE public.t (id int PRIMARY KEY, v interval);"
        "INSERT INTO public.t VALUES (1, 'infinity'), (2, '-infinity')"
    )
    land_one(source, target, {"source": "public.t"})

    assert_equal(source, target, {"source": "public.t"})


@pytest.mark.slow
@pairs((16, 18))
def test_a_foreign_table_is_read_in_one_pass(source: Database, target: Database) -> None:
    source.execute(
        "CREATE EXTENSION postgres_fdw;"
        f"CREATE SERVER other FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '{source.host}',"
        f" port '{source.port}', dbname '{source.name}');"
        f"CREATE USER MAPPING FOR {source.user} SERVER other OPTIONS (user '{source.user}',"
        f" password '{source.password}');"
        "CREATE TABLE public.items (id int PRIMARY KEY, body text);"
        "INSERT INTO public.items SELECT i, 'row ' || i FROM generate_series(1, 100) AS i;"
        "CREATE FOREIGN TABLE public.foreign_items (id int, body text)"
        " SERVER other OPTIONS (schema_name 'public', table_name 'items')"
    )
    table = {"source": "public.foreign_items", "primary_key": "id"}
    assert land_one(source, target, table).chunks == 1
    source.execute("DELETE FROM public.items WHERE id < 9; UPDATE public.items SET body = 'new'")
    land_one(source, target, table)
    assert_equal(source, target, table)

    (refused,) = land(source, target, {**table, "sync_mode": "xmin_incremental"}).tables
    assert refused.error is not None
    assert refused.error.primary == (
        '"public.foreign_items" cannot be read by xmin: "public.foreign_items" is a foreign table'
    )
