"""What is wrong with the tables: their health against the thresholds. Pure, and without Airflow."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from common.alert_text import Alert
from common.variable_shapes import MonitoringThresholds
from extract_load import TableHealth

_MIB = 1 << 20
_LOOK = "Read the log of its last load, or run: extract-load status --select {}"
_NO_ANSWER = "no_answer"
CHECK_FAILED = "check_failed"


class Key(NamedTuple):
    """What tells a problem from others; the same as long as it lasts."""

    dag_id: str
    target_connection: str = ""
    target: str = ""
    """The raw table; empty for a problem of the target as a whole."""
    kind: str = ""


@dataclass(frozen=True)
class OpenProblem:
    """One thing that is wrong with one table, or with one target."""

    key: Key
    alert: Alert


@dataclass(frozen=True)
class Change:
    """What has changed since somebody was told last."""

    opened: tuple[OpenProblem, ...]
    """Those nobody was told of."""
    ended: tuple[Key, ...]
    """Those that are no more."""


def problems_of(
    dag_id: str, health: Sequence[TableHealth], thresholds: MonitoringThresholds
) -> list[OpenProblem]:
    """Returns every threshold that a table has crossed, and every target that gave no answer.

    Args:
        dag_id: The DAG that lands the tables.
        health: How they fare.
        thresholds: Of that DAG; None is never crossed.
    """
    found: dict[Key, OpenProblem] = {}
    for one in health:
        for kind, *told in _crossed(one, thresholds):
            raw = "" if kind == _NO_ANSWER else one.target
            key = Key(dag_id, one.target_connection, raw, kind)
            about = f"{one.source} -> {_about(key)}" if raw else _about(key)
            found.setdefault(key, OpenProblem(key, Alert(dag_id, about, *told)))
    return list(found.values())


def change_since(told: Collection[Key], problems: Sequence[OpenProblem]) -> Change:
    """Returns what has changed.

    A table whose target gives no answer now keeps the problems it had: nobody knows.

    Args:
        told: The problems somebody was told of.
        problems: All there are now.
    """
    now = {problem.key for problem in problems}
    unknown = {key[:2] for key in now if key.kind == _NO_ANSWER}
    return Change(
        tuple(problem for problem in problems if problem.key not in told),
        tuple(key for key in told if key not in now and key[:2] not in unknown),
    )


def ended_alert(key: Key) -> Alert:
    """Returns what is said of a problem that is no more; its key is all that is kept of one."""
    return Alert(key.dag_id, _about(key), _WAS.get(key.kind, key.kind))


def metrics_lines(health: Mapping[str, Sequence[TableHealth]]) -> list[str]:
    """Returns a table of all metrics, as lines of a log.

    Args:
        health: How the tables of each DAG fare.
    """
    rows = [_HEADINGS, *(_cells(dag_id, one) for dag_id in health for one in health[dag_id])]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if number < _TEXT_COLUMNS else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


_WAS = {
    CHECK_FAILED: "the check failed",
    _NO_ANSWER: "gave no answer",
    "never_published": "never published",
    "age": "older than max_age_seconds",
    "errors": "more failed runs than max_error_count",
    "success_rate": "success rate below min_success_rate",
    "seconds": "longer than max_execution_seconds",
    "memory": "more memory than max_memory_mb",
}
_HEADINGS = (
    "dag", "table", "target", "status", "rows/s", "memory", "seconds", "runs", "errors",
    "error rate", "age",
)  # fmt: skip
_TEXT_COLUMNS = 4
_Told = tuple[str, str, str, str]


def _crossed(one: TableHealth, limits: MonitoringThresholds) -> Iterator[_Told]:
    if one.error is not None:
        yield (_NO_ANSWER, one.error.primary, one.error.detail, one.error.hint)
        return
    yield from _too_old(one, limits)
    yield from _too_many_failures(one, limits)
    yield from _too_much(one, limits)


def _too_old(one: TableHealth, limits: MonitoringThresholds) -> Iterator[_Told]:
    most = limits.max_age_seconds
    if most is None:
        return
    hint = f"Look whether its DAG ran and is not paused. {_LOOK.format(one.source)}"
    if one.age_seconds is None:
        told = f"Tables are to be published every {duration(most)} (max_age_seconds = {most})."
        yield ("never_published", "it was never published", told, hint)
    elif one.age_seconds > most:
        told = f"Published last at {one.published_at}; max_age_seconds = {most}."
        yield ("age", f"its rows are {duration(one.age_seconds)} old", told, hint)


def _too_many_failures(one: TableHealth, limits: MonitoringThresholds) -> Iterator[_Told]:
    last = f" The last error: {one.last_error['primary']}." if one.last_error else ""
    hint = (one.last_error or {}).get("hint") or _LOOK.format(one.source)
    most, least = limits.max_error_count, limits.min_success_rate
    if most is not None and one.error_count > most:
        told = f"max_error_count = {most}.{last}"
        yield ("errors", f"{one.error_count} of its last {one.runs} runs failed", told, hint)
    rate = one.success_rate
    if least is not None and rate is not None and round(rate, 6) < least:  # 1 - 0.9 < 0.1
        told = f"Of its last {one.runs} runs; min_success_rate = {least}.{last}"
        primary = f"{rate:.0%} of its runs succeeded"
        yield ("success_rate", primary, told, hint)


def _too_much(one: TableHealth, limits: MonitoringThresholds) -> Iterator[_Told]:
    longest, most = limits.max_execution_seconds, limits.max_memory_mb
    if longest is not None and one.seconds is not None and one.seconds > longest:
        hint = (
            'Look at its chunks and mode with "extract-load plan"; parallel_workers reads faster.'
        )
        told = f"max_execution_seconds = {longest}."
        yield ("seconds", f"its last run took {duration(one.seconds)}", told, hint)
    if most is not None and one.peak_rss_bytes is not None and one.peak_rss_bytes > most * _MIB:
        hint = "Lower memory_limit_mb or parallel_workers of the table."
        told = f"max_memory_mb = {most}."
        yield ("memory", f"its last run held {_mib(one)} MiB", told, hint)


def duration(seconds: float) -> str:
    """Returns a duration for people.

    Example:
        >>> [duration(s) for s in (0.25, 59, 600, 93600, 400000)]
        ['0.2 s', '59 s', '10 min', '26 h', '4.6 days']
    """
    if seconds < 10:
        return f"{seconds:.1f} s"
    for unit, size, limit in (("s", 1, 120), ("min", 60, 7200), ("h", 3600, 172800)):
        if seconds < limit:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds / 86400:.1f} days"


def _cells(dag_id: str, one: TableHealth) -> tuple[str, ...]:
    facts: tuple[str, ...] = ("no answer", *("-" for _ in _HEADINGS[_TEXT_COLUMNS:]))
    if one.error is None:
        facts = (
            one.last_status or "no run",
            _number(one.rows_per_second),
            "-" if one.peak_rss_bytes is None else f"{_mib(one)} MiB",
            "-" if one.seconds is None else f"{one.seconds:.1f}",
            str(one.runs),
            str(one.error_count),
            "-" if one.success_rate is None else f"{1 - one.success_rate:.0%}",
            "never" if one.age_seconds is None else duration(one.age_seconds),
        )
    return (dag_id, one.source, f"{one.target_connection}:{one.target}", *facts)


def _about(key: Key) -> str:
    if not key.target_connection:
        return key.dag_id
    if not key.target:
        return f'target "{key.target_connection}"'
    return f"{key.target} in {key.target_connection}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"


def _mib(one: TableHealth) -> str:
    return f"{(one.peak_rss_bytes or 0) / _MIB:.0f}"
