"""Plans and statuses for people and as JSON."""

from typing import Any

from extract_load.chunking import WholeTable
from extract_load.config import SyncMode, duration_text
from extract_load.dbt_models import Models
from extract_load.errors import SchemaMismatch
from extract_load.extract import Estimate
from extract_load.report import bytes_text, errors_text, table_names, text_table
from extract_load.resume import why_not_repaired
from extract_load.runner import PlannedTable
from extract_load.status import TableStatus
from extract_load.table_plan import Publish, TablePlan

_BYTES_PER_SECOND = 60e6
_SECONDS_PER_TABLE = 0.2
"""What one worker of a small machine moves, for the estimate only."""
_BYTES_SCANNED_PER_SECOND = 150e6
_SCANS_TO_CLOSE = 3
"""A closing pass reads the heap for what changed, for what should be loaded, and for a count."""


def plan_as_dict(planned: PlannedTable, models: Models) -> dict[str, Any]:
    """Returns one table's part of the JSON of `plan`.

    Args:
        planned: The table.
        models: The dbt models that read raw tables.
    """
    table = planned.table
    names = {
        "source": table.source.written,
        "target": table.target.written,
        "target_connection": table.target_connection,
        "sync_mode": table.sync_mode.value,
        "dbt_models": list(models.get(table.target.parts, ())),
    }
    if planned.plan is None or planned.estimate is None:
        return {**names, "error": planned.error.as_dict() if planned.error else None}
    plan, estimate = planned.plan, planned.estimate
    return {
        **names,
        "publish": plan.publish.value,
        "baseline": plan.is_baseline,
        "baseline_reason": plan.baseline_reason,
        "window": {"low": plan.window.low, "high": plan.window.high},
        "deletes": plan.deletes.value,
        "key": list(plan.key),
        "chunks": len(plan.chunks),
        "estimated_rows": estimate.rows,
        "estimated_bytes_sent": estimate.bytes_sent,
        "estimated_bytes_read": estimate.bytes_read,
        "estimated_seconds": _seconds(estimate),
        "estimated_closing_seconds": _closing_seconds(plan),
        "copy_format": plan.contract.copy_format,
        "columns": [
            {
                "name": column.name,
                "treatment": column.treatment.value,
                "source_type": column.source_type,
                "target_type": column.target_type,
            }
            for column in plan.contract.columns
        ],
        "ddl": _ddl(plan),
        "dependent_views": list(plan.target.dependent_views),
        "locks": _locks(plan),
        "warnings": [
            *plan.warnings,
            *plan.schema_change.notes,
            *filter(None, [plan.since_note, _too_short(planned)]),
        ],
        "error": None,
    }


def plans_as_text(planned: tuple[PlannedTable, ...], models: Models) -> str:
    """Returns the plans as a table, with what needs a sentence below it.

    Args:
        planned: The tables.
        models: The dbt models that read raw tables.
    """
    shown_all = [plan_as_dict(table, models) for table in planned]
    names = table_names(
        [(shown["source"], shown["target"], shown["target_connection"]) for shown in shown_all],
        say_target=True,
    )
    rows = [
        [
            shown["source"],
            shown["target"],
            shown["target_connection"],
            shown["sync_mode"],
            shown["publish"],
            str(shown["chunks"]),
            f"{shown['estimated_rows']:,}",
            bytes_text(shown["estimated_bytes_sent"]),
            f"{shown['estimated_seconds']:.1f}",
            _why(table.plan),
        ]
        for table, shown in zip(planned, shown_all, strict=True)
        if table.plan is not None and not shown["error"]
    ]
    heads = ["table", "raw table", "target", "mode", "publish", "chunks", "rows ~", "bytes ~"]
    text = text_table([*heads, "seconds ~", "why"], rows, right_from=5, wrap_last=True)
    notes = "".join(
        _notes(name, table, shown)
        for name, table, shown in zip(names, planned, shown_all, strict=True)
    )
    errors = errors_text(
        (name, table.error) for name, table in zip(names, planned, strict=True) if table.error
    )
    readers = "".join(
        f"dbt models that read {target}: {readers}\n"
        for target, readers in dict.fromkeys(
            (shown["target"], _readers(shown))
            for table, shown in zip(planned, shown_all, strict=True)
            if isinstance(table.error, SchemaMismatch)
        )
    )
    return f"{text}{notes}{errors}{readers}\nNothing was changed."


def _why(plan: TablePlan) -> str:
    """Why all rows are read, or from where on: `from updated_at 2026-11-22`, `from xmin 736`."""
    follows_cursor = plan.settings.sync_mode is SyncMode.INCREMENTAL_SYNC
    column = plan.settings.incremental_field if follows_cursor else "xmin"
    return plan.baseline_reason or f"from {column} {plan.window.low}"


