"""How a raw table follows its source's columns: statements, or a refusal that names what breaks.

Pure: decides what becomes of each difference. No connection, no clock.
"""

from collections.abc import Iterator

from extract_load.config import Deletes, SchemaPolicy, TableSettings
from extract_load.ddl import Ddl, SchemaChange, add_column, add_loaded_at
from extract_load.errors import SchemaMismatch
from extract_load.schema_difference import Difference, Sides, differences
from extract_load.table_plan import TargetState
from extract_load.type_contract import DELETED_AT, LOADED_AT

ALTERED = "the raw table has other columns, types or another key than the source"
"""Why the whole table is read after it is altered."""


def plan_schema_change(sides: Sides, *, allow_rewrite: bool) -> SchemaChange:
    """Returns what makes the raw table fit the source's rows.

    Args:
        sides: What is compared.
        allow_rewrite: Whether statements may be used under which readers wait for long.

    Raises:
        SchemaMismatch: If there is a difference and `schema_change` is `fail`, if one needs
            `--allow-rewrite`, or if something depends on what would change.
    """
    found = differences(sides)
    if sides.settings.schema_change is SchemaPolicy.FAIL and found:
        raise _refused_by_settings(sides, found)
    _refuse_what_breaks(sides, found, allow_rewrite=allow_rewrite)
    done = [one for one in found if allow_rewrite or not one.needs_rewrite]
    landing = _landing_columns(sides.settings, sides.target)
    return SchemaChange(
        before=(*(ddl for one in done for ddl in one.before), *landing),
        after=tuple(ddl for one in done for ddl in one.after),
        notes=tuple(_note(one, is_left=one not in done) for one in found),
        baseline_reason=ALTERED if any(one.needs_rows for one in done) else None,
        may_rewrite=allow_rewrite,
    )


def _note(found: Difference, *, is_left: bool) -> str:
    left = "It is left so; --allow-rewrite would follow the source." if is_left else ""
    return " ".join(filter(None, [found.what, found.outcome, left]))


def _landing_columns(settings: TableSettings, target: TargetState) -> Iterator[Ddl]:
    """What an adopted table lacks, or one whose deletes became soft."""
    if target.raw is None:
        return
    if target.raw.column(LOADED_AT) is None:
        yield from add_loaded_at(settings.target)
    if settings.follows_deletes is Deletes.SOFT and target.raw.column(DELETED_AT) is None:
        yield from add_column(settings.target, DELETED_AT, "timestamp with time zone")


# ---------------------------------------------------------------- refusals


def _refused_by_settings(sides: Sides, found: list[Difference]) -> SchemaMismatch:
    views = ", ".join(sides.target.dependent_views) or "none"
    return SchemaMismatch(
        f"{sides.settings.source.said} and {sides.settings.target.said} "
        f'in target "{sides.settings.target_connection}" have different columns',
        "\n".join([*(one.what for one in found), f"Views on the raw table: {views}."]),
        'The table has "schema_change: fail". Write "evolve" to let the raw table follow, '
        "or alter it by hand.",
    )


def _refuse_what_breaks(sides: Sides, found: list[Difference], *, allow_rewrite: bool) -> None:
    held = [one for one in found if one.holders]
    slow = [
        one
        for one in found
        if one.needs_rewrite and not (one.is_optional or one.holders or allow_rewrite)
    ]
    refused = held + slow
    if not refused:
        return
    hints = []
    if held:
        option = " with --allow-rewrite" if any(one.needs_rewrite for one in held) else ""
        hints.append(
            f"Drop or change what is named above, then run again{option}: "
            "the raw table is altered in place."
        )
    if slow:
        hints.append(
            "Run the table once with --allow-rewrite: readers wait while it is rewritten, "
            "or while the index of its key is built."
        )
    raise SchemaMismatch(
        _primary(sides, held, slow),
        "\n".join(_detail(one) for one in refused),
        "\n".join(hints),
    )


def _primary(sides: Sides, held: list[Difference], slow: list[Difference]) -> str:
    where = f'in target "{sides.settings.target_connection}"'
    if len(held) + len(slow) > 1:
        count = len(held) + len(slow)
        return f"{count} changes of {sides.settings.source.said} cannot be followed {where}"
    if held:
        are_views = set(held[0].holders) <= set(sides.target.dependent_views)
        who = "views depend" if are_views else "something depends"
        return f"{held[0].subject}, and {who} on it {where}"
    raw_table = sides.settings.target.said
    return f"{slow[0].subject}, which {raw_table} {where} follows only under a lock"


def _detail(found: Difference) -> str:
    if not found.holders:
        return found.what
    return f"{found.what} Depending on it: {', '.join(found.holders)}."
