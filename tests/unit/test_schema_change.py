"""What becomes of a raw table when its source's columns change: statements or a refusal."""

from dataclasses import replace
from typing import Any

import pytest

from extract_load.catalog import Column, TableSchema, TypeDefinition
from extract_load.chosen_columns import key_of, landed_columns
from extract_load.ddl import SchemaChange
from extract_load.errors import SchemaMismatch
from extract_load.fingerprint import fingerprint_of
from extract_load.identifiers import TableName
from extract_load.kept_types import ServerPair
from extract_load.raw_table import RawTableFacts, Readers
from extract_load.retyping import keeps_rows
from extract_load.schema_change import plan_schema_change
from extract_load.schema_difference import Sides
from extract_load.table_plan import TargetState
from extract_load.type_contract import make_contract
from extract_load.watermark import Watermark
from tests.unit.test_planner import settings

INT = TypeDefinition(23, "pg_catalog", "int4", "b", 0, 0, None)
VARCHAR = TypeDefinition(1043, "pg_catalog", "varchar", "b", 0, 0, None)
ID = Column(1, "id", 23, -1, "integer", is_not_null=True)
NAME = Column(2, "name", 1043, 14, "character varying(10)", is_not_null=True)
NOTE = Column(3, "note", 1043, -1, "character varying", is_not_null=False)
LOADED_AT = Column(4, "_loaded_at", 1184, -1, "timestamp with time zone", is_not_null=True)
SOURCE = TableSchema(
    name=TableName("public", "items"),
    oid=1,
    kind="r",
    columns=(ID, NAME, NOTE),
    types=(INT, VARCHAR),
    unique_keys=(("id",),),
    primary_key=("id",),
    indexed_columns=frozenset({"id"}),
    estimated_rows=0,
    heap_bytes=0,
    table_bytes=0,
)
RAW = replace(
    SOURCE, name=TableName("raw_data", "items"), oid=2, columns=(ID, NAME, NOTE, LOADED_AT)
)
OWN_KEY = RawTableFacts(key_constraint="items_pkey")
VIEW = Readers(2, True, ["staging.stg_items", "marts.items"])
SERVERS = ServerPair(160000)
TOLD = 'changes of "public.items" cannot be followed in target "b"'


def change(
    *columns: Column,
    raw: TableSchema = RAW,
    facts: RawTableFacts = OWN_KEY,
    allow_rewrite: bool = False,
    is_reset: bool = False,
    oid: int = SOURCE.oid,
    **keys: Any,
) -> SchemaChange:
    """The plan for a source with these columns, published before as `SOURCE`."""
    table, now = settings(**keys), replace(SOURCE, oid=oid, columns=columns or SOURCE.columns)
    if primary_key := keys.get("primary_key"):
        now = replace(now, unique_keys=(tuple(primary_key),), primary_key=tuple(primary_key))
    fingerprint = None if is_reset else fingerprint_of(settings(), SOURCE, SERVERS)
    key = key_of(table, now)
    sides = Sides(
        table,
        make_contract(now, landed_columns(table, now, key), key, SERVERS),
        key,
        now,
        TargetState(raw, Watermark(2, {}, fingerprint, None, None, None, "2026-01-01"), facts),
    )
    return plan_schema_change(sides, allow_rewrite=allow_rewrite)


def said(planned: SchemaChange) -> list[str]:
    prefix = "alter table raw_data.items "
    return [ddl.said.removeprefix(prefix) for ddl in planned.statements]


@pytest.mark.parametrize(
    ("old", "new", "keeps"),
    [
        ("character varying(10)", "character varying(20)", True),
        ("character varying(20)", "character varying(10)", False),
        ("character varying", "character varying(10)", False),
        ("character varying(10)", "text", True),
        ("text", "character varying", True),
        ("text", "character varying(10)", False),
        ("character(3)", "character(5)", False),
        ("numeric(10,2)", "numeric(12,2)", True),
        ("numeric(10,2)", "numeric", True),
        ("numeric(10,2)", "numeric(12,4)", False),
        ("numeric(12,2)", "numeric(10,2)", False),
        ("numeric", "numeric(10,2)", False),
        ("integer", "bigint", False),
        ("integer", "text", False),
        ("timestamp(3) without time zone", "timestamp without time zone", True),
        ("timestamp without time zone", "timestamp with time zone", False),
        ("time(0) with time zone", "time(3) with time zone", True),
        ("interval(3)", "interval", True),
        ("bit varying(3)", "bit varying(5)", True),
        ("bit(3)", "bit(5)", False),
        ("cidr", "inet", True),
        ("inet", "cidr", False),
        ("character varying(10)[]", "character varying(20)[]", False),
    ],
)
def test_what_keeps_the_rows_of_a_table(old: str, new: str, keeps: bool) -> None:
    assert keeps_rows(old, new) is keeps


