"""The log of an Airflow task as plain lines: Airflow writes JSON and has no command to print it."""

import json
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from extract_load.errors import ConfigError, ExtractLoadError

_HINT = "make logs DAG=digitalocean_data_copy_dag TASK=digitalocean_users.extract_load [RUN=...]"
_TASKS_TOLD = 8
# On every line the same, or a place in the code; what is told stands in the event.
_NO_FACTS = {
    "timestamp",
    "level",
    "event",
    "logger",
    "filename",
    "lineno",
    "loc",
    "error_detail",
} | {"dag_id", "task_id", "run_id", "map_index", "try_number", "ti_id"}


def last_attempt(logs: Path, dag: str, task: str, run: str = "") -> Path:
    """Returns the log of a task's last attempt.

    Args:
        logs: Airflow's log directory.
        dag: The DAG's id.
        task: The task's id, its groups in front.
        run: The run's id; without it, the run whose log was written last.

    Raises:
        ConfigError: If DAG or task are not named.
        ExtractLoadError: If there is no such log.
    """
    if not dag or not task:
        raise ConfigError("which task's log?", "Both DAG and TASK are needed.", _HINT)
    attempts = [
        attempt
        for directory in _children(logs / f"dag_id={dag}", "run_id=")
        if not run or directory.name == f"run_id={run}"
        for attempt in (directory / f"task_id={task}").rglob("attempt=*.log")
    ]
    if not attempts:
        of_run = f' in run "{run}"' if run else ""
        raise ExtractLoadError(
            f'task "{task}" of DAG "{dag}" has no log{of_run}',
            f"It has not run, or one of the names is not right.{_others(logs, dag, task)}",
            _HINT,
        )
    return max(attempts, key=lambda path: path.stat().st_mtime)


def plain_lines(log: Path) -> Iterator[str]:
    """Yields the lines of a log as `extract-load run` would print them.

    What Airflow itself says before and after the task, in groups that its web page folds, is left
    out; errors are not.
    """
    depth = 0
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
        entry = _parsed(line)
        event = str(entry["event"])
        depth += event.startswith("::group::")
        is_ours = depth == 0 and not event.startswith("::endgroup::")
        depth = max(depth - event.startswith("::endgroup::"), 0)
        if is_ours or entry.get("level") in {"error", "critical"}:
            yield from _plain(entry)


def _parsed(line: str) -> dict[str, Any]:
    """A line as Airflow's JSON; one that is none, as an event by itself."""
    try:
        entry = json.loads(line)
    except ValueError:
        entry = None
    return entry if isinstance(entry, dict) and "event" in entry else {"event": line}


def _plain(entry: dict[str, Any]) -> Iterator[str]:
    time = f"{entry['timestamp'][:19]}Z " if "timestamp" in entry else ""
    level = f"{entry['level'].upper():<5} " if "level" in entry else ""
    facts = [f"{key}={fact}" for key, fact in entry.items() if key not in _NO_FACTS]
    yield f"{time}{level}{' '.join([str(entry['event']), *facts])}".rstrip()
    for error in entry.get("error_detail") or ():
        for frame in error.get("frames") or ():
            yield f"    {frame['filename']}:{frame['lineno']} {frame['name']}"
        yield from f"{error['exc_type']}: {error['exc_value']}".splitlines()


def _others(logs: Path, dag: str, task: str) -> str:
    """A sentence with tasks of the DAG that have a log, those with a similar name first."""
    known = {
        path.name.removeprefix("task_id=")
        for run in _children(logs / f"dag_id={dag}", "run_id=")
        for path in _children(run, "task_id=")
    }
    similar = get_close_matches(task, known, _TASKS_TOLD)
    told = [*similar, *sorted(known.difference(similar))][:_TASKS_TOLD]
    if not told:
        return ""
    rest = f", and {len(known) - len(told)} more" if len(known) > len(told) else ""
    return f"\nThese have one: {', '.join(told)}{rest}."


def _children(directory: Path, prefix: str) -> list[Path]:
    return sorted(directory.glob(f"{prefix}*"))
