"""What differs between a source table and its raw table.

Pure: takes both catalogs, gives differences, or a refusal that names what breaks.
"""

from extract_load.catalog import TableSchema
from extract_load.config import TableSettings
from extract_load.errors import SchemaMismatch
from extract_load.type_contract import LANDING_COLUMNS, TypeContract


def require_same_columns(
    settings: TableSettings,
    contract: TypeContract,
    raw: TableSchema,
    dependent_views: tuple[str, ...],
) -> None:
    """Refuses a raw table that cannot take the source's rows as they are now.

    Raises:
        SchemaMismatch: Naming each column, and the views that a change of it would touch.
    """
    differences = column_differences(contract, raw)
    if not differences:
        return
    views = ", ".join(dependent_views) or "none"
    raise SchemaMismatch(
        f'"{settings.source}" and "{settings.target}" have different columns',
        "\n".join([*differences, f"Views on the raw table: {views}."]),
        "This version changes no raw table: alter it by hand, or drop it and run again.",
    )


def column_differences(contract: TypeContract, raw: TableSchema) -> list[str]:
    """Returns a sentence for each column that does not fit."""
    found = []
    for column in contract.columns:
        present = raw.column(column.name)
        if present is None:
            found.append(f'The raw table has no column "{column.name}" ({column.target_type}).')
        elif present.type_text != column.target_type:
            found.append(
                f'Column "{column.name}" is {column.target_type} now, '
                f"{present.type_text} in the raw table."
            )
        elif present.is_not_null and not column.is_not_null:
            found.append(f'Column "{column.name}" may be NULL now, not in the raw table.')
    known = {*contract.names, *LANDING_COLUMNS}
    found += [
        f'The source has no column "{column.name}" any more.'
        for column in raw.columns
        if column.name not in known
    ]
    return found
