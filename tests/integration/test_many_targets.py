"""One source, several targets: each has its own mode, watermark and fate."""

from collections.abc import Iterator
from typing import Any

import pytest

from demo.embedded_server import EmbeddedServer, free_ports
from extract_load.config import Settings
from extract_load.report import RunReport
from extract_load.runner import RunOptions, run
from extract_load.settings_file import settings_from_document
from tests.support.landing import SOURCE_ID, TARGET_ID, assert_equal
from tests.support.servers import Database, fresh_database
from tests.support.tables import change_items, create_items

SECOND_ID = "fs2_postgres"


@pytest.fixture
def second(source_server: EmbeddedServer) -> Iterator[Database]:
    """A second target, on the other server version."""
    with fresh_database(source_server, "second") as database:
        yield database


def hybrid(**second_keys: Any) -> Settings:
    return settings_from_document(
        {
            "source_connection": SOURCE_ID,
            "tables": [
                {
                    "source": "public.items",
                    "targets": [
                        {"conn_id": TARGET_ID, "table": "raw_data.items_local"},
                        {
                            "conn_id": SECOND_ID,
                            "table": "raw_data.items_fs2",
                            "sync_mode": "incremental_sync",
                            "deletes": "hard",
                            **second_keys,
                        },
                    ],
                    "primary_key": ["id"],
                    "incremental_field": "updated_at",
                    "incremental_field_type": "timestamp",
                }
            ],
        },
        "test settings",
    )


def variables(source: Database, target: Database, second: str) -> dict[str, str]:
    return {
        f"AIRFLOW_CONN_{SOURCE_ID.upper()}": source.uri,
        f"AIRFLOW_CONN_{TARGET_ID.upper()}": target.uri,
        f"AIRFLOW_CONN_{SECOND_ID.upper()}": second,
    }


def statuses(report: RunReport) -> dict[str, str]:
    return {table.target_connection: table.status for table in report.tables}


def test_each_target_follows_in_its_own_mode(
    source: Database, target: Database, second: Database
) -> None:
    create_items(source, 2_000)
    names = variables(source, target, second.uri)
    run(hybrid(), names)
    change_items(source)

    report = run(hybrid(), names)

    local, fs2 = report.tables
    modes = (local.sync_mode, fs2.sync_mode)
    assert modes == ("full_sync", "incremental_sync")
    assert local.rows_updated == fs2.rows_updated > 0
    assert_equal(source, target, {"source": "public.items", "target": "raw_data.items_local"})
    assert_equal(source, second, {"source": "public.items", "target": "raw_data.items_fs2"})


def test_a_target_that_is_down_leaves_the_other_alone(
    source: Database, target: Database, second: Database
) -> None:
    create_items(source, 2_000)
    (closed,) = free_ports(1)
    down = second.uri.replace(f":{second.port}/", f":{closed}/")

    report = run(hybrid(), variables(source, target, down))

    assert statuses(report) == {TARGET_ID: "done", SECOND_ID: "failed"}
    error = report.failed[0].error
    assert error is not None
    assert error.primary == f'could not connect to target "{SECOND_ID}"'
    assert_equal(source, target, {"source": "public.items", "target": "raw_data.items_local"})

    only = RunOptions(targets=(SECOND_ID,))
    caught_up = run(hybrid(), variables(source, target, second.uri), only)
    assert statuses(caught_up) == {SECOND_ID: "done"}
    assert_equal(source, second, {"source": "public.items", "target": "raw_data.items_fs2"})


def test_a_guard_of_one_target_is_not_the_others(
    source: Database, target: Database, second: Database
) -> None:
    create_items(source, 2_000)
    names = variables(source, target, second.uri)
    run(hybrid(), names)
    source.execute("DELETE FROM public.items WHERE id <= 1000")

    report = run(hybrid(max_delete_ratio=1), names)

    assert statuses(report) == {TARGET_ID: "failed", SECOND_ID: "done"}
    assert target.execute("SELECT count(*) FROM raw_data.items_local") == [(2000,)]
    assert_equal(source, second, {"source": "public.items", "target": "raw_data.items_fs2"})
