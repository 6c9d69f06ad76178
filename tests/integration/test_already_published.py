"""A task tried again leaves alone what it has published, judged by the targets' ledgers."""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from demo.embedded_server import EmbeddedServer, free_ports
from extract_load import already_published
from extract_load.config import Settings
from extract_load.runner import RunOptions, run
from tests.support.servers import Database, fresh_database
from tests.support.tables import create_items
from tests.support.targets import TARGET_IDS, connection_variables, three_targets

TASK = {"dag_id": "a_dag", "run_id": "manual__1", "task_id": "load"}


@pytest.fixture
def targets(target_server: EmbeddedServer) -> Iterator[dict[str, Database]]:
    with ExitStack() as stack:
        yield {
            name: stack.enter_context(fresh_database(target_server, name)) for name in TARGET_IDS
        }


@pytest.fixture
def names(source: Database, targets: dict[str, Database]) -> dict[str, str]:
    create_items(source, 100)
    return connection_variables(source, targets)


BROKEN = {"sync_mode": "incremental_sync", "incremental_field": "absent"}
FIRST_AND_THIRD = {("one", "raw_data.items_one"), ("three", "raw_data.items_three")}


def land(settings: Settings, names: dict[str, str], **invoked_by: Any) -> list[str]:
    options = RunOptions(invoked_by={**TASK, "try_number": 1, **invoked_by})
    return [table.status for table in run(settings, names, options).tables]


def test_what_is_done_beside_a_failure(names: dict[str, str]) -> None:
    assert land(three_targets(BROKEN), names) == ["done", "failed", "done"]
    assert already_published(three_targets(), names, TASK) == FIRST_AND_THIRD


def test_all_done_is_asked_for_again(names: dict[str, str]) -> None:
    """A task that a person cleared after its success is to do its work."""
    assert land(three_targets(), names) == ["done", "done", "done"]
    assert already_published(three_targets(), names, TASK) == frozenset()


def test_a_switched_off_table_is_not_missing(names: dict[str, str]) -> None:
    off = three_targets({"enabled": False})
    assert land(off, names) == ["done", "skipped", "done"]
    assert already_published(off, names, TASK) == frozenset()


def test_nothing_done_without_a_ledger(names: dict[str, str]) -> None:
    assert already_published(three_targets(), names, TASK) == frozenset()


def test_the_newest_try_decides(names: dict[str, str]) -> None:
    land(three_targets(), names)
    land(three_targets(BROKEN), names, try_number=2)
    assert already_published(three_targets(), names, TASK) == FIRST_AND_THIRD
    land(three_targets(), names, try_number=3)
    assert already_published(three_targets(), names, TASK) == frozenset()


@pytest.mark.parametrize("other", TASK)
def test_another_task_another_run_another_dag_prove_nothing(
    names: dict[str, str], other: str
) -> None:
    land(three_targets(BROKEN), names, **{other: "another"})
    assert already_published(three_targets(), names, TASK) == frozenset()


def test_a_killed_try_published_nothing(
    names: dict[str, str], targets: dict[str, Database]
) -> None:
    land(three_targets(), names)
    targets["two"].execute("UPDATE extract_load.table_runs SET status = 'running'")
    assert already_published(three_targets(), names, TASK) == FIRST_AND_THIRD


@pytest.mark.parametrize("how", ["no ledger", "down", "undefined"])
def test_a_target_that_cannot_be_asked_has_nothing(
    names: dict[str, str],
    targets: dict[str, Database],
    how: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    land(three_targets(), names)
    if how == "no ledger":
        targets["two"].execute("DROP SCHEMA extract_load CASCADE")
    elif how == "down":
        (closed,) = free_ports(1)
        port = targets["two"].port
        names["AIRFLOW_CONN_TWO"] = names["AIRFLOW_CONN_TWO"].replace(f":{port}/", f":{closed}/")
    else:
        del names["AIRFLOW_CONN_TWO"]

    with caplog.at_level("INFO", "extract_load"):
        assert already_published(three_targets(), names, TASK) == FIRST_AND_THIRD

    assert caplog.messages.count("target not asked") == (how != "no ledger")
