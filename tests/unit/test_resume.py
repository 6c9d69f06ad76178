"""Which chunks of a run that broke off still count, each reason by itself."""

from dataclasses import replace
from typing import Any

import pytest

from extract_load.catalog import Heap, TypeDefinition
from extract_load.checkpoints import MISSING_ROWS_CHUNK, NO_PART, REPAIR_CHUNK, Checkpoint
from extract_load.checkpoints import SnapshotMark as Mark
from extract_load.planner import plan_table
from extract_load.resume import Parts, resume, uncovered_leaves
from extract_load.table_plan import TablePlan, TargetState
from tests.unit.test_planner import CUT, LEAF, SCHEMA, settings

OLDER = Mark("older", 190, "0/F")
NOW = "now"
STALE = "their part of the table was rewritten, altered or detached"


def plan_of(cut: Any = CUT, leaf: Any = LEAF, **keys: Any) -> TablePlan:
    schema = replace(SCHEMA, leaves=(leaf,))
    return plan_table(settings(batch_size=100, **keys), schema, cut, TargetState(None, None))


PLAN = plan_of()
REGCLASS = TypeDefinition(2205, "pg_catalog", "regclass", "b", 0, 0, None)


def checkpoints(plan: TablePlan = PLAN, snapshot: Mark = OLDER) -> list[Checkpoint]:
    """All of a plan's chunks, loaded."""
    return [
        Checkpoint(chunk.number, "run", Parts(plan).of(chunk), snapshot, 1, 1, 7)
        for chunk in plan.chunks
    ]


def test_chunks_of_an_older_snapshot_are_kept_and_repaired() -> None:
    found = resume(PLAN, NOW, checkpoints())
    assert (len(found.kept), found.why_dropped) == (len(PLAN.chunks), None)
    assert found.needs_repair(NOW)
    assert not resume(PLAN, "older", checkpoints()).needs_repair("older")
    assert uncovered_leaves(PLAN, found.kept) == []


@pytest.mark.parametrize(
    ("plan", "snapshot", "why"),
    [
        (PLAN, Mark("later", 190, "1/1"), "they were read later than this run's snapshot"),
        (PLAN, Mark("future", 300, "0/F"), "their transaction ids are too old"),
        (
            plan_of(replace(CUT, xmin=1 << 32, xmax=(1 << 32) + 500)),
            Mark("old", 400, "0/F"),
            "their transaction ids are too old",
        ),
        (
            plan_of(leaf=replace(LEAF, kind="f", heaps=())),
            OLDER,
            "rows without an xmin cannot be repaired",
        ),
        (
            replace(PLAN, source=replace(SCHEMA, types=(*SCHEMA.types, REGCLASS))),
            OLDER,
            "values that name objects of the catalog change without a new xmin",
        ),
        (plan_of(enable_checkpoint=False), OLDER, "enable_checkpoint is false"),
    ],
    ids=["later", "from the future", "an epoch", "no xmin", "names", "switched off"],
)
def test_none_is_kept_where_a_repair_cannot_reach(
    plan: TablePlan, snapshot: Mark, why: str
) -> None:
    found = resume(plan, NOW, checkpoints(plan, snapshot))
    assert (found.kept, found.why_dropped) == ((), why)


@pytest.mark.parametrize(
    "plan",
    [
        plan_of(leaf=replace(LEAF, heaps=(Heap(1, 12),))),
        plan_of(replace(CUT, timeline=2)),
        plan_of(replace(CUT, is_standby=True)),
        plan_of(custom_where="version > 3"),
        plan_of(exclude_columns=["mood"]),
    ],
    ids=["another file", "another timeline", "a standby", "custom_where", "columns"],
)
def test_chunks_read_from_something_else_are_not_kept(plan: TablePlan) -> None:
    """A standby may show a commit that its primary does not show yet."""
    found = resume(plan, NOW, checkpoints())
    assert (found.kept, found.why_dropped) == ((), STALE)


def test_rows_of_no_chunk_are_not_kept_where_their_leaf_is_read_again() -> None:
    repaired = Checkpoint(REPAIR_CHUNK, "run", NO_PART, OLDER, 5, 0, 8)
    missing = Checkpoint(MISSING_ROWS_CHUNK, "run", NO_PART, OLDER, 5, 0, 9)
    all_stand = resume(PLAN, NOW, [*checkpoints(), repaired, missing])
    assert repaired in all_stand.kept
    assert all_stand.dropped == (missing,)

    other = plan_of(leaf=replace(LEAF, heaps=(Heap(1, 12),)))
    assert resume(other, NOW, [*checkpoints(), repaired]).kept == ()


@pytest.mark.parametrize("lacks", [0, 4, -1], ids=["first", "middle", "last"])
def test_a_leaf_is_covered_when_no_block_is_left_out(lacks: int) -> None:
    found = checkpoints()
    assert uncovered_leaves(PLAN, found) == []
    del found[lacks]
    assert uncovered_leaves(PLAN, found) == [LEAF]


def test_a_leaf_is_not_covered_by_a_block_read_twice() -> None:
    found = checkpoints()
    assert uncovered_leaves(PLAN, [*found, replace(found[2], chunk=99)]) == [LEAF]
