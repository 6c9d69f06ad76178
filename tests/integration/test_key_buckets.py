"""Deletes found by sums of keys: nothing gone is overlooked, and no equal key is taken for gone."""

import logging
from typing import Any

import pytest

from extract_load.config import Deletes
from tests.support.landing import assert_equal, difference, land_one
from tests.support.servers import Database
from tests.support.tables import INCREMENTAL, RAW, XMIN, create_items

HARD_OR_SOFT = pytest.mark.parametrize("deletes", [Deletes.HARD, Deletes.SOFT])
DELTAS = pytest.mark.parametrize("table", [INCREMENTAL, XMIN], ids=["incremental", "xmin"])


def keys_read(caplog: pytest.LogCaptureFixture) -> tuple[int, int]:
    """How many keys were moved in the last run, and their bytes."""
    found = [vars(record) for record in caplog.records if record.message == "keys read"]
    caplog.clear()
    return sum(one["keys"] for one in found), sum(one["bytes"] for one in found)


@pytest.fixture(autouse=True)
def _told(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="extract_load.deletes")


@DELTAS
@HARD_OR_SOFT
def test_only_buckets_that_differ_move_keys(
    source: Database,
    target: Database,
    table: dict[str, Any],
    deletes: Deletes,
    caplog: pytest.LogCaptureFixture,
) -> None:
    create_items(source, 20_000)
    table = {**table, "deletes": deletes.value}
    land_one(source, target, table)
    source.execute(
        "DELETE FROM public.items WHERE id % 4000 = 7;"
        "UPDATE public.items SET id = -1, updated_at = now() WHERE id = 8"
    )

    result = land_one(source, target, table)

    assert (result.rows_deleted, result.rows_inserted) == (6, 1)
    keys, _ = keys_read(caplog)
    assert 0 < keys < 20_000 / 20
    assert_equal(source, target, table)
    again = land_one(source, target, table)
    assert (again.rows_deleted, keys_read(caplog)) == (0, (0, 0))


@DELTAS
def test_rows_the_raw_table_lost_are_landed_again(
    source: Database, target: Database, table: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """No window holds them: their keys are found missing, and their rows read."""
    create_items(source, 20_000)
    land_one(source, target, table)
    target.execute(f"DELETE FROM {RAW} WHERE id IN (100, 101, 5000)")

    result = land_one(source, target, table)

    assert result.rows_inserted == 3
    assert 3 <= keys_read(caplog)[0] < 1_000
    assert_equal(source, target, table)


def test_keys_equal_in_value_are_one_row_whatever_their_texts(
    source: Database, target: Database
) -> None:
    """1.0 and 1.00: the buckets of both differ, and the key's own equality decides."""
    source.execute(
        "CREATE TABLE public.items (id numeric PRIMARY KEY, body text,"
        " updated_at timestamptz NOT NULL DEFAULT '2026-01-01');"
        "INSERT INTO public.items SELECT i::numeric(12, 1), 'x' FROM generate_series(1, 500) AS i"
    )
    table = {**INCREMENTAL, "lookback": "1s"}
    land_one(source, target, table)
    source.execute(
        "UPDATE public.items SET id = id::numeric(12, 2) WHERE id <= 50;"
        "INSERT INTO public.items VALUES (900.0, 'new', '2026-01-02');"
        "UPDATE public.items SET updated_at = '2020-01-01';"
        "UPDATE public.items SET id = 77.000, updated_at = '2026-01-03' WHERE id = 77;"
        "DELETE FROM public.items WHERE id IN (78, 79)"
    )

    result = land_one(source, target, table)

    assert (result.rows_deleted, result.rows_inserted, result.rows_updated) == (2, 1, 1)
    rows = f"SELECT count(*), min(body), count(*) FILTER (WHERE id <= 50) FROM {RAW}"
    assert target.execute(rows) == [(499, "new", 50)]
    assert target.execute(f"SELECT id::text FROM {RAW} WHERE id = 77") == [("77.000",)]


def test_a_raw_row_that_a_landed_one_replaces_is_not_gone(
    source: Database, target: Database
) -> None:
    """Its old text may stand in a bucket that differs; it would be marked, and counted, twice."""
    source.execute(
        "CREATE TABLE public.items (id numeric PRIMARY KEY, body text);"
        "INSERT INTO public.items SELECT i::numeric(12, 1), 'x' FROM generate_series(1, 900) AS i"
    )
    table = {**XMIN, "deletes": "soft", "max_delete_ratio": 1}
    land_one(source, target, table)
    source.execute(
        "UPDATE public.items SET id = id::numeric(12, 2) WHERE id % 2 = 0;"
        "DELETE FROM public.items WHERE id % 2 = 1"
    )

    result = land_one(source, target, table)

    assert (result.rows_deleted, result.rows_updated, result.rows_inserted) == (450, 450, 0)
    assert difference(source, target, table).is_equal


def test_deleted_and_written_again_under_the_same_key_is_an_update(
    source: Database, target: Database
) -> None:
    create_items(source, 1_000)
    table = {**XMIN, "deletes": "soft"}
    land_one(source, target, table)
    source.execute("DELETE FROM public.items WHERE id IN (5, 6)")
    assert land_one(source, target, table).rows_deleted == 2
    source.execute(
        "INSERT INTO public.items VALUES (5, 'back', 1); DELETE FROM public.items WHERE id = 7"
    )

    result = land_one(source, target, table)

    assert (result.rows_deleted, result.rows_updated, result.rows_inserted) == (1, 1, 0)
    assert_equal(source, target, table)


def test_rows_that_leave_custom_where_are_deletes(source: Database, target: Database) -> None:
    create_items(source, 2_000)
    table = {**XMIN, "custom_where": "amount % 2 = 0"}
    land_one(source, target, table)
    source.execute("UPDATE public.items SET amount = 1 WHERE id IN (10, 12)")

    assert land_one(source, target, table).rows_deleted == 2
    assert_equal(source, target, table)
