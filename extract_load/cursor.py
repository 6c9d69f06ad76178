"""The cursor column of a table, and the SQL that reads, orders and counts by it.

Pure: takes settings and a catalog, gives values and SQL.
"""

from dataclasses import dataclass
from datetime import timedelta

from psycopg2 import sql

from extract_load.catalog import Column, ServerCut, TableSchema
from extract_load.config import CursorType, TableSettings
from extract_load.cursor_values import VALUES, CursorValues, lookback_of, reaching, uuid_at
from extract_load.errors import SchemaMismatch
from extract_load.watermark import Watermark

_TYPES = {
    "timestamp without time zone": CursorType.TIMESTAMP,
    "timestamp with time zone": CursorType.TIMESTAMPTZ,
    "date": CursorType.DATE,
    "smallint": CursorType.INTEGER,
    "integer": CursorType.INTEGER,
    "bigint": CursorType.BIGINT,
    "numeric": CursorType.NUMERIC,
    "uuid": CursorType.UUID,
    "text": CursorType.TEXT,
    "character varying": CursorType.TEXT,
    "character": CursorType.TEXT,
}
_WHOLE = {CursorType.INTEGER, CursorType.BIGINT}
_SENTINEL_DAY = "00000000"
_BELOW_NUMBERS = "-1e131071"
"""-Infinity lies below it; 13 cannot even read that word as a number."""
_VALID_DAY = (
    "CASE WHEN {0} ~ '^(?!0000)[0-9]{{4}}(0[1-9]|1[0-2])[0-9]{{2}}$' THEN "
    "right({0}, 2)::int BETWEEN 1 AND "
    "extract(day FROM (left({0}, 6) || '01')::date + interval '1 month' - interval '1 day') "
    "ELSE false END"
)


