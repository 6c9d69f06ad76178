"""The two databases of the demo: the shop's own, and the warehouse it is landed in."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import cast

import psycopg2
from psycopg2 import sql
from psycopg2.extensions import connection

from demo.embedded_server import HOST, SUPERUSER
from demo.state import (
    FS2_DATABASE,
    FS2_ROLE,
    SOURCE_DATABASE,
    SOURCE_ROLE,
    WAREHOUSE_DATABASE,
    WAREHOUSE_ROLE,
    State,
)

_HERE = Path(__file__).parent

_GRANTS = """
revoke connect, temporary on database {database} from public;
grant connect on database {database} to {role};
grant usage on schema public, "시장" to {role};
grant select on all tables in schema public, "시장" to {role};
alter default privileges in schema public grant select on tables to {role};
alter default privileges in schema "시장" grant select on tables to {role};
"""


@dataclass(frozen=True)
class Touched:
    """How much of a raw table was loaded since some moment."""

    table: str
    rows: int
    touched: int


def create_source(state: State, rows: int) -> bool:
    """Makes the shop's database where it is missing, and fills it in one transaction.

    Args:
        state: Where the servers are.
        rows: How many rows the sample has in all.

    Returns:
        Whether it was filled now; a shop that stands is left as it is.
    """
    with _superuser(state, state.source.port, "postgres") as session:
        _create_role(session, SOURCE_ROLE, state.variables["DEMO_READER_PASSWORD"])
        _create_database(session, SOURCE_DATABASE, owner=SUPERUSER)
    with _shop(state) as session, session.cursor() as cursor:
        cursor.execute("select to_regclass('public.users')")
        if cursor.fetchone() != (None,):
            return False
        fill(session, rows)
        names = {"database": SOURCE_DATABASE, "role": SOURCE_ROLE}
        quoted = {key: sql.Identifier(name) for key, name in names.items()}
        cursor.execute(sql.SQL(_GRANTS).format(**quoted))
        session.commit()
    return True


def create_warehouses(state: State) -> None:
    """Makes both warehouses' databases, each owned by its own role, where they are missing."""
    owners = {WAREHOUSE_DATABASE: WAREHOUSE_ROLE, FS2_DATABASE: FS2_ROLE}
    passwords = {WAREHOUSE_ROLE: "POSTGRES_PASSWORD", FS2_ROLE: "DEMO_FS2_PASSWORD"}
    for database, role in owners.items():
        with _superuser(state, state.warehouse.port, "postgres") as session:
            _create_role(session, role, state.variables[passwords[role]])
            _create_database(session, database, owner=role)


def fill(session: connection, rows: int) -> None:
    """Makes the sample tables in an empty database; the caller commits."""
    with session.cursor() as cursor:
        cursor.execute("select set_config('demo.rows', %s, false)", [str(rows)])
        cursor.execute((_HERE / "sample_source.sql").read_text())


def pass_day(state: State) -> None:
    """Changes about one row in a hundred of each kind, and commits."""
    with _shop(state) as session, session.cursor() as cursor:
        cursor.execute("set local lock_timeout = '30s'")
        cursor.execute((_HERE / "day.sql").read_text())
        session.commit()


@contextmanager
def late_transaction(state: State) -> Iterator[connection]:
    """Yields a session that has placed an order and has not committed it yet."""
    with _shop(state) as session, session.cursor() as cursor:
        cursor.execute((_HERE / "late_commit.sql").read_text())
        yield session


def warehouse_time(state: State) -> datetime:
    """Returns the warehouse's clock, whose time `_loaded_at` is."""
    with _warehouse(state) as session, session.cursor() as cursor:
        cursor.execute("select clock_timestamp()")
        return cast(datetime, cursor.fetchall()[0][0])


def touched_since(state: State, moment: datetime) -> list[Touched]:
    """Returns for each raw table how many of its rows were loaded at `moment` or later."""
    with _warehouse(state) as session, session.cursor() as cursor:
        cursor.execute("select tablename from pg_tables where schemaname = 'raw_data' order by 1")
        return [_touched(session, table, moment) for (table,) in cursor.fetchall()]


def _touched(session: connection, table: str, moment: datetime) -> Touched:
    query = sql.SQL(
        "select count(*), count(*) filter (where _loaded_at >= {}) from raw_data.{}"
    ).format(sql.Literal(moment), sql.Identifier(table))
    with session.cursor() as cursor:
        cursor.execute(query)
        (counts,) = cursor.fetchall()
    return Touched(f"raw_data.{table}", *counts)


def _create_role(session: connection, role: str, password: str) -> None:
    """Creates a role that may log in; one that stands gets this password."""
    with session.cursor() as cursor:
        cursor.execute("select from pg_roles where rolname = %s", [role])
        verb = "create" if cursor.fetchone() is None else "alter"
        statement = sql.SQL(verb + " role {} login password {}")
        cursor.execute(statement.format(sql.Identifier(role), sql.Literal(password)))
    session.commit()


def _create_database(session: connection, database: str, owner: str) -> None:
    """Creates a database where it is missing."""
    session.autocommit = True  # a database is not created inside a transaction
    with session.cursor() as cursor:
        cursor.execute("select from pg_database where datname = %s", [database])
        if cursor.fetchone() is None:
            statement = sql.SQL("create database {} owner {}")
            cursor.execute(statement.format(sql.Identifier(database), sql.Identifier(owner)))


def _shop(state: State) -> AbstractContextManager[connection]:
    return _superuser(state, state.source.port, SOURCE_DATABASE)


def _warehouse(state: State) -> AbstractContextManager[connection]:
    return _superuser(state, state.warehouse.port, WAREHOUSE_DATABASE)


@contextmanager
def _superuser(state: State, port: int, database: str) -> Iterator[connection]:
    """Yields a superuser's session; what is not committed is rolled back."""
    session = psycopg2.connect(
        host=HOST,
        port=port,
        dbname=database,
        user=SUPERUSER,
        password=state.variables["DEMO_SUPERUSER_PASSWORD"],
        application_name="extract-load demo",
        connect_timeout=10,
    )
    with closing(session):
        yield session
