"""The dbt snapshots, over publishes that change, delete and bring back rows."""

from datetime import UTC, datetime

import pytest

from tests.dbt.warehouse import Dbt, Warehouse

ORDERS = "dev_snapshots.snap_digitalocean__orders"
PRODUCTS = "dev_snapshots.snap_digitalocean__products"
NOW_VALID = "dbt_valid_to = '9999-12-31 00:00+00'"
PUBLISHED_LATER = "updated_at = clock_timestamp(), _loaded_at = %(at)s"


@pytest.fixture(autouse=True)
def first_snapshots(warehouse: Warehouse, dbt: Dbt) -> None:
    outcome = dbt("run", "--select", "stg_digitalocean__orders")
    assert outcome.succeeded, outcome.errors
    take_snapshots(dbt)
    # Whoever takes the later ones sits in another time zone than who took the first.
    (name,) = warehouse.execute("SELECT quote_ident(current_database())")[0]
    warehouse.execute(f"ALTER DATABASE {name} SET timezone = 'Asia/Seoul'")


def take_snapshots(dbt: Dbt) -> None:
    outcome = dbt("snapshot")
    assert outcome.succeeded, outcome.errors
    assert outcome.warnings == []


def versions(warehouse: Warehouse, snapshot: str, key: str, value: str) -> list[tuple[object, ...]]:
    """The versions of one row, oldest first: a value, deleted or not, valid now or not."""
    return warehouse.execute(
        f"SELECT {value}, dbt_is_deleted, {NOW_VALID} FROM {snapshot} WHERE {key} = 1"
        " ORDER BY dbt_valid_from"
    )


def test_a_soft_delete_and_a_revival_are_versions_of_an_order(
    warehouse: Warehouse, dbt: Dbt
) -> None:
    update = f"UPDATE raw_data.digitalocean_orders SET {PUBLISHED_LATER}"
    warehouse.publish(f"{update}, status = 'shipped' WHERE id = 1")
    take_snapshots(dbt)
    warehouse.publish(
        "UPDATE raw_data.digitalocean_orders SET _deleted_at = %(at)s, _loaded_at = %(at)s"
        " WHERE id = 1"
    )
    take_snapshots(dbt)
    take_snapshots(dbt)
    deleted = [("paid", "False", False), ("shipped", "False", False), ("shipped", "True", True)]
    assert versions(warehouse, ORDERS, "order_id", "order_status") == deleted

    warehouse.publish(f"{update}, status = 'placed', _deleted_at = NULL WHERE id = 1")
    take_snapshots(dbt)
    revived = [*deleted[:2], ("shipped", "True", False), ("placed", "False", True)]
    assert versions(warehouse, ORDERS, "order_id", "order_status") == revived
    assert_history_has_no_gap(warehouse, ORDERS, "order_id")


def test_a_change_that_keeps_its_time_is_a_version_of_an_order(
    warehouse: Warehouse, dbt: Dbt
) -> None:
    """Of two updates that waited for each other, the later one may carry the earlier time."""
    warehouse.publish(
        "UPDATE raw_data.digitalocean_orders SET status = 'shipped', _loaded_at = %(at)s"
        " WHERE id = 1"
    )
    take_snapshots(dbt)
    changed = [("paid", "False", False), ("shipped", "False", True)]
    assert versions(warehouse, ORDERS, "order_id", "order_status") == changed
    assert_history_has_no_gap(warehouse, ORDERS, "order_id")


def test_an_order_that_returns_as_it_was_is_valid_once_at_any_time(
    warehouse: Warehouse, dbt: Dbt
) -> None:
    update = "UPDATE raw_data.digitalocean_orders SET _loaded_at = %(at)s, _deleted_at"
    warehouse.publish(f"{update} = %(at)s WHERE id = 1")
    take_snapshots(dbt)
    warehouse.publish(f"{update} = NULL WHERE id = 1")
    take_snapshots(dbt)

    returned = [("paid", "False", False), ("paid", "True", False), ("paid", "False", True)]
    assert versions(warehouse, ORDERS, "order_id", "order_status") == returned
    assert_history_has_no_gap(warehouse, ORDERS, "order_id")
    ends = f"SELECT count(*) FROM {ORDERS} WHERE dbt_valid_to <= dbt_valid_from"
    assert warehouse.execute(ends) == [(0,)]


def test_a_hard_delete_and_a_return_are_versions_of_a_product(
    warehouse: Warehouse, dbt: Dbt
) -> None:
    warehouse.publish(
        "CREATE TABLE kept AS SELECT * FROM raw_data.digitalocean_products WHERE id = 1",
        f"UPDATE raw_data.digitalocean_products SET {PUBLISHED_LATER}, price = 5 WHERE id = 1",
    )
    take_snapshots(dbt)
    warehouse.publish("DELETE FROM raw_data.digitalocean_products WHERE id = 1")
    take_snapshots(dbt)
    take_snapshots(dbt)
    deleted = [("1.99", "False", False), ("5.00", "False", False), ("5.00", "True", True)]
    assert versions(warehouse, PRODUCTS, "id", "price::text") == deleted

    warehouse.publish("INSERT INTO raw_data.digitalocean_products SELECT * FROM kept")
    take_snapshots(dbt)
    returned = [*deleted[:2], ("5.00", "True", False), ("1.99", "False", True)]
    assert versions(warehouse, PRODUCTS, "id", "price::text") == returned
    assert_history_has_no_gap(warehouse, PRODUCTS, "id")


def test_a_new_load_time_alone_is_no_new_version(warehouse: Warehouse, dbt: Dbt) -> None:
    """A version is a change of the product, not of when it was landed."""
    warehouse.publish("UPDATE raw_data.digitalocean_products SET _loaded_at = %(at)s")
    take_snapshots(dbt)
    assert warehouse.execute(f"SELECT count(*) FROM {PRODUCTS}") == [(5,)]


def test_versions_are_stamped_in_timestamptz(warehouse: Warehouse, dbt: Dbt) -> None:
    """A time without a zone would be off by nine hours between two machines."""
    before = datetime.now(UTC)
    warehouse.publish("DELETE FROM raw_data.digitalocean_products WHERE id = 1")
    take_snapshots(dbt)
    [(deleted_at,)] = warehouse.execute(
        f"SELECT dbt_valid_from FROM {PRODUCTS} WHERE dbt_is_deleted = 'True'"
    )
    assert before <= deleted_at <= datetime.now(UTC)
    types = warehouse.execute(
        """
        SELECT DISTINCT data_type FROM information_schema.columns
        WHERE table_schema = 'dev_snapshots'
        AND column_name IN ('dbt_valid_from', 'dbt_valid_to', 'dbt_updated_at')
        """
    )
    assert types == [("timestamp with time zone",)]


def assert_history_has_no_gap(warehouse: Warehouse, snapshot: str, key: str) -> None:
    """Each version ends when the next begins."""
    gaps = warehouse.execute(
        f"""
        SELECT * FROM (
            SELECT dbt_valid_to, lead(dbt_valid_from) OVER (ORDER BY dbt_valid_from) AS next_from
            FROM {snapshot} WHERE {key} = 1
        ) AS versions
        WHERE dbt_valid_to <> next_from
        """
    )
    assert gaps == []
