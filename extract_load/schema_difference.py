"""In what a raw table is not what its source asks for, and what would mend each difference.

Pure: takes both catalogs and what the last publish saw. What is done about it is decided in
`schema_change`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from extract_load.catalog import Column, TableSchema
from extract_load.config import TableSettings
from extract_load.ddl import (
    Ddl,
    add_column,
    add_key,
    drop_key,
    drop_not_null,
    rename_columns,
    retype,
    set_not_null,
)
from extract_load.fingerprint import saved_columns, saved_key, saved_table
from extract_load.retyping import keeps_rows
from extract_load.table_plan import TargetState
from extract_load.type_contract import LANDING_COLUMNS, ColumnContract, TypeContract


@dataclass(frozen=True)
class Difference:
    """One thing in which the raw table is not what the source asks for."""

    what: str
    """A sentence."""
    outcome: str = ""
    """What comes of it where that is no matter of course: another sentence."""
    before: tuple[Ddl, ...] = ()
    """What mends it before any row is read."""
    after: tuple[Ddl, ...] = ()
    """What mends it once the rows are published."""
    subject: str = ""
    """What changed, for the message where it cannot be followed."""
    holders: tuple[str, ...] = ()
    """What depends on it: nothing is changed under it."""
    needs_rewrite: bool = False
    """Whether readers would wait: only with `--allow-rewrite`."""
    is_optional: bool = False
    """Whether rows land without it too; then it is told and left."""
    needs_rows: bool = False
    """Whether the whole table has to be read for it."""


@dataclass(frozen=True)
class Sides:
    """What is compared."""

    settings: TableSettings
    contract: TypeContract
    key: tuple[str, ...]
    source: TableSchema
    target: TargetState


def differences(sides: Sides) -> list[Difference]:
    """Returns every difference, in the order in which they are mended.

    A column that kept its number under another name was renamed. One that the source has no
    longer stays, and counts only while the last publish still had it or rows cannot come without
    it: what somebody added to a raw table is no difference.
    """
    if sides.target.raw is None:
        return []
    renames = _renames(sides, sides.target.raw)
    raw = _renamed(sides.target.raw, renames)
    found = [*_rename_differences(sides, renames), *_key_differences(sides, raw, renames)]
    for wanted in sides.contract.columns:
        found += _column_differences(sides, wanted, raw.column(wanted.name))
    for column in raw.columns:
        if column.name not in {*sides.contract.names, *LANDING_COLUMNS}:
            found += _lost(sides, column)
    return found


# ---------------------------------------------------------------- renamed columns


def _saved(sides: Sides) -> dict[int, str]:
    watermark = sides.target.watermark
    return saved_columns(watermark.fingerprint if watermark else None)


def _renames(sides: Sides, raw: TableSchema) -> dict[str, str]:
    """Old names to new ones, of columns that kept their number.

    A new name that the raw table has already is taken as it is: it is filled again. Numbers mean
    nothing between two tables, as when the source was dropped and created anew.
    """
    watermark = sides.target.watermark
    if watermark is None or saved_table(watermark.fingerprint) != sides.source.oid:
        return {}
    saved, present = _saved(sides), set(raw.column_names)
    found = {
        saved[column.number]: column.name
        for column in sides.source.columns
        if column.name in sides.contract.names
        and saved.get(column.number, column.name) != column.name
        and saved[column.number] in present
    }
    while taken := {old for old, new in found.items() if new in present - set(found)}:
        found = {old: new for old, new in found.items() if old not in taken}
    return found


def _renamed(raw: TableSchema, renames: dict[str, str]) -> TableSchema:
    """The raw table as it is called after the renaming."""

    def new(names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(renames.get(name, name) for name in names)

    return replace(
        raw,
        columns=tuple(
            replace(column, name=renames.get(column.name, column.name)) for column in raw.columns
        ),
        unique_keys=tuple(map(new, raw.unique_keys)),
        primary_key=new(raw.primary_key),
    )


def _rename_differences(sides: Sides, renames: dict[str, str]) -> Iterator[Difference]:
    if not renames:
        return
    views = sides.target.dependent_views
    told = ", ".join(f'"{old}" is "{new}" now' for old, new in renames.items())
    yield Difference(
        f"Renamed in the source: {told}.",
        outcome=f"These views go on and show the old names: {', '.join(views)}." if views else "",
        before=rename_columns(sides.settings.target, renames),
        needs_rows=True,
    )


# ---------------------------------------------------------------- the key


def _key_differences(
    sides: Sides, raw: TableSchema, renames: dict[str, str]
) -> Iterator[Difference]:
    """A primary key that the source's rows would violate, or a key without an index."""
    key, table, watermark = sides.key, sides.settings.target, sides.target.watermark
    told = f"({', '.join(key)})" if key else "none"
    saved = saved_key(watermark.fingerprint if watermark else None)
    was_key = {renames.get(name, name) for name in saved} == set(raw.primary_key)
    is_proved = any(set(unique) == set(key) for unique in raw.unique_keys)
    build = (add_key(table, key),) if key else ()
    if raw.primary_key and set(raw.primary_key) != set(key) and (was_key or not is_proved):
        yield Difference(
            f"The key is {told} now, ({', '.join(raw.primary_key)}) in the raw table.",
            before=(drop_key(table, sides.target.facts.key_constraint or ""),),
            after=build,
            subject=f"the key of {sides.settings.source.said} changed",
            holders=tuple(sides.target.facts.key_holders),
            needs_rewrite=True,
            needs_rows=True,
        )
    elif key and not is_proved:
        yield Difference(
            f"No unique index of the raw table holds the key {told}.",
            after=build,
            needs_rewrite=True,
            is_optional=True,
        )


