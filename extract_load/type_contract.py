"""What each column of a source table becomes in the raw table.

Pure: takes catalogs, gives a contract. A column is *identical*, *mapped* to a type that holds
every value, or *masked*; what is not identical is computed in the source's SELECT, so that the
stream can stay binary.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from psycopg2 import sql

from extract_load.catalog import Column, TableSchema
from extract_load.config import Mask
from extract_load.errors import SchemaMismatch
from extract_load.kept_types import LandedType, ServerPair, landed_type
from extract_load.masking import masked_expression
from extract_load.target_types import BUILTIN_EQUALITY

LOADED_AT = "_loaded_at"
DELETED_AT = "_deleted_at"
LANDING_COLUMNS = (LOADED_AT, DELETED_AT)
"""Columns of every raw table that no source may have."""

MAX_SOURCE_COLUMNS = 1598
"""PostgreSQL's 1600 less the two landing columns."""


class Treatment(StrEnum):
    """What happens to a column on its way."""

    IDENTICAL = "identical"
    """The raw column has the source's type."""
    MAPPED = "mapped"
    """The raw column has another type that holds every value."""
    MASKED = "masked"
    """The values never leave the source."""


@dataclass(frozen=True)
class ColumnContract:
    """One column's way into the raw table."""

    name: str
    treatment: Treatment
    source_type: str
    target_type: str
    """As SQL writes it in the target."""
    cast_type: str | None
    """What the source's SELECT casts it to, as SQL writes it in the source."""
    is_binary_safe: bool
    is_not_null: bool
    comment: str | None = None
    mask: Mask | None = None
    equality: tuple[str, str] = BUILTIN_EQUALITY
    """Schema and name of the operator that compares keys in the target."""

    @property
    def is_changed(self) -> bool:
        """Whether the values change their form on the way."""
        return self.mask is not None or self.cast_type is not None

    @property
    def expression(self) -> sql.Composable:
        """The column in the source's SELECT list."""
        name = sql.Identifier(self.name)
        if self.mask is not None:
            return masked_expression(name, self.mask)
        if self.cast_type is None:
            return name
        return sql.SQL("{}::{}").format(name, sql.SQL(self.cast_type))


@dataclass(frozen=True)
class TypeContract:
    """All columns of one table, in the source's order."""

    columns: tuple[ColumnContract, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Column names in order."""
        return tuple(column.name for column in self.columns)

    @property
    def cast_names(self) -> tuple[str, ...]:
        """Names of the columns whose values change their form on the way."""
        return tuple(column.name for column in self.columns if column.is_changed)

    @property
    def copy_format(self) -> str:
        """`binary` where every column allows it, else `text`."""
        return "binary" if all(column.is_binary_safe for column in self.columns) else "text"

    def column(self, name: str) -> ColumnContract:
        """Returns the contract of a column that is landed."""
        return next(column for column in self.columns if column.name == name)


def make_contract(
    table: TableSchema,
    landed: tuple[str, ...],
    key: tuple[str, ...],
    servers: ServerPair,
    masks: Mapping[str, Mask] = {},
) -> TypeContract:
    """Returns the contract for the columns of a table that are landed.

    Args:
        table: The source table.
        landed: Column names, in the table's order.
        key: Columns that name a row: never NULL in the raw table, whatever the source says.
        servers: What both sides are.
        masks: How columns are masked, by name.

    Raises:
        SchemaMismatch: If a column has a name of ours, or there are too many columns.
    """
    taken = [name for name in landed if name in LANDING_COLUMNS]
    if taken:
        raise SchemaMismatch(
            f'{table.name.said} has a column "{taken[0]}", which extract-load writes itself',
            hint=f'Add "exclude_columns: [{taken[0]}]" to the table, or rename the column.',
        )
    if len(landed) > MAX_SOURCE_COLUMNS:
        raise SchemaMismatch(
            f"{table.name.said} has {len(landed)} columns; a raw table holds {MAX_SOURCE_COLUMNS}",
            hint='Leave some out with "exclude_columns".',
        )
    types = {type_.oid: type_ for type_ in table.types}
    return TypeContract(
        tuple(
            _column_contract(
                column,
                landed_type(types[column.type_oid], column.type_text, types, servers),
                masks.get(column.name),
                is_key=column.name in key,
            )
            for column in table.columns
            if column.name in landed
        )
    )


def _column_contract(
    column: Column, landed: LandedType, mask: Mask | None, *, is_key: bool
) -> ColumnContract:
    is_mapped = landed.cast_type is not None or landed.target_type != column.type_text
    is_other_name = landed.is_extension and landed.cast_type is None
    treatment = Treatment.MAPPED if is_mapped and not is_other_name else Treatment.IDENTICAL
    return ColumnContract(
        name=column.name,
        treatment=treatment if mask is None else Treatment.MASKED,
        source_type=column.type_text,
        target_type="text" if mask is Mask.SHA256 else landed.target_type,
        cast_type=landed.cast_type,
        is_binary_safe=landed.is_binary_safe or mask is not None,
        is_not_null=(column.is_not_null and mask is not Mask.NULL) or is_key,
        comment=column.comment,
        mask=mask,
        equality=landed.equality,
    )
