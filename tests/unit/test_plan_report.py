"""What a plan says of the time its table takes."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from extract_load.catalog import Leaf
from extract_load.extract import Estimate
from extract_load.plan_report import plan_as_dict, plans_as_text
from extract_load.runner import PlannedTable
from tests.unit.test_planner import LEAF
from tests.unit.test_resume import plan_of

GIGABYTE = 10**9
BIG = replace(LEAF, table_bytes=150 * GIGABYTE)


def planned(leaf: Leaf, **max_age: Any) -> PlannedTable:
    plan = plan_of(leaf=leaf)
    size = leaf.table_bytes
    return PlannedTable(plan.settings, plan, Estimate(10, size, size), timedelta(**max_age))


def test_a_closing_pass_that_outlasts_a_snapshot_is_told_before_it_is_needed() -> None:
    """A night of loading that cannot be closed is lost."""
    told = (
        "its closing pass must be read in one snapshot, which may take 50.0 min; "
        "snapshot_max_age is 15 minutes"
    )
    shown = plan_as_dict(planned(BIG, minutes=15), {})
    assert shown["estimated_closing_seconds"] == 3000.0
    assert told in shown["warnings"]
    assert f"warning: {told}" in plans_as_text((planned(BIG, minutes=15),), {})


def test_a_table_that_cannot_be_repaired_must_be_read_within_one_snapshot() -> None:
    shown = plan_as_dict(planned(replace(BIG, kind="f", heaps=()), minutes=15), {})
    assert shown["estimated_closing_seconds"] is None
    assert (
        "all of it (rows without an xmin cannot be repaired) must be read in one snapshot, "
        "which may take 41.7 min; snapshot_max_age is 15 minutes"
    ) in shown["warnings"]


@pytest.mark.parametrize("leaf", [BIG, replace(BIG, kind="f", heaps=())])
def test_what_fits_is_not_warned_of(leaf: Leaf) -> None:
    assert not any(
        "snapshot_max_age" in warning
        for warning in plan_as_dict(planned(leaf, hours=2), {})["warnings"]
    )
