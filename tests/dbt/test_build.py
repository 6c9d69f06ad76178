"""dbt build by itself over a loaded warehouse, as prod."""

from collections.abc import Iterator

import pytest

from demo.embedded_server import EmbeddedServer
from tests.dbt.warehouse import Dbt, Outcome, Warehouse, load
from tests.support.servers import fresh_database


@pytest.fixture(scope="module")
def built(
    target_server: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Warehouse, list[Outcome]]]:
    """A warehouse that was built twice, and what dbt said; for tests that only look."""
    with fresh_database(target_server, "built") as database:
        warehouse = load(database)
        dbt = Dbt(database, tmp_path_factory.mktemp("built"), "prod")
        yield warehouse, [dbt("build", "--show-all-deprecations") for _ in range(2)]


def test_a_build_passes_again_and_again_without_a_warning(
    built: tuple[Warehouse, list[Outcome]],
) -> None:
    assert built[1] == [Outcome(succeeded=True, warnings=[], errors=[])] * 2


def test_prod_builds_in_exactly_the_four_schemas(built: tuple[Warehouse, list[Outcome]]) -> None:
    schemas = built[0].execute(
        "SELECT nspname FROM pg_namespace"
        " WHERE nspname NOT LIKE 'pg_%' AND nspname <> 'information_schema' ORDER BY 1"
    )
    assert [name for (name,) in schemas] == [
        *("extract_load", "extract_load_scratch", "intermediate", "marts"),
        *("public", "raw_data", "snapshots", "staging"),
    ]


def test_every_column_that_is_built_is_described_in_the_warehouse(
    built: tuple[Warehouse, list[Outcome]],
) -> None:
    """Analysts read descriptions in their SQL client; dbt's own columns explain themselves."""
    silent = built[0].execute(
        """
        SELECT attrelid::regclass::text, attname
        FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
        WHERE relnamespace::regnamespace::text IN ('staging', 'intermediate', 'marts')
            AND relkind IN ('r', 'v') AND attnum > 0 AND NOT attisdropped
            AND col_description(attrelid, attnum) IS NULL
        """
    )
    assert silent == []


def test_every_relation_that_is_built_is_described_in_the_warehouse(
    built: tuple[Warehouse, list[Outcome]],
) -> None:
    silent = built[0].execute(
        """
        SELECT oid::regclass::text FROM pg_class
        WHERE relnamespace::regnamespace::text IN ('staging', 'intermediate', 'marts', 'snapshots')
            AND relkind IN ('r', 'v') AND obj_description(oid) IS NULL
        """
    )
    assert silent == []


def test_the_marts_say_what_the_raw_tables_hold(built: tuple[Warehouse, list[Outcome]]) -> None:
    warehouse, _ = built
    assert warehouse.execute(
        """
        SELECT total_amount::text, items_amount::text, item_count, unit_count, ordered_date::text
        FROM marts.fct_orders WHERE order_id IN (3, 4) ORDER BY order_id
        """
    ) == [("63.00", "63.00", 3, 6, "2025-01-10"), ("0.00", "0.00", 0, 0, "2025-01-10")]
    # Of the orders of user 4 (3, 13, 23, 33) two are cancelled: 3 and 23.
    assert warehouse.execute(
        "SELECT order_count, lifetime_amount::text FROM marts.dim_users WHERE user_id = 4"
    ) == [(4, "21.00")]
    assert warehouse.execute(
        """
        SELECT target_table, changed_row_count, is_latest_publish
        FROM marts.rpt_extract_load_table_runs ORDER BY 1 LIMIT 1
        """
    ) == [("digitalocean_events", 40, True)]


def test_names_in_korean_become_english(built: tuple[Warehouse, list[Outcome]]) -> None:
    assert built[0].execute(
        """
        SELECT market_code, stock_code, price_date::text, currency_code, stock_name,
            close_price_amount::text, listed_share_count
        FROM staging.stg_digitalocean__stocks ORDER BY stock_code LIMIT 1
        """
    ) == [("KOSPI", "000001-L", "2025-01-10", "KRW", "종목 1", "50000.1234", 1000000)]


def test_a_developer_builds_behind_a_prefix(warehouse: Warehouse, dbt: Dbt) -> None:
    outcome = dbt("run", "--select", "stg_digitalocean__users")
    assert outcome.succeeded, outcome.errors
    assert warehouse.execute("SELECT count(*) FROM dev_staging.stg_digitalocean__users") == [(10,)]


def test_a_quiet_table_is_fresh_and_an_unpublished_one_is_not(
    warehouse: Warehouse, dbt: Dbt
) -> None:
    """No row has changed for months, and yet the table is fresh: it was published just now."""
    fresh = dbt("source", "freshness")
    assert fresh == Outcome(succeeded=True, warnings=[], errors=[])

    warehouse.execute(
        """
        UPDATE extract_load.watermarks SET published_at = now() - interval '3 days'
        WHERE target_table = 'digitalocean_users';
        UPDATE extract_load.watermarks SET published_at = now() - interval '30 hours'
        WHERE target_table = 'digitalocean_orders'
        """
    )
    stale = dbt("source", "freshness")
    assert not stale.succeeded
    assert "ERROR STALE freshness of digitalocean.users" in stale.errors[0]
    assert len(stale.warnings) == 1
    assert "WARN freshness of digitalocean.orders" in stale.warnings[0]


@pytest.mark.parametrize(
    ("damage", "test"),
    [
        pytest.param(
            "UPDATE raw_data.digitalocean_orders SET total_amount = total_amount + 1 WHERE id = 1",
            "order_total_is_the_sum_of_its_items",
            id="an order costs more than its items",
        ),
        pytest.param(
            "DELETE FROM raw_data.digitalocean_users WHERE id = 5",
            "relationships_fct_orders_user_id",
            id="an order of nobody",
        ),
    ],
)
def test_a_build_finds_damaged_data(warehouse: Warehouse, dbt: Dbt, damage: str, test: str) -> None:
    """In dev, where one run landed all tables, tables that disagree are an error."""
    warehouse.publish(damage)
    outcome = dbt(
        *("build", "--select", "+fct_orders", "+dim_users", "--indirect-selection", "buildable")
    )
    assert not outcome.succeeded
    assert any(test in error for error in outcome.errors), outcome.errors
