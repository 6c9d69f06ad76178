"""Which tables of somebody else are taken over: every reason against it, by itself and at once."""

from dataclasses import replace
from typing import Any

import pytest

from extract_load.catalog import Column, TableSchema
from extract_load.errors import TargetError
from extract_load.planner import plan_table
from extract_load.raw_table import NO_FACTS, RawTableFacts
from extract_load.table_plan import TargetState
from tests.unit.test_planner import CUT, settings
from tests.unit.test_schema_change import ID, NAME, NOTE, RAW, SOURCE


def adopted(raw: TableSchema = RAW, facts: RawTableFacts = NO_FACTS) -> Any:
    return plan_table(settings(adopt=True), SOURCE, CUT, TargetState(raw, None, facts))


def columns(*changed: Column) -> TableSchema:
    names = {column.name for column in changed}
    return replace(RAW, columns=(*(c for c in RAW.columns if c.name not in names), *changed))


def test_a_table_that_fits_is_taken_over() -> None:
    plan = adopted()
    assert plan.baseline_reason == "the raw table is taken over"
    assert plan.publish.value == "replace"


def test_without_adopt_a_table_of_somebody_else_is_left_alone() -> None:
    with pytest.raises(TargetError, match="is somebody else's") as refused:
        plan_table(settings(), SOURCE, CUT, TargetState(RAW, None))
    assert '"adopt: true"' in refused.value.hint


@pytest.mark.parametrize(
    ("raw", "facts", "told"),
    [
        (replace(RAW, kind="v"), {}, "It is a view: only a plain table can be written by a run."),
        (replace(RAW, kind="p"), {}, "It is a partitioned table: only a plain table"),
        (replace(RAW, kind="m"), {}, "It is a materialized view: only a plain table"),
        (replace(RAW, kind="f"), {}, "It is a foreign table: only a plain table"),
        (RAW, {"persistence": "u"}, "It is unlogged, so a crash would empty it"),
        (RAW, {"is_in_tree": True}, "It is part of a partitioned table or of an inheritance"),
        (RAW, {"forces_row_security": True}, "It forces row security"),
        (RAW, {"row_triggers": ["t"]}, 'Row triggers would change what is landed: "t"; drop them.'),
        (RAW, {"rules": ["r"]}, 'Rules would change what is landed: "r"; drop them.'),
        (replace(RAW, unique_keys=()), {}, 'holds the key "id": add a primary key on them.'),
        (columns(replace(ID, is_not_null=False)), {}, 'holds the key "id": add a primary key'),
        (replace(RAW, columns=(ID, NAME)), {}, 'It has no column "note": add it as character'),
        (columns(replace(NOTE, type_text="text")), {}, 'Column "note" is text: make it character'),
        (columns(replace(NOTE, is_generated=True)), {}, 'Column "note" is generated'),
        (RAW, {"always_identity": ["id"]}, 'Column "id" is GENERATED ALWAYS AS IDENTITY'),
        (columns(replace(ID, name="_loaded_at")), {}, 'Column "_loaded_at" is integer: make it'),
        (columns(replace(ID, name="_deleted_at")), {}, 'Column "_deleted_at" is integer: make it'),
        (columns(replace(ID, name="x")), {}, 'Column "x" is NOT NULL, and the source has no value'),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_table_that_does_not_fit_is_not_adopted(
    raw: TableSchema, facts: dict[str, Any], told: str
) -> None:
    with pytest.raises(TargetError) as refused:
        adopted(raw, replace(NO_FACTS, **facts))
    assert refused.value.primary == '"raw_data.items" in target "b" cannot be adopted'
    assert [line for line in refused.value.detail.splitlines() if told in line]
    assert len(refused.value.detail.splitlines()) == 1


def test_every_reason_against_adopting_is_told_at_once() -> None:
    with pytest.raises(TargetError) as refused:
        adopted(replace(RAW, columns=(ID,)), replace(NO_FACTS, rules=["r"]))
    assert len(refused.value.detail.splitlines()) == 3


def test_extra_columns_with_a_value_of_their_own_are_no_hindrance() -> None:
    raw = columns(
        Column(7, "remark", 25, -1, "text", is_not_null=False),
        Column(8, "since", 1184, -1, "timestamp with time zone", is_not_null=True),
    )
    plan = adopted(raw, replace(NO_FACTS, filled_by_default=["since"]))
    assert plan.schema_change.statements == ()
