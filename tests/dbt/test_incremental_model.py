"""fct_order_items, through everything that can happen to order_items between two builds."""

import pytest

from tests.dbt.warehouse import Dbt, Warehouse

FACT = "dev_marts.fct_order_items"
RAW = "raw_data.digitalocean_order_items"
COLUMNS = "order_id, line_number, product_id, {}, line_amount, created_at, _loaded_at"

CHANGE = f"UPDATE {RAW} SET quantity = 7, line_amount = 73.5, _loaded_at = %(at)s"
DELETE = f"UPDATE {RAW} SET _deleted_at = %(at)s, _loaded_at = %(at)s"
REVIVE = f"UPDATE {RAW} SET quantity = 8, _deleted_at = NULL, _loaded_at = %(at)s"
ADD = f"""
    INSERT INTO {RAW} VALUES (4, 1, 5, 1, 10.50, 10.50, '2025-02-02 00:00+00', %(at)s, NULL)
"""


@pytest.fixture(autouse=True)
def first_build(warehouse: Warehouse, dbt: Dbt) -> None:
    build(dbt)
    assert warehouse.execute(f"SELECT count(*) FROM {FACT}") == [(60,)]
    assert_fact_equals_raw_table(warehouse)


def build(dbt: Dbt, *options: str) -> None:
    outcome = dbt("run", "--select", "+fct_order_items", *options)
    assert outcome.succeeded, outcome.errors
    assert outcome.warnings == []


def assert_fact_equals_raw_table(warehouse: Warehouse) -> None:
    """The fact is what a build from nothing would make of the raw table."""
    live = (
        f"SELECT {COLUMNS.format('quantity')}, unit_price FROM {RAW} WHERE _deleted_at IS NULL"
        " ORDER BY order_id, line_number"
    )
    fact = (
        f"SELECT {COLUMNS.format('unit_count')}, unit_price_amount FROM {FACT}"
        " ORDER BY order_id, line_number"
    )
    assert warehouse.execute(fact) == warehouse.execute(live)


def physical_rows(warehouse: Warehouse) -> list[tuple[object, ...]]:
    """Where each row of the fact lies, and which transaction wrote it."""
    return warehouse.execute(f"SELECT order_id, line_number, ctid, xmin FROM {FACT} ORDER BY 1, 2")


def test_a_build_follows_changes_deletes_and_revivals(warehouse: Warehouse, dbt: Dbt) -> None:
    """Whatever one publish did, and however many came between two builds."""
    warehouse.publish(
        f"{CHANGE} WHERE order_id = 1",
        f"{DELETE} WHERE order_id = 2 AND line_number = 2",
        f"{DELETE} WHERE order_id = 3",  # the whole order vanished
        ADD,
    )
    build(dbt)
    assert_fact_equals_raw_table(warehouse)

    warehouse.publish(f"{REVIVE} WHERE order_id = 3 AND line_number = 1")
    warehouse.publish(f"{DELETE} WHERE order_id = 5")
    warehouse.publish(f"{REVIVE} WHERE order_id = 5", f"{DELETE} WHERE order_id = 6")
    warehouse.publish(f"{CHANGE} WHERE order_id = 7")
    build(dbt)
    assert_fact_equals_raw_table(warehouse)

    incremental = warehouse.execute(f"SELECT * FROM {FACT} ORDER BY 1, 2")
    build(dbt, "--full-refresh")
    assert warehouse.execute(f"SELECT * FROM {FACT} ORDER BY 1, 2") == incremental


def test_a_build_without_a_change_writes_nothing(warehouse: Warehouse, dbt: Dbt) -> None:
    before = physical_rows(warehouse)
    build(dbt)
    assert physical_rows(warehouse) == before


def test_a_build_writes_only_rows_that_changed(warehouse: Warehouse, dbt: Dbt) -> None:
    before = dict.fromkeys(physical_rows(warehouse))
    warehouse.publish(f"{CHANGE} WHERE order_id = 1", f"{DELETE} WHERE order_id = 2")
    build(dbt)
    written = [row[:2] for row in physical_rows(warehouse) if row not in before]
    assert written == [(1, 1)]


def test_a_publish_that_only_deletes_is_followed(warehouse: Warehouse, dbt: Dbt) -> None:
    """Not even of the rows with the newest `_loaded_at` one may stay."""
    warehouse.publish(f"{CHANGE} WHERE order_id = 1")
    build(dbt)
    warehouse.publish(f"{DELETE} WHERE order_id = 1")
    build(dbt)
    assert_fact_equals_raw_table(warehouse)


def test_a_table_that_lost_every_row_fills_again(warehouse: Warehouse, dbt: Dbt) -> None:
    warehouse.publish(f"{DELETE} WHERE true")
    build(dbt)
    assert warehouse.execute(f"SELECT count(*) FROM {FACT}") == [(0,)]
    warehouse.publish(f"{REVIVE} WHERE order_id < 10")
    build(dbt)
    assert_fact_equals_raw_table(warehouse)


def test_a_deletion_published_in_the_middle_of_a_build_is_made_up_for(
    warehouse: Warehouse, dbt: Dbt
) -> None:
    """The next build deletes it, although the fact already holds rows published after it."""
    warehouse.publish(f"{DELETE} WHERE order_id = 1")
    warehouse.publish(f"{CHANGE} WHERE order_id = 2")
    warehouse.execute(
        f"UPDATE {FACT} SET _loaded_at = '{warehouse.published_at}' WHERE order_id = 2 RETURNING 1"
    )
    build(dbt)
    assert warehouse.execute(f"SELECT count(*) FROM {FACT} WHERE order_id = 1") == [(0,)]


def test_a_build_that_fails_leaves_the_fact_as_it_was(warehouse: Warehouse, dbt: Dbt) -> None:
    """Rows are merged and deleted together or not at all, and the next build does both."""
    before = physical_rows(warehouse)
    warehouse.publish(f"{CHANGE} WHERE order_id = 1", f"{DELETE} WHERE order_id = 2")
    # Other rows than the changed one, which the merge deletes before it inserts them.
    warehouse.execute(
        f"""
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql
        AS $$ BEGIN RAISE 'no row of order 2 goes'; END $$;
        CREATE TRIGGER refuse BEFORE DELETE ON {FACT} FOR EACH ROW
        WHEN (old.order_id = 2) EXECUTE FUNCTION refuse()
        """
    )
    outcome = dbt("run", "--select", "+fct_order_items")
    assert not outcome.succeeded
    assert physical_rows(warehouse) == before

    warehouse.execute(f"DROP TRIGGER refuse ON {FACT}")
    build(dbt)
    assert_fact_equals_raw_table(warehouse)