# ---------------------------------------------------------------- columns


def _column_differences(
    sides: Sides, wanted: ColumnContract, present: Column | None
) -> Iterator[Difference]:
    table = sides.settings.target
    if present is None:
        yield Difference(
            f'The raw table has no column "{wanted.name}" ({wanted.target_type}).',
            before=add_column(table, wanted.name, wanted.target_type, wanted.comment),
            needs_rows=True,
        )
        return
    if present.type_text != wanted.target_type:
        is_kept = keeps_rows(present.type_text, wanted.target_type)
        is_slow = not is_kept or present.number in sides.target.facts.proved_anew
        yield Difference(
            f'Column "{wanted.name}" is {wanted.target_type} now, '
            f"{present.type_text} in the raw table.",
            before=(retype(table, wanted.name, wanted.target_type, is_slow=is_slow),),
            subject=f'column "{wanted.name}" of {sides.settings.source.said} changed type',
            holders=sides.target.facts.readers_of(present.number),
            needs_rewrite=is_slow,
            needs_rows=True,
        )
    if present.is_not_null and not wanted.is_not_null:
        yield Difference(
            f'Column "{wanted.name}" may be NULL now, not in the raw table.',
            before=(drop_not_null(table, wanted.name),),
        )
    if wanted.is_not_null and not present.is_not_null and wanted.name not in sides.key:
        yield Difference(
            f'Column "{wanted.name}" is NOT NULL in the source, not in the raw table.',
            after=(set_not_null(table, wanted.name),),
            needs_rewrite=True,
            is_optional=True,
        )


def _lost(sides: Sides, column: Column) -> Iterator[Difference]:
    """A column that rows come without."""
    is_needed = column.is_not_null and column.name not in sides.target.facts.filled_by_default
    if column.name in _saved(sides).values() or is_needed:
        is_there = sides.source.column(column.name) is not None
        yield Difference(
            f'Column "{column.name}" is not landed any more.'
            if is_there
            else f'The source has no column "{column.name}" any more.',
            outcome="It stays, NULL in new rows.",
            before=(drop_not_null(sides.settings.target, column.name),) if is_needed else (),
        )
