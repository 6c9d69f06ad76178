"""The whole way of a table, in each sync mode, between two real servers."""

from typing import Any

import pytest

from tests.support.landing import assert_equal, difference, land, land_one, loaded_at
from tests.support.servers import Database

ORDERS = """
CREATE TYPE public.mood AS ENUM ('sad', 'ok', 'happy');
CREATE TABLE public.orders (
    id bigint PRIMARY KEY,
    public_id uuid NOT NULL DEFAULT gen_random_uuid(),
    mood public.mood,
    tags text[] NOT NULL DEFAULT '{}',
    body jsonb,
    amount numeric(12, 2),
    doubled numeric GENERATED ALWAYS AS (amount * 2) STORED,
    note varchar(40),
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX ON public.orders (updated_at);
INSERT INTO public.orders (id, mood, tags, body, amount, note, updated_at)
SELECT i, (ARRAY['sad', 'ok', 'happy'])[1 + i % 3]::public.mood,
       ARRAY['a' || i, NULL, '{"'], jsonb_build_object('n', i, 'k', 'v'), i * 1.1,
       nullif('note ' || i % 7, 'note 0'), timestamptz '2026-01-01' + i * interval '1 minute'
FROM generate_series(1, 5000) AS i;
ANALYZE public.orders;
"""

FULL = {"source": "public.orders", "sync_mode": "full_sync", "batch_size": 700}
INCREMENTAL = {
    "source": "public.orders",
    "sync_mode": "incremental_sync",
    "incremental_field": "updated_at",
    "deletes": "hard",
    "batch_size": 700,
}
XMIN = {"source": "public.orders", "sync_mode": "xmin_incremental", "batch_size": 700}
EVERY_MODE = pytest.mark.parametrize(
    "table", [FULL, INCREMENTAL, XMIN], ids=["full", "incremental", "xmin"]
)


@pytest.fixture
def orders(source: Database) -> Database:
    source.execute(ORDERS)
    return source


def change(source: Database) -> None:
    """300 updates, 100 inserts, 50 deletes."""
    source.execute("UPDATE public.orders SET note = 'x', updated_at = now() WHERE id <= 300")
    source.execute(
        "INSERT INTO public.orders (id, amount) SELECT i, i FROM generate_series(6001, 6100) AS i"
    )
    source.execute("DELETE FROM public.orders WHERE id BETWEEN 4001 AND 4050")


@EVERY_MODE
def test_first_load_equals_the_source(
    orders: Database, target: Database, table: dict[str, Any]
) -> None:
    result = land_one(orders, target, table)

    assert (result.rows_read, result.rows_inserted, result.baseline) == (5000, 5000, True)
    assert result.chunks > 3
    assert_equal(orders, target, table)


@EVERY_MODE
def test_second_run_moves_only_what_changed(
    orders: Database, target: Database, table: dict[str, Any]
) -> None:
    land_one(orders, target, table)
    before = loaded_at(target, "raw_data.digitalocean_orders")
    change(orders)

    result = land_one(orders, target, table)

    assert (result.rows_inserted, result.rows_updated, result.rows_deleted) == (100, 300, 50)
    assert_equal(orders, target, table)
    after = loaded_at(target, "raw_data.digitalocean_orders")
    untouched = [key for key in after if key in before and key > 300]
    assert len(untouched) == 4650
    assert all(after[key] == before[key] for key in untouched)
    assert len({after[key] for key in after if key <= 300 or key > 6000}) == 1


@EVERY_MODE
def test_an_idle_run_changes_nothing(
    orders: Database, target: Database, table: dict[str, Any]
) -> None:
    land_one(orders, target, table)
    before = loaded_at(target, "raw_data.digitalocean_orders")
    published = "SELECT published_at FROM extract_load.watermarks"
    (first,) = target.execute(published)[0]

    result = land_one(orders, target, table)

    assert (result.rows_inserted, result.rows_updated, result.rows_deleted) == (0, 0, 0)
    assert loaded_at(target, "raw_data.digitalocean_orders") == before
    assert target.execute(published)[0][0] > first


@pytest.mark.parametrize("table", [INCREMENTAL, XMIN], ids=["incremental", "xmin"])
def test_a_delta_reads_only_its_window(
    orders: Database, target: Database, table: dict[str, Any]
) -> None:
    land_one(orders, target, table)
    change(orders)

    result = land_one(orders, target, table)

    assert result.baseline is False
    assert 400 <= result.rows_read <= 420


