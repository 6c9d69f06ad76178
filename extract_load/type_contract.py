"""What each column of a source table becomes in the raw table.

Pure: takes catalogs, gives a contract. A column is *identical*, or *mapped* to a type that every
server has; mapped columns are cast in the source's SELECT, so that the stream can stay binary.
"""

from dataclasses import dataclass, replace
from enum import StrEnum

from psycopg2 import sql

from extract_load.catalog import Column, TableSchema, TypeDefinition
from extract_load.errors import SchemaMismatch

LOADED_AT = "_loaded_at"
DELETED_AT = "_deleted_at"
LANDING_COLUMNS = (LOADED_AT, DELETED_AT)
"""Columns of every raw table that no source may have."""

MAX_SOURCE_COLUMNS = 1598
"""PostgreSQL's 1600 less the two landing columns."""

_BINARY_SAFE = frozenset(
    (
        *("bool", "int2", "int4", "int8", "float4", "float8", "numeric"),
        *("text", "varchar", "bpchar", "bytea", "char", "name", "uuid", "json", "jsonb"),
        *("date", "time", "timetz", "timestamp", "timestamptz"),
        *("inet", "cidr", "macaddr", "macaddr8", "bit", "varbit"),
        *("point", "line", "lseg", "box", "path", "polygon", "circle"),
        *("int4range", "int8range", "numrange", "daterange", "tsrange", "tstzrange"),
    )
)
"""Types whose binary form is the same on every version from 13 on."""

_TEXT_ONLY = frozenset(["interval", "money", "xml", "tsvector", "tsquery", "pg_lsn", "jsonpath"])
"""Types every server has, sent as text: 17's interval `infinity` arrives in 15 as garbage through
binary, and money is a bare integer scaled by lc_monetary."""


class Treatment(StrEnum):
    """What happens to a column on its way."""

    IDENTICAL = "identical"
    """The raw column has the source's type."""
    MAPPED = "mapped"
    """The raw column has another type that holds every value."""


@dataclass(frozen=True)
class ColumnContract:
    """One column's way into the raw table."""

    name: str
    treatment: Treatment
    source_type: str
    target_type: str
    """As SQL writes it; known to every server."""
    is_cast: bool
    """Whether the source's SELECT casts it."""
    is_binary_safe: bool
    is_not_null: bool
    comment: str | None = None

    @property
    def expression(self) -> sql.Composable:
        """The column in the source's SELECT list."""
        name = sql.Identifier(self.name)
        if not self.is_cast:
            return name
        return sql.SQL("{}::{}").format(name, sql.SQL(self.target_type))


@dataclass(frozen=True)
class TypeContract:
    """All columns of one table, in the source's order."""

    columns: tuple[ColumnContract, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Column names in order."""
        return tuple(column.name for column in self.columns)

    @property
    def copy_format(self) -> str:
        """`binary` where every column allows it, else `text`."""
        return "binary" if all(column.is_binary_safe for column in self.columns) else "text"

    def column(self, name: str) -> ColumnContract:
        """Returns one column's contract."""
        return next(column for column in self.columns if column.name == name)


def make_contract(
    table: TableSchema, landed: tuple[str, ...], key: tuple[str, ...]
) -> TypeContract:
    """Returns the contract for the columns of a table that are landed.

    Args:
        table: The source table.
        landed: Column names, in the table's order.
        key: Columns that name a row: never NULL in the raw table, whatever the source says.

    Raises:
        SchemaMismatch: If a column has a name of ours, or there are too many columns.
    """
    taken = [name for name in landed if name in LANDING_COLUMNS]
    if taken:
        raise SchemaMismatch(
            f'"{table.name}" has a column "{taken[0]}", which extract-load writes itself',
            hint=f'Add "exclude_columns: [{taken[0]}]" to the table, or rename the column.',
        )
    if len(landed) > MAX_SOURCE_COLUMNS:
        raise SchemaMismatch(
            f'"{table.name}" has {len(landed)} columns; a raw table holds {MAX_SOURCE_COLUMNS}',
            hint='Leave some out with "exclude_columns".',
        )
    types = {type_.oid: type_ for type_ in table.types}
    return TypeContract(
        tuple(
            _column_contract(column, types, is_key=column.name in key)
            for column in table.columns
            if column.name in landed
        )
    )


def _column_contract(
    column: Column, types: dict[int, TypeDefinition], *, is_key: bool
) -> ColumnContract:
    landing = _landing(types[column.type_oid], column.type_text, types)
    return ColumnContract(
        name=column.name,
        treatment=Treatment.MAPPED if landing.is_cast else Treatment.IDENTICAL,
        source_type=column.type_text,
        target_type=landing.type_text,
        is_cast=landing.is_cast,
        is_binary_safe=landing.is_binary_safe,
        is_not_null=column.is_not_null or is_key,
        comment=column.comment,
    )


@dataclass(frozen=True)
class _Landing:
    """The type a value lands in."""

    type_text: str
    is_cast: bool
    is_binary_safe: bool


_AS_TEXT = _Landing("text", is_cast=True, is_binary_safe=True)
_AS_TEXTS = _Landing("text[]", is_cast=True, is_binary_safe=True)


def _landing(type_: TypeDefinition, type_text: str, types: dict[int, TypeDefinition]) -> _Landing:
    if type_.base_oid:
        base = _landing(types[type_.base_oid], type_.base_text or "", types)
        return replace(base, is_cast=True)
    held = types.get(type_.element_oid, type_)
    if not (held.is_builtin and held.name in _BINARY_SAFE | _TEXT_ONLY):
        return _AS_TEXTS if type_.element_oid else _AS_TEXT
    return _Landing(type_text, is_cast=False, is_binary_safe=held.name in _BINARY_SAFE)
