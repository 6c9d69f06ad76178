"""Reads a folder of DAG files as Airflow does and prints what it found, as one line of JSON.

Whatever parsing reaches out for is refused and told. Run in a process of its own.
"""

import gc
import json
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

# Imported before the clock starts: imports are not what parsing costs.
import airflow.providers.standard.operators.python  # noqa: F401
import cosmos.operators.local  # noqa: F401
import psycopg2
from airflow.dag_processing.dagbag import BundleDagBag
from airflow.sdk import Connection, Variable

sys.path.append(str(Path(__file__).resolve().parents[2] / "dags"))
for _path in Path(sys.path[-1], "common").glob("*.py"):
    import_module(f"common.{_path.stem}")

gc.freeze()  # what they left behind is theirs too

_EVENTS = {"socket.connect", "socket.getaddrinfo", "sqlite3.connect"}
touched: list[str] = []


class Refused(Exception):
    """Parsing wanted something that only a task may ask for."""


def refuse(what: str) -> Any:
    touched.append(what)
    raise Refused(what)


def audit(event: str, _: Any) -> None:
    if event in _EVENTS:
        refuse(event)


def described(dag: Any) -> dict[str, Any]:
    return {
        "max_active_runs": dag.max_active_runs,
        "catchup": dag.catchup,
        "schedule": described_schedule(dag.timetable),
        "params": {name: described_param(dag.params.get_param(name)) for name in dag.params},
        "tasks": {task.task_id: described_task(task) for task in dag.tasks},
    }


def described_param(param: Any) -> dict[str, Any]:
    return {"value": param.value, "schema": param.schema}


def described_schedule(timetable: Any) -> list[str] | None:
    expression = getattr(timetable, "expression", None)
    return [expression, str(timetable.timezone)] if expression else None


def described_task(task: Any) -> dict[str, Any]:
    node = getattr(task, "extra_context", {}).get("dbt_node_config", {})
    return {
        "operator": type(task).__name__,
        "upstream": sorted(task.upstream_task_ids),
        "trigger_rule": str(task.trigger_rule.value),
        "pool": task.pool,
        "retries": task.retries,
        "limit_seconds": task.execution_timeout and task.execution_timeout.total_seconds(),
        "retry_minutes": task.retry_delay.total_seconds() / 60,
        "outlets": [[asset.name, asset.uri] for asset in task.outlets],
        "node": node.get("unique_id"),
    }


def yardstick_seconds() -> float:
    """What a fixed piece of plain Python takes: machines, and hours of one machine, differ."""
    started = time.process_time()
    made = [(str(number), {"parts": [number] * 3}) for number in range(100_000)]
    made.sort(key=lambda one: one[0])
    return time.process_time() - started


def main(folder: Path) -> None:
    yardstick = yardstick_seconds()
    sys.addaudithook(audit)
    psycopg2.connect = lambda *_, **__: refuse("psycopg2.connect")
    for kind in (Variable, Connection):
        kind.get = lambda *_, kind=kind, **__: refuse(f"{kind.__name__}.get")
    started = time.process_time()
    bag = BundleDagBag(folder, bundle_path=folder, bundle_name="tested")
    seconds = time.process_time() - started
    found = {
        "import_errors": {Path(path).name: text for path, text in bag.import_errors.items()},
        "touched": touched,
        "cpu_seconds": seconds,
        "yardstick_seconds": yardstick,
        "dags": {dag_id: described(dag) for dag_id, dag in bag.dags.items()},
    }
    print(json.dumps(found))  # noqa: T201 - how it answers


if __name__ == "__main__":
    main(Path(sys.argv[1]))