@EVERY_MODE
def test_soft_deletes_keep_the_row_and_revive_it(
    orders: Database, target: Database, table: dict[str, Any]
) -> None:
    soft = {**table, "deletes": "soft"}
    land_one(orders, target, soft)
    orders.execute("DELETE FROM public.orders WHERE id = 7")
    gone = land_one(orders, target, soft)
    tombstone = "SELECT _deleted_at = _loaded_at FROM raw_data.digitalocean_orders WHERE id = 7"
    assert (gone.rows_deleted, target.execute(tombstone)) == (1, [(True,)])
    again = land_one(orders, target, soft)
    assert again.rows_deleted == 0

    orders.execute("INSERT INTO public.orders (id, amount) VALUES (7, 7)")
    land_one(orders, target, soft)

    assert target.execute(tombstone) == [(None,)]
    assert_equal(orders, target, soft)


def test_deletes_ignored_are_kept(orders: Database, target: Database) -> None:
    table = {**INCREMENTAL, "deletes": "ignore"}
    land_one(orders, target, table)
    orders.execute("DELETE FROM public.orders WHERE id = 7")

    land_one(orders, target, table)

    assert difference(orders, target, table).extra == (("7",),)


def test_a_changed_key_is_a_delete_and_an_insert(orders: Database, target: Database) -> None:
    land_one(orders, target, XMIN)
    orders.execute("UPDATE public.orders SET id = 9999 WHERE id = 1")

    result = land_one(orders, target, XMIN)

    assert (result.rows_inserted, result.rows_deleted) == (1, 1)
    assert_equal(orders, target, XMIN)


def test_rows_backdated_below_the_cursor_are_found_by_their_keys(
    orders: Database, target: Database
) -> None:
    land_one(orders, target, INCREMENTAL)
    orders.execute(
        "INSERT INTO public.orders (id, amount, updated_at) VALUES (7001, 1, '2020-01-01')"
    )

    result = land_one(orders, target, INCREMENTAL)

    assert result.rows_inserted == 1
    assert_equal(orders, target, INCREMENTAL)


def test_a_commit_within_the_lookback_is_found_and_counted_late(
    orders: Database, target: Database
) -> None:
    with orders.connect() as slow:
        slow.autocommit = False
        with slow.cursor() as cursor:
            cursor.execute(
                "INSERT INTO public.orders (id, updated_at) "
                "VALUES (8001, timestamptz '2026-01-04 11:19:59')"
            )
            land_one(orders, target, {**INCREMENTAL, "deletes": "ignore"})
            slow.commit()

    result = land_one(orders, target, {**INCREMENTAL, "deletes": "ignore"})

    assert (result.rows_inserted, result.rows_late) == (1, 1)


def test_a_transaction_open_during_the_run_is_not_lost_by_xmin(
    orders: Database, target: Database
) -> None:
    """A row of a transaction that began before the snapshot and commits after it must arrive."""
    with orders.connect() as slow:
        slow.autocommit = False
        with slow.cursor() as cursor:
            cursor.execute("INSERT INTO public.orders (id, amount) VALUES (8001, 1)")
            orders.execute("INSERT INTO public.orders (id, amount) VALUES (8002, 2)")
            land_one(orders, target, XMIN)
            slow.commit()

    result = land_one(orders, target, XMIN)

    assert result.rows_inserted == 1
    assert_equal(orders, target, XMIN)


def test_several_tables_share_one_snapshot(orders: Database, target: Database) -> None:
    orders.execute(
        "CREATE TABLE public.other (id int PRIMARY KEY); INSERT INTO public.other VALUES (1)"
    )

    report = land(orders, target, FULL, {"source": "public.other"})

    assert report.status == "done"
    assert len({table.window_high for table in report.tables}) == 1
    assert_equal(orders, target, FULL, {"source": "public.other"})


@pytest.mark.parametrize("workers", [1, 3])
def test_workers_share_the_work(orders: Database, target: Database, workers: int) -> None:
    table = {**FULL, "parallel_workers": workers, "batch_size": 100}

    assert land_one(orders, target, table).rows_read == 5000
    assert_equal(orders, target, table)
