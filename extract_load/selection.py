"""Which tables a run is about, and where their servers are."""

from collections.abc import Mapping
from fnmatch import fnmatchcase

from extract_load.config import Mask, Settings, SyncMode, TableSettings
from extract_load.connection_parameters import ConnectionParameters, Resolver, resolve_connection
from extract_load.errors import ConfigError


def select_tables(
    settings: Settings, select: tuple[str, ...] = (), targets: tuple[str, ...] = ()
) -> tuple[TableSettings, ...]:
    """Returns the tables that names or globs select.

    Args:
        settings: All tables.
        select: Source or target names, as written or plain, or globs of them; none means all.
        targets: Target connection ids; none means all.

    Raises:
        ConfigError: If a name selects nothing.
    """
    chosen = [table for table in settings.tables if not select or _is_selected(table, select)]
    for pattern in select:
        if not any(_is_selected(table, (pattern,)) for table in settings.tables):
            raise ConfigError(
                f'"{pattern}" selects no table',
                f"The {settings.origin} has "
                + ", ".join(dict.fromkeys(table.source.written for table in settings.tables))
                + ".",
                "Mend --select: a source or target name, or a glob such as 'public.*'.",
            )
    for conn_id in targets:
        if all(table.target_connection != conn_id for table in settings.tables):
            raise ConfigError(
                f'no table has the target "{conn_id}"',
                f"The {settings.origin} has "
                + ", ".join(dict.fromkeys(table.target_connection for table in settings.tables))
                + ".",
                hint="Mend --target: the connection id of a target.",
            )
    return tuple(table for table in chosen if not targets or table.target_connection in targets)


def require_cursor(tables: tuple[TableSettings, ...]) -> None:
    """Refuses `--since` where no selected table reads by a cursor.

    Raises:
        ConfigError: If none is in `incremental_sync`.
    """
    if not any(table.enabled and table.sync_mode is SyncMode.INCREMENTAL_SYNC for table in tables):
        raise ConfigError(
            "--since has no table to work on",
            "It lowers the low bound of incremental_sync; no selected table has this mode.",
            'Leave it out, mend --select, or use "--full-refresh".',
        )


def _is_selected(table: TableSettings, patterns: tuple[str, ...]) -> bool:
    names = {
        form
        for name in (table.source, table.target)
        for form in (name.written, ".".join(name.parts))
    }
    return any(fnmatchcase(name, pattern) for name in names for pattern in patterns)


def resolve_all(
    tables: tuple[TableSettings, ...], environ: Mapping[str, str], resolver: Resolver | None
) -> dict[str, ConnectionParameters]:
    """Returns the parameters of every connection the enabled tables name.

    Raises:
        ConfigError: If one is not defined or not complete, all that are not together; or if one
            lacks the salt of a mask.
    """
    named = {
        conn_id
        for table in tables
        if table.enabled
        for conn_id in (table.source_connection, table.target_connection)
    }
    found: dict[str, ConnectionParameters] = {}
    errors: list[ConfigError] = []
    for conn_id in sorted(named):
        try:
            found[conn_id] = resolve_connection(conn_id, environ, resolver)
        except ConfigError as error:
            errors.append(error)
    if errors:
        raise errors[0] if len(errors) == 1 else _together(errors)
    for table in tables:
        if table.enabled and not found[table.source_connection].mask_salt:
            _require_no_hash(table)
    return found


def _together(errors: list[ConfigError]) -> ConfigError:
    return ConfigError(
        f"{len(errors)} connections cannot be used",
        "\n".join(f"{error.primary}: {error.detail}" for error in errors),
        "\n".join(dict.fromkeys(error.hint for error in errors)),
    )


def _require_no_hash(table: TableSettings) -> None:
    hashed = [name for name, mask in table.mask if mask is Mask.SHA256]
    if hashed:
        raise ConfigError(
            f'connection "{table.source_connection}" has no mask_salt',
            f'"{hashed[0]}" of {table.source.said} is masked with sha256. Without a salt '
            "its values could be found by trying.",
            'Add "mask_salt" to the extra of the connection: a long random text, kept secret.',
        )
