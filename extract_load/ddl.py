"""The statements that change a raw table, each as SQL and as `plan` shows it.

Pure: takes names, gives statements. Nothing is decided here.
"""

from dataclasses import dataclass

from psycopg2 import sql

from extract_load.identifiers import TableName, columns_sql, quoted_name
from extract_load.type_contract import LOADED_AT


@dataclass(frozen=True)
class Ddl:
    """One statement."""

    statement: sql.Composable
    said: str
    """The statement for people."""
    is_slow: bool = False
    """Whether it rewrites or reads the table under a lock that readers wait for."""


@dataclass(frozen=True)
class SchemaChange:
    """What a run does to a raw table that is there."""

    before: tuple[Ddl, ...] = ()
    """In one transaction, before any row is read."""
    after: tuple[Ddl, ...] = ()
    """Each in a transaction of its own, after the publish: the rows must be there for it."""
    notes: tuple[str, ...] = ()
    """What differs, for people."""
    baseline_reason: str | None = None
    """Why the whole table has to be read after it; None where rows stay what they are."""
    may_rewrite: bool = False
    """Whether `--allow-rewrite` was given."""

    @property
    def statements(self) -> tuple[Ddl, ...]:
        """All of them in order."""
        return self.before + self.after


NO_CHANGE = SchemaChange()
"""The raw table fits, or is still to be made."""


def rename_columns(table: TableName, renames: dict[str, str]) -> tuple[Ddl, ...]:
    """Returns the renaming of columns, also of such that exchange their names."""
    steps = list(renames.items())
    if set(renames) & set(renames.values()):
        between = {old: f"_el_renamed_{number}" for number, old in enumerate(renames)}
        steps = [*between.items(), *((between[old], new) for old, new in renames.items())]
    return tuple(
        _alter(
            table,
            sql.SQL("RENAME COLUMN {} TO {}").format(sql.Identifier(old), sql.Identifier(new)),
            f"rename column {quoted_name(old)} to {quoted_name(new)}",
        )
        for old, new in steps
    )


def add_column(
    table: TableName, name: str, type_text: str, comment: str | None = None
) -> tuple[Ddl, ...]:
    """Returns the adding of a nullable column at the end, with its comment."""
    added = _alter(
        table,
        sql.SQL("ADD COLUMN {} {}").format(sql.Identifier(name), sql.SQL(type_text)),
        f"add column {quoted_name(name)} {type_text}",
    )
    if comment is None:
        return (added,)
    commented = Ddl(
        sql.SQL("COMMENT ON COLUMN {} IS {}").format(
            sql.Identifier(*table.parts, name), sql.Literal(comment)
        ),
        f"comment on column {table}.{quoted_name(name)}",
    )
    return (added, commented)


def add_loaded_at(table: TableName) -> tuple[Ddl, ...]:
    """Returns the adding of `_loaded_at`; rows that are there get the time of the statement.

    The default is constant within a statement, so it rewrites nothing (manual, ALTER TABLE).
    """
    name = sql.Identifier(LOADED_AT)
    return (
        _alter(
            table,
            sql.SQL("ADD COLUMN {} timestamptz NOT NULL DEFAULT now()").format(name),
            f"add column {quoted_name(LOADED_AT)} timestamptz not null default now()",
        ),
        _alter(
            table,
            sql.SQL("ALTER COLUMN {} DROP DEFAULT").format(name),
            f"alter column {quoted_name(LOADED_AT)} drop default",
        ),
    )


def retype(table: TableName, name: str, type_text: str, *, is_slow: bool) -> Ddl:
    """Returns the change of a column's type; values are cast as SQL's own CAST does it."""
    return _alter(
        table,
        sql.SQL("ALTER COLUMN {name} TYPE {type} USING CAST({name} AS {type})").format(
            name=sql.Identifier(name), type=sql.SQL(type_text)
        ),
        f"alter column {quoted_name(name)} type {type_text}",
        is_slow=is_slow,
    )


def drop_not_null(table: TableName, name: str) -> Ddl:
    """Returns the statement that lets a column be NULL."""
    return _alter(
        table,
        sql.SQL("ALTER COLUMN {} DROP NOT NULL").format(sql.Identifier(name)),
        f"alter column {quoted_name(name)} drop not null",
    )


def set_not_null(table: TableName, name: str) -> Ddl:
    """Returns the statement that forbids NULL in a column."""
    return _alter(
        table,
        sql.SQL("ALTER COLUMN {} SET NOT NULL").format(sql.Identifier(name)),
        f"alter column {quoted_name(name)} set not null",
        is_slow=True,
    )


def drop_key(table: TableName, constraint: str) -> Ddl:
    """Returns the dropping of the primary key, without anything that depends on it."""
    return _alter(
        table,
        sql.SQL("DROP CONSTRAINT {} RESTRICT").format(sql.Identifier(constraint)),
        f"drop constraint {quoted_name(constraint)}",
    )


def add_key(table: TableName, key: tuple[str, ...]) -> Ddl:
    """Returns the building of a primary key."""
    return _alter(
        table,
        sql.SQL("ADD PRIMARY KEY ({})").format(columns_sql(key)),
        f"add primary key ({', '.join(map(quoted_name, key))})",
        is_slow=True,
    )


def _alter(table: TableName, action: sql.Composable, said: str, *, is_slow: bool = False) -> Ddl:
    statement = sql.SQL("ALTER TABLE {} {}").format(table.sql, action)
    return Ddl(statement, f"alter table {table} {said}", is_slow)