def statuses_as_text(statuses: tuple[TableStatus, ...]) -> str:
    """Returns the statuses as a table, and below it why a target could not be asked."""
    names = table_names(
        [(status.source, status.target, status.target_connection) for status in statuses],
        say_target=True,
    )
    errors = errors_text(
        (name, status.unasked)
        for name, status in zip(names, statuses, strict=True)
        if status.unasked
    )
    table = text_table(
        [
            "table",
            "raw table",
            "target",
            "last run",
            "status",
            "age",
            "watermark",
            "chunks",
            "lease",
            "error",
        ],
        (
            [
                status.source,
                status.target + ("" if status.managed else " (unmanaged)"),
                status.target_connection,
                status.last_run_id or "-",
                status.shown_status or "never run",
                age_text(status.age_seconds),
                status.watermark or "-",
                "-" if status.unasked else str(status.open_chunks),
                status.lease_run_id or "-",
                status.error or "",
            ]
            for status in statuses
        ),
        wrap_last=True,
    )
    return f"{table}{errors}"


def age_text(seconds: float | None) -> str:
    """Returns an age for people.

    Example:
        >>> age_text(None), age_text(42), age_text(7260)
        ('-', '42 s', '2.0 h')
    """
    if seconds is None:
        return "-"
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size * 2 or (unit != "d" and seconds >= size):
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def _notes(name: str, planned: PlannedTable, shown: dict[str, Any]) -> str:
    if planned.error is not None:
        return ""
    lines = [f"warning: {warning}" for warning in shown["warnings"]]
    if planned.plan is not None and planned.plan.schema_change.statements:
        lines += [f"ddl: {statement}" for statement in shown["ddl"]]
        lines += [f"lock: {lock}" for lock in shown["locks"]]
        lines.append(f"views: {', '.join(shown['dependent_views']) or 'none'}")
        lines.append(f"dbt models: {_readers(shown)}")
    lines += [
        f"{column['name']}: {column['source_type']} lands as {column['target_type']}"
        + (", masked" if column["treatment"] == "masked" else "")
        for column in shown["columns"]
        if column["treatment"] != "identical"
    ]
    return "".join(f"\n{name}: {line}" for line in lines) + ("\n" if lines else "")


def _readers(shown: dict[str, Any]) -> str:
    return ", ".join(shown["dbt_models"]) or "none known"


def _seconds(estimate: Estimate) -> float:
    return round(_SECONDS_PER_TABLE + estimate.bytes_sent / _BYTES_PER_SECOND, 1)


def _closing_seconds(plan: TablePlan) -> float | None:
    """What bringing chunks of several snapshots to one takes; None where that cannot be done."""
    if why_not_repaired(plan):
        return None
    heap_bytes = sum(leaf.table_bytes for leaf in plan.source.leaves)
    return round(_SCANS_TO_CLOSE * heap_bytes / _BYTES_SCANNED_PER_SECOND, 1)


def _too_short(planned: PlannedTable) -> str | None:
    """A warning where a snapshot may reach its age before the table is done."""
    plan, estimate, max_age = planned.plan, planned.estimate, planned.snapshot_max_age
    if plan is None or estimate is None or max_age is None:
        return None
    closing, unfit = _closing_seconds(plan), why_not_repaired(plan)
    needed = _seconds(estimate) if closing is None else closing
    if needed <= max_age.total_seconds():
        return None
    what = "its closing pass" if unfit is None else f"all of it ({unfit})"
    return (
        f"{what} must be read in one snapshot, which may take {age_text(needed)}; "
        f"snapshot_max_age is {duration_text(max_age)}"
    )


def _ddl(plan: TablePlan) -> list[str]:
    if plan.publish is Publish.FIRST_LOAD:
        return [f"create table {plan.settings.target}"]
    return [ddl.said for ddl in plan.schema_change.statements]


def _locks(plan: TablePlan) -> list[str]:
    """What others may notice."""
    is_one_pass = all(isinstance(chunk.range, WholeTable) for chunk in plan.chunks)
    how = "one pass" if is_one_pass else "one chunk at a time"
    source = f"source {plan.settings.source}: ACCESS SHARE ({how}, one snapshot)"
    if plan.publish is Publish.FIRST_LOAD:
        return [source]
    target = f"target {plan.settings.target}"
    locks = [source, f"{target}: ROW EXCLUSIVE (readers never wait)"]
    statements = plan.schema_change.statements
    if any(not ddl.is_slow for ddl in statements):
        locks.append(f"{target}: ACCESS EXCLUSIVE for a moment")
    if any(ddl.is_slow for ddl in statements):
        locks.append(f"{target}: ACCESS EXCLUSIVE while it is rewritten or read (readers wait)")
    return locks
