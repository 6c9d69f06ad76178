"""Many landed rows that lie in the order of their key are given an index, and merged by it."""

import pytest

from extract_load import load
from extract_load.errors import GuardTripped
from tests.support.landing import assert_equal, land, land_one
from tests.support.servers import Database
from tests.support.tables import FULL, leftovers

INDEXES = "SELECT count(*)::int FROM pg_indexes WHERE schemaname = 'extract_load_scratch'" + (
    " AND indexname LIKE '\\_el\\_%\\_key'"
)


@pytest.mark.parametrize(
    ("key", "indexes"), [("i", 1), ("hashint4(i)", 0), ("-i", 1)], ids=["same", "random", "against"]
)
def test_rows_in_order_are_indexed_and_published(
    source: Database,
    target: Database,
    monkeypatch: pytest.MonkeyPatch,
    key: str,
    indexes: int,
) -> None:
    monkeypatch.setattr(load, "_MANY_ROWS", 1000)
    source.execute(
        "CREATE TABLE public.items (id int PRIMARY KEY, v int);"
        f"INSERT INTO public.items SELECT {key}, i FROM generate_series(1, 5000) AS i"
    )
    land_one(source, target, FULL)
    source.execute("UPDATE public.items SET v = v + 1; DELETE FROM public.items WHERE v <= 2500")

    report = land(source, target, FULL)  # a guard stops it at the last moment
    assert isinstance(report.failed[0].error, GuardTripped)
    assert target.execute(INDEXES) == [(indexes,)]

    source.execute("INSERT INTO public.items VALUES (0, 0)")  # the index goes, and comes again
    result = land_one(source, target, FULL, allow_deletes=True)
    assert (result.rows_updated, result.rows_inserted) == (2501, 1)
    assert_equal(source, target, FULL)
    assert leftovers(target) == []


def test_so_are_chunks_that_lie_in_order_each(
    source: Database, target: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last comes first: over the table, a key and its place are hardly correlated."""
    monkeypatch.setattr(load, "_MANY_ROWS", 1000)
    source.execute(
        "CREATE TABLE public.items (id int PRIMARY KEY, v int, body text);"
        "INSERT INTO public.items SELECT i, i, repeat('x', 500) FROM generate_series(1, 5000) AS i;"
        "ANALYZE public.items"
    )
    keys = {**FULL, "batch_size": 200}
    land_one(source, target, keys)
    source.execute("UPDATE public.items SET v = v + 1; DELETE FROM public.items WHERE v <= 2500")

    report = land(source, target, keys)
    assert isinstance(report.failed[0].error, GuardTripped)
    assert report.failed[0].chunks > 2
    assert target.execute(INDEXES) == [(1,)]


def test_few_rows_are_not_indexed(source: Database, target: Database) -> None:
    source.execute(
        "CREATE TABLE public.items (id int PRIMARY KEY, v int);"
        "INSERT INTO public.items SELECT i, i FROM generate_series(1, 5000) AS i"
    )
    land_one(source, target, FULL)
    source.execute("UPDATE public.items SET v = v + 1; DELETE FROM public.items WHERE v <= 2500")

    land(source, target, FULL)

    assert target.execute(INDEXES) == [(0,)]
