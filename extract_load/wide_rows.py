"""A row that fits a page of the source and none of the target, told by the columns that grew."""

from collections.abc import Iterator
from contextlib import contextmanager

from extract_load.errors import SchemaMismatch, TargetError
from extract_load.table_plan import TablePlan

_PROGRAM_LIMIT_EXCEEDED = "54000"
_NAMED_COLUMNS = 20


@contextmanager
def naming_wide_columns(plan: TablePlan) -> Iterator[None]:
    """Turns the target's "row is too big" into an error that names the columns.

    A value of four bytes, as of an enum, takes as many as its text has, or 18 outside of the row.

    Raises:
        SchemaMismatch: Instead of the target's error.
    """
    try:
        yield
    except TargetError as error:
        if error.sqlstate != _PROGRAM_LIMIT_EXCEEDED or "row is too big" not in error.detail:
            raise
        raise _too_wide(plan, error) from error


def _too_wide(plan: TablePlan, error: TargetError) -> SchemaMismatch:
    names, grown = plan.contract.names, plan.contract.cast_names
    told = grown or names
    more = len(told) - _NAMED_COLUMNS
    listed = ", ".join(told[:_NAMED_COLUMNS]) + (f" and {more} more" if more > 0 else "")
    what = "which land as other types than the source's" if grown else "all of them"
    return SchemaMismatch(
        f"a row of {plan.settings.source.said} fits no page of the target "
        f'"{plan.settings.target_connection}"',
        f"Its {len(told)} columns {listed}, {what}, take too many bytes. {error.detail}",
        'Leave some of these columns out with "exclude_columns".',
    )