@dataclass(frozen=True)
class Cursor:
    """The column that orders change in a table."""

    name: str
    type: CursorType
    held: str
    """The column's own type, without modifier; of a domain its base."""
    is_nullable: bool
    lookback: timedelta | float | None
    """As the settings have it."""

    @property
    def values(self) -> CursorValues:
        """What its values mean."""
        return VALUES[self.type]

    @property
    def plain_type(self) -> CursorType:
        """What it is by its column's type alone."""
        return _TYPES[self.held]

    @property
    def is_day_as_number(self) -> bool:
        """Whether it holds eight-digit days as numbers."""
        return self.type is CursorType.YYYYMMDD and self.plain_type is not CursorType.TEXT

    @property
    def sql_type(self) -> str:
        """The type our bounds are written in."""
        if self.is_day_as_number:
            return "bigint"
        return "bpchar" if self.held == "character" else self.values.sql_type

    def is_served_by(self, schema: TableSchema) -> bool:
        """Returns whether an index of the table leads to the rows above a bound."""
        if self.type is CursorType.TEXT:
            return self.name in schema.byte_ordered_columns
        return self.name in schema.indexed_columns

    def low(self, watermark: Watermark) -> str | None:
        """Returns the low bound after a watermark; None where no calendar has it.

        The age of the oldest transaction open in the published snapshot comes on top of the
        lookback: its rows may carry times from its begin on. An age needs no time zone, so that
        it serves columns without one.
        """
        back = lookback_of(self.type, self.lookback)
        try:
            if isinstance(back, timedelta) and watermark.open_for is not None:
                back = reaching(self.values.unit, back, watermark.open_for)
            return self.values.before(watermark.cursor_value or "", back)
        except (ValueError, OverflowError):
            return None

    def lower_of(self, low: str, since: str) -> str:
        """Returns the lower of two bounds.

        Raises:
            ValueError: If `since` cannot bound this cursor.
        """
        return since if self.values.rank(since) < self.values.rank(low) else low

    def predicate(self, low: str) -> sql.Composable:
        """Returns the predicate for rows at or above a low bound, and those that tell none.

        The bound is inclusive: ties are merged, gaps cannot be. Rows without a cursor value, or
        with one that says nothing, are read every time, because nothing says when they changed.
        """
        column = sql.Identifier(self.name)
        collation = ' COLLATE pg_catalog."C"' if self.type is CursorType.TEXT else ""
        parts = [
            sql.SQL("{}{} OPERATOR(pg_catalog.>=) {}").format(
                column, sql.SQL(collation), self._literal(low)
            )
        ]
        if (silent := self._silent) is not None:
            parts.append(
                sql.SQL("{} OPERATOR(pg_catalog.<=) {}").format(column, self._literal(silent))
            )
        if self.is_nullable:
            parts.append(sql.SQL("{} IS NULL").format(column))
        return sql.SQL("({})").format(sql.SQL(" OR ").join(parts))

    @property
    def _silent(self) -> str | None:
        """The end of values below every bound that say nothing about time."""
        if self.type is CursorType.YYYYMMDD:
            return _SENTINEL_DAY
        if self.type is CursorType.NUMERIC:
            return _BELOW_NUMBERS
        is_time = self.type in {CursorType.TIMESTAMP, CursorType.TIMESTAMPTZ, CursorType.DATE}
        return "-infinity" if is_time else None

    def irregular(self) -> sql.Composable | None:
        """Returns the condition for values that would not compare as what they are declared.

        Texts of another length, or with other characters, lie anywhere between days.
        """
        if self.type is not CursorType.YYYYMMDD:
            return None
        column = sql.Identifier(self.name)
        if not self.is_day_as_number:
            return sql.SQL(
                '({0}::pg_catalog.text COLLATE pg_catalog."C") '
                "OPERATOR(pg_catalog.!~) '^[0-9]{{8}}$'"
            ).format(column)
        return sql.SQL(
            "NOT ({0} OPERATOR(pg_catalog.=) 0 OR ("
            "{0} OPERATOR(pg_catalog.>=) 10000101 AND {0} OPERATOR(pg_catalog.<=) 99991231 AND "
            "pg_catalog.trunc({0}::pg_catalog.numeric) "
            "OPERATOR(pg_catalog.=) {0}::pg_catalog.numeric))"
        ).format(column)

    def newest(self, landed: sql.Composable, cut: ServerCut, last: str | None) -> sql.Composable:
        """Returns the query for the next watermark: the largest landed value that may be one.

        No value after the snapshot becomes one, nor an infinite one, NaN, an invalid day, or a
        uuid that holds no time: they would hide rows that come before them.

        Args:
            landed: The table of landed rows, in the target.
            cut: When the snapshot was taken, and in which encoding the source compares texts.
            last: The watermark that a delta came after: the next one is never below it, also
                where the delta holds no row, or only old ones. None for a baseline.
        """
        column = sql.SQL("{}::{}").format(sql.Identifier(self.name), sql.SQL(self.sql_type))
        if self.is_day_as_number:
            column = sql.SQL("lpad({}::text, 8, '0')").format(column)
        values = sql.SQL(
            "SELECT value FROM (SELECT {} AS value FROM {}) AS landed WHERE {}"
        ).format(column, landed, self._tells(cut))
        if last is not None:
            held_as = sql.SQL("text" if self.is_day_as_number else self.sql_type)
            values = sql.SQL("{} UNION ALL SELECT {}::{}").format(
                values, sql.Literal(last), held_as
            )
        return sql.SQL("SELECT seen.value::text FROM ({}) AS seen ORDER BY {} DESC LIMIT 1").format(
            values, self._ranked(sql.SQL("seen.value"), cut)
        )

    def _tells(self, cut: ServerCut) -> sql.Composable:
        at = sql.Literal(cut.cut_at)
        if self.type in {CursorType.TIMESTAMP, CursorType.TIMESTAMPTZ, CursorType.DATE}:
            return sql.SQL("value <= {}::timestamptz::{} AND value > '-infinity'").format(
                at, sql.SQL(self.sql_type)
            )
        if self.type is CursorType.NUMERIC:
            return sql.SQL("value::text NOT IN ('NaN', 'Infinity', '-Infinity')")
        if self.type is CursorType.UUID:
            return sql.SQL("substr(value::text, 15, 1) = '7' AND value <= {}::uuid").format(
                sql.Literal(uuid_at(cut.cut_at, is_last=True))
            )
        if self.type is CursorType.YYYYMMDD:
            return sql.SQL(
                "{} AND value COLLATE \"C\" <= to_char({}::timestamptz, 'YYYYMMDD')"
            ).format(sql.SQL(_VALID_DAY).format(sql.SQL("value::text")), at)
        return sql.SQL("value IS NOT NULL")

    def _ranked(self, value: sql.Composable, cut: ServerCut) -> sql.Composable:
        """A value as it compares on the source, on whichever server."""
        if self.type not in {CursorType.TEXT, CursorType.YYYYMMDD}:
            return value
        return sql.SQL("convert_to({}::text, {})").format(value, sql.Literal(cut.encoding))

    def is_below(self, alias: str, watermark: str, cut: ServerCut) -> sql.Composable:
        """Returns the condition for a raw row to lie below a watermark."""
        column: sql.Composable = sql.Identifier(alias, self.name)
        if self.is_day_as_number:
            column = sql.SQL("{}::bigint").format(column)
        return sql.SQL("{} < {}").format(
            self._ranked(column, cut), self._ranked(self._literal(watermark), cut)
        )

    def _literal(self, value: str) -> sql.Composable:
        return sql.SQL("{}::pg_catalog.{}").format(
            sql.Literal(value), sql.SQL(_CATALOG_NAMES.get(self.sql_type, self.sql_type))
        )


