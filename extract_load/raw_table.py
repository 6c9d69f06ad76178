"""What a target's catalog says about a raw table beyond its columns: its readers, its hurdles."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace

from extract_load.connection import Session
from extract_load.errors import ExtractLoadError, TargetUnavailable
from extract_load.identifiers import TableName
from extract_load.retry import LOCK_NOT_AVAILABLE
from extract_load.sql import queries


@dataclass(frozen=True)
class Readers:
    """What stands on one column."""

    number: int
    """The column's; 0: the row as a whole."""
    are_views: bool
    """Whether they are views and materialized views; else policies, triggers, functions, ..."""
    names: Sequence[str]
    """With the views on those views."""


@dataclass(frozen=True)
class RawTableFacts:
    """Who reads a raw table, and what may stand in a run's way."""

    persistence: str = "p"
    """pg_class.relpersistence: p(ermanent), u(nlogged)."""
    is_in_tree: bool = False
    """Whether it is a partition, inherits, or has children."""
    has_children: bool = False
    forces_row_security: bool = False
    row_triggers: Sequence[str] = ()
    """Those that fire."""
    has_triggers: bool = False
    """Whether any fires, one of statements too: it may write into the table."""
    rules: Sequence[str] = ()
    always_identity: Sequence[str] = ()
    """Columns that take no value from an INSERT."""
    filled_by_default: Sequence[str] = ()
    """Columns that have a value when an INSERT gives none."""
    key_constraint: str | None = None
    """The name of the primary key."""
    proved_anew: Sequence[int] = ()
    """Numbers of columns under a CHECK, or in an index with an expression or a condition: another
    type reads the table, even where it keeps the rows."""
    key_holders: Sequence[str] = ()
    """What depends on the primary key."""
    readers: Sequence[Readers] = ()

    @property
    def alter_rows(self) -> bool:
        """Whether rows may be others than those that are written to the table."""
        return bool(self.has_triggers or self.rules or self.is_in_tree)

    @property
    def views(self) -> tuple[str, ...]:
        """Views and materialized views on the table, and those on them."""
        named = {name for one in self.readers if one.are_views for name in one.names}
        return tuple(sorted(named))

    def readers_of(self, number: int) -> tuple[str, ...]:
        """Returns what stands on a column."""
        named = {name for one in self.readers if one.number == number for name in one.names}
        return tuple(sorted(named))


NO_FACTS = RawTableFacts()
"""Of a table that is still to be made."""


def read_facts(session: Session, name: TableName, oid: int) -> RawTableFacts:
    """Returns the facts about a raw table, as the caller's transaction sees the catalog."""
    asked, doing = {"oid": oid}, f"read the catalog about {name.said}"
    catalog = queries("raw_table")
    found = read_own_facts(session, name, oid)
    readers = session.execute(catalog["column_readers"], asked, doing)
    holders = session.execute(catalog["key_holders"], asked, doing)
    return replace(
        found,
        key_holders=tuple(holder for (holder,) in holders),
        readers=tuple(Readers(*reader) for reader in readers),
    )


def read_own_facts(session: Session, name: TableName, oid: int) -> RawTableFacts:
    """Returns the facts about a raw table without who depends on it."""
    doing = f"read the catalog about {name.said}"
    (facts,) = session.execute(queries("raw_table")["facts"], {"oid": oid}, doing)
    return RawTableFacts(*facts)


@dataclass(frozen=True)
class ForeignKey:
    """A foreign key of some table that refers to a raw table."""

    name: str
    table: str
    """Whose it is, as SQL writes it."""
    on_delete: str
    """What becomes of its rows: CASCADE, SET NULL, ..."""
    on_update: str
    columns: Sequence[str]
    """Those of the raw table it refers to."""
    is_own: bool = False
    """Whether it is the raw table's."""

    @property
    def spreads_deletes(self) -> bool:
        """Whether deleting a row changes rows of that table."""
        return self.on_delete not in ("NO ACTION", "RESTRICT")

    @property
    def resets_references(self) -> bool:
        """Whether a changed value changes what refers to it, beyond following it elsewhere."""
        follows = self.is_own and self.on_update == "CASCADE"
        return follows or self.on_update in ("SET NULL", "SET DEFAULT")


def read_foreign_keys(session: Session, name: TableName) -> tuple[ForeignKey, ...]:
    """Returns the foreign keys that refer to a table."""
    asked = {"name": name.regclass}
    rows = session.execute(queries("raw_table")["foreign_keys"], asked, "ask who refers to it")
    return tuple(ForeignKey(*row) for row in rows)


def lock_holders_said(session: Session, name: TableName) -> str:
    """Returns which sessions hold a lock on a table, as a sentence."""
    asked = {"name": name.regclass}
    with session.transaction():
        rows = session.execute(queries("raw_table")["lock_holders"], asked, "ask who holds a lock")
    return f"{_holding(name)}: {', '.join(holder for (holder,) in rows) or 'nobody any more'}."


@contextmanager
def naming_lock_holders(session: Session, name: TableName) -> Iterator[None]:
    """Lets the error of who waited for a lock too long say who holds one on a raw table.

    Args:
        session: To the target, outside a transaction by then.
        name: The table.
    """
    try:
        yield
    except TargetUnavailable as error:
        if error.sqlstate == LOCK_NOT_AVAILABLE and _holding(name) not in error.detail:
            with suppress(ExtractLoadError):
                error.detail += f". {lock_holders_said(session, name)}"
        raise


def _holding(name: TableName) -> str:
    return f"Holding {name.said} now"
