"""Three databases, three roles: each is a source of one and a target of another, in every mode."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import psycopg2
import pytest
from psycopg2 import sql

from demo.embedded_server import EmbeddedServer
from extract_load.config import Settings
from extract_load.report import RunReport
from extract_load.runner import RunOptions, run
from extract_load.settings_file import settings_from_document
from tests.support.landing import assert_equal
from tests.support.servers import Database, fresh_database
from tests.support.tables import MODES, change_items, create_items

DIGITALOCEAN, FS2, WAREHOUSE = "digitalocean_postgres", "fs2_postgres", "postgres_default"
WAYS = [
    (DIGITALOCEAN, WAREHOUSE),
    (FS2, DIGITALOCEAN),
    (DIGITALOCEAN, FS2),
    (WAREHOUSE, FS2),
]
Databases = dict[str, Database]


@contextmanager
def owned_database(server: EmbeddedServer, conn_id: str) -> Iterator[Database]:
    """Yields a database that belongs to a role of its own, and is entered as that role.

    The role is no superuser, and no other database of the server lets it in.
    """
    with fresh_database(server, conn_id) as database:
        role = f"{database.name}_role"
        names = {"role": sql.Identifier(role), "database": sql.Identifier(database.name)}
        password = sql.Literal(f"{role}'s own")
        database.execute(
            sql.SQL(
                "CREATE ROLE {role} LOGIN PASSWORD {password};"
                "REVOKE CONNECT ON DATABASE {database} FROM public;"
                "ALTER DATABASE {database} OWNER TO {role};"
                "ALTER SCHEMA public OWNER TO {role}"
            ).format(password=password, **names)
        )
        try:
            yield replace(database, user=role, password=f"{role}'s own")
        finally:
            database.execute(
                sql.SQL(
                    "REASSIGN OWNED BY {role} TO CURRENT_USER; DROP OWNED BY {role};"
                    "DROP ROLE {role}"
                ).format(**names)
            )


@pytest.fixture
def databases(source_server: EmbeddedServer, target_server: EmbeddedServer) -> Iterator[Databases]:
    servers = {DIGITALOCEAN: source_server, FS2: source_server, WAREHOUSE: target_server}
    with ExitStack() as stack:
        yield {
            conn_id: stack.enter_context(owned_database(server, conn_id))
            for conn_id, server in servers.items()
        }


def table(way: tuple[str, str], mode: str) -> dict[str, Any]:
    source, target = way
    return {
        **MODES[mode],
        "source_connection": source,
        "target_connection": target,
        "target": f"raw_data.{source}_{mode}",
        "batch_size": 500,
    }


def land(databases: Databases, *ways: tuple[str, str]) -> RunReport:
    tables = [table(way, mode) for way in ways for mode in MODES]
    settings: Settings = settings_from_document({"tables": tables}, "test settings")
    names = {f"AIRFLOW_CONN_{name.upper()}": where.uri for name, where in databases.items()}
    return run(settings, names, RunOptions())


def assert_landed(databases: Databases, report: RunReport, *ways: tuple[str, str]) -> None:
    assert [str(failed.error) for failed in report.failed] == []
    assert len(report.tables) == len(ways) * len(MODES)
    for way in ways:
        for mode in MODES:
            assert_equal(databases[way[0]], databases[way[1]], table(way, mode))


def test_the_roles_are_ordinary_and_apart(databases: Databases) -> None:
    for database in databases.values():
        asked = "SELECT rolsuper, rolreplication, rolcreaterole FROM pg_roles WHERE rolname = user"
        assert database.execute(asked) == [(False, False, False)]
    roles = {database.user for database in databases.values()}
    assert len(roles) == 3
    with pytest.raises(psycopg2.OperationalError, match="permission denied for database"):
        replace(databases[DIGITALOCEAN], name=databases[FS2].name).execute("SELECT 1")


@pytest.mark.parametrize("way", WAYS, ids=[f"{a} to {b}" for a, b in WAYS])
def test_each_lands_in_another(databases: Databases, way: tuple[str, str]) -> None:
    create_items(databases[way[0]], 2_000)
    assert_landed(databases, land(databases, way), way)
    change_items(databases[way[0]])

    report = land(databases, way)

    assert_landed(databases, report, way)
    assert {result.rows_inserted for result in report.tables} == {200}
    assert {result.rows_deleted for result in report.tables} == {40}


def test_there_and_back_in_one_run(databases: Databases) -> None:
    """Each is source and target of the same run."""
    ways = [(DIGITALOCEAN, FS2), (FS2, DIGITALOCEAN), (WAREHOUSE, FS2), (FS2, WAREHOUSE)]
    for number, database in enumerate(databases.values(), start=1):
        create_items(database, 500 * number)
    assert_landed(databases, land(databases, *ways), *ways)
    for database in databases.values():
        change_items(database)

    assert_landed(databases, land(databases, *ways), *ways)