def test_nothing_changed_is_nothing_to_do() -> None:
    assert change() == SchemaChange()


def test_a_new_column_is_added_nullable_with_its_comment() -> None:
    extra = Column(4, "extra", 23, -1, "integer", is_not_null=True, comment="why")

    planned = change(ID, NAME, NOTE, extra)

    assert said(planned) == [
        'add column "extra" integer',
        'comment on column raw_data.items."extra"',
    ]
    assert planned.baseline_reason is not None
    assert planned.notes == ('The raw table has no column "extra" (integer).',)


def test_a_lost_column_stays_and_may_be_null() -> None:
    planned = change(ID, NOTE)

    assert said(planned) == ['alter column "name" drop not null']
    assert planned.baseline_reason is None
    assert "any more. It stays, NULL in new rows." in planned.notes[0]


def test_a_column_that_somebody_added_is_no_difference() -> None:
    theirs = Column(5, "theirs", 23, -1, "integer", is_not_null=False)
    filled = Column(6, "filled", 23, -1, "integer", is_not_null=True)
    raw = replace(RAW, columns=(*RAW.columns, theirs, filled))
    facts = replace(OWN_KEY, filled_by_default=("filled",))

    assert change(raw=raw, facts=facts, schema_change="fail") == SchemaChange()


def test_rows_must_be_able_to_come_without_a_column() -> None:
    needed = Column(5, "needed", 23, -1, "integer", is_not_null=True)
    raw = replace(RAW, columns=(*RAW.columns, needed))

    assert said(change(raw=raw)) == ['alter column "needed" drop not null']


def test_not_null_is_lost_at_once_and_gained_only_when_asked() -> None:
    nullable, strict = replace(NAME, is_not_null=False), replace(NOTE, is_not_null=True)

    planned = change(ID, nullable, strict)
    asked = change(ID, nullable, strict, allow_rewrite=True)

    assert said(planned) == ['alter column "name" drop not null']
    assert "--allow-rewrite would follow" in planned.notes[1]
    assert [ddl.said for ddl in asked.before] == [ddl.said for ddl in planned.before]
    assert said(replace(asked, before=())) == ['alter column "note" set not null']
    assert planned.baseline_reason is None


def test_a_wider_type_needs_no_rewrite() -> None:
    wider = replace(NAME, type_text="character varying(20)")

    planned = change(ID, wider, NOTE)

    assert said(planned) == ['alter column "name" type character varying(20)']
    assert not planned.before[0].is_slow
    assert planned.baseline_reason is not None


def test_another_type_needs_allow_rewrite() -> None:
    number = replace(NAME, type_oid=23, type_text="integer")

    with pytest.raises(SchemaMismatch) as refused:
        change(ID, number, NOTE)
    asked = change(ID, number, NOTE, allow_rewrite=True)

    assert refused.value.primary == (
        'column "name" of "public.items" changed type, '
        'which "raw_data.items" in target "b" follows only under a lock'
    )
    assert refused.value.detail == (
        'Column "name" is integer now, character varying(10) in the raw table.'
    )
    assert "once with --allow-rewrite" in refused.value.hint
    assert asked.before[0].is_slow


@pytest.mark.parametrize(
    ("type_text", "type_oid", "option"),
    [("character varying(20)", 1043, ""), ("integer", 23, " with --allow-rewrite")],
    ids=["wider", "other"],
)
@pytest.mark.parametrize("allow_rewrite", [True, False])
def test_nothing_changes_its_type_under_a_view(
    type_text: str, type_oid: int, option: str, allow_rewrite: bool
) -> None:
    facts = replace(OWN_KEY, readers=(VIEW,))
    with pytest.raises(SchemaMismatch) as refused:
        change(
            ID,
            replace(NAME, type_text=type_text, type_oid=type_oid),
            NOTE,
            facts=facts,
            allow_rewrite=allow_rewrite,
        )

    assert refused.value.primary == (
        'column "name" of "public.items" changed type, and views depend on it in target "b"'
    )
    assert "Depending on it: marts.items, staging.stg_items." in refused.value.detail
    assert f"run again{option}: the raw table is altered" in refused.value.hint


