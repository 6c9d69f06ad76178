"""Which columns of a source table are landed, and which name a row.

Pure: takes settings and a catalog, gives names.
"""

from extract_load.catalog import TableSchema
from extract_load.config import SyncMode, TableSettings
from extract_load.errors import SchemaMismatch


def key_of(settings: TableSettings, source: TableSchema) -> tuple[str, ...]:
    """Returns the columns that name a row: the settings', else the source's primary key.

    Returns:
        Empty where nothing names a row: then whole rows are compared, as full_sync can.

    Raises:
        SchemaMismatch: If the mode merges rows by key and there is none, or the table lacks a
            column of it.
    """
    key = settings.primary_key or source.primary_key
    if not key and settings.sync_mode is not SyncMode.FULL_SYNC:
        raise SchemaMismatch(
            f"{settings.source.said} has no primary key",
            f"{settings.sync_mode} merges rows by their key; without one it cannot tell a changed "
            "row from a new one.",
            'Name the columns that name a row with "primary_key", or use full_sync.',
        )
    _require_columns(settings, source, "primary_key", key)
    return key


def landed_columns(
    settings: TableSettings, source: TableSchema, key: tuple[str, ...]
) -> tuple[str, ...]:
    """Returns the columns to land, in the table's order; key and cursor always among them.

    Raises:
        SchemaMismatch: If the table lacks a column that the settings name.
    """
    _require_columns(settings, source, "columns", settings.columns)
    _require_columns(settings, source, "exclude_columns", settings.exclude_columns)
    _require_columns(settings, source, "mask", tuple(name for name, _ in settings.mask))
    kept = {*key, settings.incremental_field}
    masked = [name for name, _ in settings.mask if name in kept]
    if masked:
        raise SchemaMismatch(
            f'"{masked[0]}" of {settings.source.said} is masked, and rows are told apart by it',
            f"The key is ({', '.join(key)}).",
            'Leave the column out of "mask", or name another key with "primary_key".',
        )
    wanted = set(settings.columns) or set(source.column_names) - set(settings.exclude_columns)
    return tuple(name for name in source.column_names if name in wanted | kept)


def _require_columns(
    settings: TableSettings, source: TableSchema, setting: str, names: tuple[str, ...]
) -> None:
    missing = [name for name in names if source.column(name) is None]
    if missing:
        raise SchemaMismatch(
            f'{settings.source.said} has no column "{missing[0]}"',
            f'"{setting}" names it. The columns are {", ".join(source.column_names)}.',
            f'Mend "{setting}".',
        )
