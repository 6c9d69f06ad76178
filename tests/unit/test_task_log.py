"""Airflow's JSON lines as a person reads them."""

import json
import os
from pathlib import Path

import pytest

from demo.task_log import last_attempt, plain_lines
from extract_load import ExtractLoadError

DAG, TASK = "a_dag", "group.load"


def entry(event: str, level: str = "info", **more: object) -> str:
    stamp = "2025-11-22T02:00:14.123456Z"
    return json.dumps({"timestamp": stamp, "level": level, "event": event, **more})


def log(logs: Path, run: str, attempt: int, *lines: str, task: str = TASK, age: int = 0) -> Path:
    path = logs / f"dag_id={DAG}" / f"run_id={run}" / f"task_id={task}" / f"attempt={attempt}.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines))
    os.utime(path, (1_000_000 - age, 1_000_000 - age))
    return path


def test_a_line_is_time_level_message_and_facts(tmp_path: Path) -> None:
    path = log(
        tmp_path, "r", 1, entry("published rows=3", dag_id=DAG, filename="x.py", category="data")
    )
    assert list(plain_lines(path)) == ["2025-11-22T02:00:14Z INFO  published rows=3 category=data"]


def test_what_airflow_says_around_the_task_is_left_out(tmp_path: Path) -> None:
    path = log(
        tmp_path,
        "r",
        1,
        entry("::group::Pre Execute"),
        entry("::group::Cosmos DAG parsing logs"),
        entry("Total nodes: 3"),
        entry("::endgroup::Cosmos DAG parsing logs"),
        entry("still before"),
        entry("::endgroup::"),
        entry("ours"),
        entry("::group::Post Execute"),
        entry("after"),
        entry("::endgroup::"),
    )
    assert [line.split()[-1] for line in plain_lines(path)] == ["ours"]


def test_an_error_is_shown_wherever_it_stands(tmp_path: Path) -> None:
    failed = entry(
        "Task failed with exception",
        "error",
        error_detail=[
            {
                "exc_type": "AirflowFailException",
                "exc_value": "error: no table\nhint: Check the name.",
                "frames": [{"filename": "operator.py", "lineno": 7, "name": "execute"}],
            }
        ],
    )
    path = log(tmp_path, "r", 1, entry("::group::Pre Execute"), failed)
    assert list(plain_lines(path)) == [
        "2025-11-22T02:00:14Z ERROR Task failed with exception",
        "    operator.py:7 execute",
        "AirflowFailException: error: no table",
        "hint: Check the name.",
    ]


def test_a_line_that_is_no_json_is_kept(tmp_path: Path) -> None:
    path = log(tmp_path, "r", 1, "Killed", "[1, 2]", '{"no": "event"}')
    assert list(plain_lines(path)) == ["Killed", "[1, 2]", '{"no": "event"}']


def test_the_last_attempt_of_the_newest_run_is_shown(tmp_path: Path) -> None:
    log(tmp_path, "new", 1, age=10)
    newest = log(tmp_path, "new", 2)
    old = log(tmp_path, "old", 3, age=20)
    assert last_attempt(tmp_path, DAG, TASK) == newest
    assert last_attempt(tmp_path, DAG, TASK, "old") == old


@pytest.mark.parametrize(
    ("dag", "task", "run", "told"),
    [
        ("b_dag", TASK, "", 'task "group.load" of DAG "b_dag" has no log'),
        (DAG, "group.lod", "", 'task "group.lod" of DAG "a_dag" has no log'),
        (DAG, TASK, "other", 'task "group.load" of DAG "a_dag" has no log in run "other"'),
    ],
    ids=["another DAG", "another task", "another run"],
)
def test_a_log_that_is_not_there_is_told(
    tmp_path: Path, dag: str, task: str, run: str, told: str
) -> None:
    log(tmp_path, "r", 1)
    with pytest.raises(ExtractLoadError) as raised:
        last_attempt(tmp_path, dag, task, run)
    assert raised.value.primary == told
    assert raised.value.hint.startswith("make logs DAG=")


def test_the_most_similar_names_come_first(tmp_path: Path) -> None:
    for number in range(12):
        log(tmp_path, "r", 1, task=f"a{number:02}.test")
    log(tmp_path, "r", 1)
    with pytest.raises(ExtractLoadError) as raised:
        last_attempt(tmp_path, DAG, "group.lod")
    assert "These have one: group.load, a00.test," in raised.value.detail
    assert raised.value.detail.endswith(", and 5 more.")