def test_what_is_no_view_may_stand_on_a_column_too() -> None:
    facts = replace(OWN_KEY, readers=(Readers(2, False, ["policy mine on table raw_data.items"]),))
    with pytest.raises(SchemaMismatch, match="and something depends on it") as refused:
        change(ID, replace(NAME, type_text="text"), NOTE, facts=facts)
    assert "policy mine" in refused.value.detail


def test_every_refusal_of_a_table_is_told_at_once() -> None:
    facts = replace(OWN_KEY, readers=(VIEW,))
    with pytest.raises(SchemaMismatch) as refused:
        change(
            ID,
            replace(NAME, type_text="text"),
            replace(NOTE, type_oid=23, type_text="integer"),
            facts=facts,
        )
    assert refused.value.primary == f"2 {TOLD}"
    assert len(refused.value.detail.splitlines()) == 2
    assert len(refused.value.hint.splitlines()) == 2


def test_a_rename_is_known_by_the_columns_number() -> None:
    facts = replace(OWN_KEY, readers=(VIEW,))

    planned = change(ID, replace(NAME, name="title"), NOTE, facts=facts)

    assert said(planned) == ['rename column "name" to "title"']
    assert planned.notes == (
        'Renamed in the source: "name" is "title" now. These views go on and show the old names: '
        "marts.items, staging.stg_items.",
    )


def test_a_renamed_key_is_no_other_key() -> None:
    planned = change(replace(ID, name="item_id"), NAME, NOTE, primary_key=["item_id"])
    assert said(planned) == ['rename column "id" to "item_id"']


def test_a_renamed_column_may_change_its_type_too() -> None:
    wider = replace(NAME, name="title", type_text="text")
    assert said(change(ID, wider, NOTE)) == [
        'rename column "name" to "title"',
        'alter column "title" type text',
    ]


def test_columns_may_exchange_their_names() -> None:
    planned = change(ID, replace(NAME, name="note"), replace(NOTE, name="name"))
    assert said(planned) == [
        'rename column "name" to "_el_renamed_0"',
        'rename column "note" to "_el_renamed_1"',
        'rename column "_el_renamed_0" to "note"',
        'rename column "_el_renamed_1" to "name"',
    ]


def test_a_name_that_the_raw_table_has_is_used_again() -> None:
    """`title` was dropped from the source once; now `name` is called so."""
    title = Column(5, "title", 1043, 14, "character varying(10)", is_not_null=False)
    raw = replace(RAW, columns=(*RAW.columns, title))

    planned = change(ID, replace(NAME, name="title", is_not_null=False), NOTE, raw=raw)

    assert said(planned) == ['alter column "name" drop not null']


def test_a_column_dropped_and_added_is_used_again() -> None:
    again = replace(NAME, number=9, is_not_null=True)
    raw = replace(RAW, columns=(ID, replace(NAME, is_not_null=False), NOTE, LOADED_AT))
    assert said(change(ID, NOTE, again, raw=raw)) == []


def test_a_table_created_anew_has_no_renamed_columns() -> None:
    """Its second column is not the old one's: a view over `name` must not show it."""
    planned = change(ID, replace(NAME, name="title"), NOTE, oid=77)
    assert said(planned) == [
        'add column "title" character varying(10)',
        'alter column "name" drop not null',
    ]


def test_a_column_that_the_settings_leave_out_stays_too() -> None:
    planned = change(exclude_columns=["name"])
    assert said(planned) == ['alter column "name" drop not null']
    assert planned.notes[0].startswith('Column "name" is not landed any more.')


def test_after_a_reset_nobody_knows_a_rename() -> None:
    planned = change(ID, replace(NAME, name="title"), NOTE, is_reset=True)
    assert said(planned) == [
        'add column "title" character varying(10)',
        'alter column "name" drop not null',
    ]


