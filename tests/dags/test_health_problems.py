"""What counts as a problem of a table, when it is new, and when it has ended."""

from dataclasses import replace

import pytest

from common.alert_text import Alert
from common.health_problems import (
    CHECK_FAILED,
    Key,
    change_since,
    ended_alert,
    metrics_lines,
    problems_of,
)
from common.variable_shapes import MonitoringThresholds
from extract_load import ExtractLoadError, TableHealth

LIMITS = MonitoringThresholds(
    max_execution_seconds=60,
    min_success_rate=0.9,
    max_error_count=3,
    max_memory_mb=256,
    max_age_seconds=93600,
)
WELL = TableHealth(
    source="public.orders",
    target="raw_data.orders",
    target_connection="postgres_default",
    runs=20,
    error_count=2,
    success_rate=0.9,
    last_status="done",
    seconds=60.0,
    rows_per_second=1234.56,
    peak_rss_bytes=256 << 20,
    published_at="2026-11-23T00:00:00.000Z",
    age_seconds=93600.0,
)
DOWN = TableHealth(
    "public.orders",
    "raw_data.orders",
    "postgres_default",
    error=ExtractLoadError("could not connect", "Refused.", "Look."),
)


def test_at_its_thresholds_a_table_is_well() -> None:
    assert problems_of("a", [WELL], LIMITS) == []


@pytest.mark.parametrize(
    ("changed", "kind", "primary", "detail"),
    [
        (
            {"age_seconds": 93601.0},
            "age",
            "its rows are 26 h old",
            "Published last at 2026-11-23T00:00:00.000Z; max_age_seconds = 93600.",
        ),
        (
            {"age_seconds": None, "published_at": None},
            "never_published",
            "it was never published",
            "Tables are to be published every 26 h (max_age_seconds = 93600).",
        ),
        (
            {"error_count": 4, "last_error": {"primary": "no space", "hint": "Make space."}},
            "errors",
            "4 of its last 20 runs failed",
            "max_error_count = 3. The last error: no space.",
        ),
        (
            {"success_rate": 0.85},
            "success_rate",
            "85% of its runs succeeded",
            "Of its last 20 runs; min_success_rate = 0.9.",
        ),
        (
            {"seconds": 150.0},
            "seconds",
            "its last run took 2 min",
            "max_execution_seconds = 60.",
        ),
        (
            {"peak_rss_bytes": 300 << 20},
            "memory",
            "its last run held 300 MiB",
            "max_memory_mb = 256.",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) and value.isidentifier() else "",
)
def test_each_threshold_is_a_problem_of_its_own(
    changed: dict[str, object], kind: str, primary: str, detail: str
) -> None:
    (problem,) = problems_of("a", [replace(WELL, **changed)], LIMITS)  # type: ignore[arg-type]
    assert problem.key == Key("a", "postgres_default", "raw_data.orders", kind)
    about = "public.orders -> raw_data.orders in postgres_default"
    assert problem.alert == Alert("a", about, primary, detail, problem.alert.hint)
    assert problem.alert.hint


def test_the_hint_of_the_last_error_is_told() -> None:
    failing = replace(WELL, error_count=9, last_error={"primary": "a", "hint": "Make space."})
    (problem,) = problems_of("a", [failing], LIMITS)
    assert problem.alert.hint == "Make space."


def test_without_thresholds_nothing_is_wrong() -> None:
    ill = replace(WELL, age_seconds=None, error_count=20, success_rate=0.0, seconds=1e6)
    assert problems_of("a", [ill], MonitoringThresholds()) == []


def test_a_table_without_runs_has_no_rate() -> None:
    new = TableHealth("public.orders", "raw_data.orders", "postgres_default")
    assert [p.key.kind for p in problems_of("a", [new], LIMITS)] == ["never_published"]


def test_a_target_that_gives_no_answer_is_one_problem() -> None:
    tables = [replace(DOWN, target=f"raw_data.t{number}") for number in range(500)]
    (problem,) = problems_of("a", tables, LIMITS)
    assert problem.alert == Alert(
        "a", 'target "postgres_default"', "could not connect", "Refused.", "Look."
    )


def test_only_what_is_new_is_told() -> None:
    old, new = replace(WELL, seconds=61.0), replace(WELL, seconds=61.0, age_seconds=1e6)
    told = [problem.key for problem in problems_of("a", [old], LIMITS)]
    change = change_since(told, problems_of("a", [new], LIMITS))
    assert [problem.key.kind for problem in change.opened] == ["age"]
    assert change.ended == ()


def test_what_is_no_more_has_ended() -> None:
    told = [problem.key for problem in problems_of("a", [replace(WELL, seconds=61.0)], LIMITS)]
    assert change_since(told, []).ended == tuple(told)
    assert ended_alert(told[0]) == Alert(
        "a", "raw_data.orders in postgres_default", "longer than max_execution_seconds"
    )
    assert ended_alert(Key("m", kind=CHECK_FAILED)) == Alert("m", "m", "the check failed")


def test_problems_of_a_target_that_gives_no_answer_have_not_ended() -> None:
    """Else they would be told again each time it comes back."""
    told = [problem.key for problem in problems_of("a", [replace(WELL, seconds=61.0)], LIMITS)]
    change = change_since(told, problems_of("a", [DOWN], LIMITS))
    assert [problem.key.kind for problem in change.opened] == ["no_answer"]
    assert change.ended == ()
    of_another_dag = change_since(told, problems_of("b", [DOWN], LIMITS))
    assert of_another_dag.ended == tuple(told)


def test_all_metrics_stand_in_one_table() -> None:
    new = TableHealth("public.new", "raw_data.new", "postgres_default")
    lines = metrics_lines({"a": [WELL], "b": [new, DOWN]})
    assert lines == [
        "dag  table          target                            status     rows/s   memory  seconds"
        "  runs  errors  error rate    age",
        "a    public.orders  postgres_default:raw_data.orders  done         1235  256 MiB     60.0"
        "    20       2         10%   26 h",
        "b    public.new     postgres_default:raw_data.new     no run          -        -        -"
        "     0       0           -  never",
        "b    public.orders  postgres_default:raw_data.orders  no answer       -        -        -"
        "     -       -           -      -",
    ]
