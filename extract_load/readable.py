"""What a run needs to read of a source table, and what the role may read.

Pure: takes settings and a catalog. Rights may be granted on the landed columns alone.
"""

from collections.abc import Iterator
from dataclasses import replace

from extract_load.catalog import Column, Leaf, TableSchema
from extract_load.chosen_columns import key_of, landed_columns
from extract_load.config import Mask, TableSettings
from extract_load.connection_parameters import ConnectionParameters
from extract_load.errors import SourceError
from extract_load.identifiers import TableName, quoted_name


def columns_read(settings: TableSettings, source: TableSchema) -> tuple[str, ...]:
    """Returns the columns whose values a run reads, in the table's order.

    What custom_where reads comes on top: the source says itself where that is not granted.

    Raises:
        SchemaMismatch: If the table lacks a column that the settings name, or a key.
    """
    unread = {name for name, mask in settings.mask if mask is Mask.NULL}
    landed = landed_columns(settings, source, key_of(settings, source))
    return tuple(name for name in landed if name not in unread)


def hidden_columns(
    settings: TableSettings, source: TableSchema
) -> Iterator[tuple[TableName, tuple[str, ...]]]:
    """Yields the relations that have columns a run reads and the role may not, with these."""
    wanted = set(columns_read(settings, source))
    relations: list[tuple[TableName, tuple[Column, ...], Leaf | None]] = [
        (leaf.name, leaf.columns, leaf) for leaf in source.leaves
    ]
    if all(leaf.oid != source.oid for leaf in source.leaves):
        relations.insert(0, (source.name, source.columns, None))
    for name, columns, leaf in relations:
        hidden = [c.name for c in columns if c.name in wanted and not c.is_readable]
        if leaf and leaf.has_row_versions and settings.reads_xmin and not leaf.shows_xmin:
            hidden.append("xmin")
        if hidden:
            yield name, tuple(hidden)


def readable_part(
    settings: TableSettings, source: TableSchema, where: ConnectionParameters
) -> TableSettings:
    """Returns the settings under which the role may read a table.

    Block ranges read `ctid`: where only columns are granted, and not that one, the table is one
    chunk.

    Args:
        settings: The table's.
        source: The source table.
        where: The source.

    Raises:
        SourceError: If it may not read a column that is landed, or that the mode needs.
        SchemaMismatch: If the table lacks a column that the settings name, or a key.
    """
    for relation, hidden in hidden_columns(settings, source):
        raise unreadable(source, relation, hidden, where)
    if all(
        "ctid" in leaf.granted_system_columns for leaf in source.leaves if leaf.has_row_versions
    ):
        return settings
    return replace(settings.sized(source.estimated_rows), chunk_mode=False, by_size=())


def unreadable(
    source: TableSchema, relation: TableName, hidden: tuple[str, ...], where: ConnectionParameters
) -> SourceError:
    """Returns the refusal to land a table of which columns are hidden from the role."""
    detail = f"SELECT is missing on: {', '.join(hidden)}."
    if relation != source.name:
        detail = f'Its partition "{relation}" is read by itself. {detail}'
    is_all = set(hidden) >= set(source.column_names)
    grant = grant_select(relation, () if is_all else hidden, where.user)
    or_else = "" if is_all or "xmin" in hidden else ', or leave them out with "exclude_columns"'
    return SourceError(
        f'the role may not read "{source.name}" in source "{where.conn_id}"',
        detail,
        f"Run on the source: {grant}{or_else}.",
    )


def grant_select(relation: TableName, columns: tuple[str, ...], role: str) -> str:
    """Returns the statement that lets a role read columns; all where none is named."""
    listed = f" ({', '.join(quoted_name(name) for name in columns)})" if columns else ""
    return f"GRANT SELECT{listed} ON {relation.regclass} TO {quoted_name(role)}"