_CATALOG_NAMES = {"bigint": "int8"}
"""Behind a schema stands a type's name in the catalog, not SQL's."""


def cursor_of(table: TableSettings, schema: TableSchema) -> Cursor:
    """Returns the cursor of a table.

    Raises:
        SchemaMismatch: If the table has no such column, its type cannot be a cursor, or the
            lookback does not fit it.
    """
    name = table.incremental_field or ""
    column = schema.column(name)
    if column is None:
        raise SchemaMismatch(
            f'{table.source.said} has no column "{name}"',
            f"Its columns are {', '.join(schema.column_names)}.",
            'Mend "incremental_field".',
        )
    held = held_type(schema, column)
    cursor_type = _cursor_type(table.incremental_field_type, held)
    if cursor_type is None:
        declared = table.incremental_field_type
        wanted = declared.value if declared else ", ".join(CursorType)
        raise SchemaMismatch(
            f'column "{name}" of {table.source.said} cannot be the cursor',
            f"It is {column.type_text}; possible: {wanted}.",
            'Name another "incremental_field", mend "incremental_field_type", or use '
            "xmin_incremental.",
        )
    try:
        lookback_of(cursor_type, table.lookback)
    except ValueError as exc:
        raise SchemaMismatch(
            f'"lookback" does not fit cursor "{name}" of {table.source.said}',
            f"The cursor is {cursor_type}; its lookback is {exc}.",
            'Mend "lookback", or leave it out.',
        ) from exc
    return Cursor(name, cursor_type, held, not column.is_not_null, table.lookback)


def held_type(schema: TableSchema, column: Column) -> str:
    """Returns a column's type without its modifier; a domain's base."""
    types = {type_.oid: type_ for type_ in schema.types}
    text, type_ = column.type_text, types.get(column.type_oid)
    while type_ is not None and type_.base_oid:
        text, type_ = type_.base_text or "", types.get(type_.base_oid)
    head, _, rest = text.partition("(")
    return head.strip() + rest.partition(")")[2]


def _cursor_type(declared: CursorType | None, held: str) -> CursorType | None:
    """What a column is as a cursor; the guide's users write timestamp for timestamptz too."""
    found = _TYPES.get(held)
    if declared is None or found is None or declared is found:
        return found
    if declared is CursorType.YYYYMMDD:
        may_be = _WHOLE | {CursorType.NUMERIC, CursorType.TEXT}
        return declared if found in may_be and held != "smallint" else None
    families = ({CursorType.TIMESTAMP, CursorType.TIMESTAMPTZ}, _WHOLE)
    return found if any({declared, found} <= family for family in families) else None