def test_another_key_needs_allow_rewrite() -> None:
    keys: dict[str, Any] = {"primary_key": ["id", "name"]}
    with pytest.raises(SchemaMismatch) as refused:
        change(**keys)

    asked = change(**keys, allow_rewrite=True)

    assert refused.value.primary.startswith('the key of "public.items" changed, which')
    assert refused.value.detail == "The key is (id, name) now, (id) in the raw table."
    assert [ddl.said for ddl in asked.before] == [
        'alter table raw_data.items drop constraint "items_pkey"'
    ]
    assert [ddl.said for ddl in asked.after] == [
        'alter table raw_data.items add primary key ("id", "name")'
    ]


def test_what_depends_on_the_key_keeps_it() -> None:
    facts = replace(OWN_KEY, key_holders=["constraint ref on table public.x"])
    with pytest.raises(SchemaMismatch, match="something depends on it") as refused:
        change(primary_key=["id", "name"], facts=facts, allow_rewrite=True)
    assert "constraint ref on table public.x" in refused.value.detail


def test_a_key_without_an_index_is_told_and_built_when_asked() -> None:
    """As after a run that was killed between the new key's rows and its index."""
    bare = replace(RAW, unique_keys=(), primary_key=())

    assert said(change(raw=bare)) == []
    assert "--allow-rewrite would follow" in change(raw=bare).notes[0]
    assert said(change(raw=bare, allow_rewrite=True)) == ['add primary key ("id")']


def test_an_index_of_somebody_else_holds_the_key_as_well() -> None:
    raw = replace(RAW, unique_keys=(("id",), ("name", "id")), primary_key=())
    assert change(raw=raw, primary_key=["id", "name"]) == SchemaChange()


def test_an_index_of_somebody_else_does_not_keep_a_key_that_is_too_short() -> None:
    """Rows of the source may stand twice under the old key."""
    raw = replace(RAW, unique_keys=(("id",), ("id", "name")))
    with pytest.raises(SchemaMismatch, match="the key of"):
        change(raw=raw, primary_key=["id", "name"])


def test_a_key_beside_the_landed_one_is_left_to_its_owner() -> None:
    """An adopted table may have a primary key of its own beside the one that is landed by."""
    serial = Column(5, "serial", 23, -1, "integer", is_not_null=True)
    raw = replace(
        RAW,
        columns=(*RAW.columns, serial),
        unique_keys=(("serial",), ("id",)),
        primary_key=("serial",),
    )
    facts = replace(OWN_KEY, filled_by_default=("serial",))
    assert change(raw=raw, facts=facts, schema_change="fail") == SchemaChange()


def test_a_nullable_key_is_told_with_its_index_alone() -> None:
    raw = replace(
        RAW,
        columns=(replace(ID, is_not_null=False), NAME, NOTE, LOADED_AT),
        unique_keys=(),
        primary_key=(),
    )
    assert said(change(raw=raw, allow_rewrite=True)) == ['add primary key ("id")']


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        ((ID, NAME, NOTE, replace(ID, number=4, name="extra")), 'no column "extra"'),
        ((ID, NOTE), 'no column "name" any more'),
        ((ID, NAME, replace(NOTE, name="title")), 'Renamed in the source: "note" is "title" now'),
        ((ID, replace(NAME, type_text="text"), NOTE), 'Column "name" is text now'),
        ((ID, replace(NAME, is_not_null=False), NOTE), 'Column "name" may be NULL now'),
        ((ID, NAME, replace(NOTE, is_not_null=True)), 'Column "note" is NOT NULL in the source'),
    ],
    ids=["added", "dropped", "renamed", "widened", "nullable", "not null"],
)
@pytest.mark.parametrize("allow_rewrite", [True, False])
def test_fail_stops_at_any_difference(
    columns: tuple[Column, ...], told: str, allow_rewrite: bool
) -> None:
    facts = replace(OWN_KEY, readers=(VIEW,))
    with pytest.raises(SchemaMismatch) as refused:
        change(*columns, facts=facts, allow_rewrite=allow_rewrite, schema_change="fail")
    assert told in refused.value.detail
    assert "Views on the raw table: marts.items, staging.stg_items." in refused.value.detail
    assert '"schema_change: fail"' in refused.value.hint


def test_landing_columns_are_brought_into_the_right_state() -> None:
    raw = replace(RAW, columns=(ID, NAME, NOTE))
    planned = change(raw=raw, deletes="soft", schema_change="fail")
    assert said(planned) == [
        'add column "_loaded_at" timestamptz not null default now()',
        'alter column "_loaded_at" drop default',
        'add column "_deleted_at" timestamp with time zone',
    ]
    assert planned.baseline_reason is None
