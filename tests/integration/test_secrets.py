"""Whatever fails, and however loudly: no password and no salt is in anything a run leaves."""

import base64
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
from psycopg2 import sql

import extract_load as package
from demo.embedded_server import free_ports
from extract_load.connection import Session
from extract_load.connection_parameters import resolve_connection
from tests.support.command import extract_load, write_settings
from tests.support.landing import SOURCE_ID, TARGET_ID
from tests.support.servers import Database
from tests.support.tables import FULL, RAW, create_items

PASSWORD = "S3cr3t/pässwörd %40&+"
SALT = "gesalzen/und=gepfeffert %25"
SECRETS = (PASSWORD, SALT)


def forms(secret: str) -> set[str]:
    """A secret as it may stand somewhere."""
    return {
        secret,
        quote(secret),
        quote(secret, safe=""),
        quote_plus(secret),
        json.dumps(secret)[1:-1],
        repr(secret)[1:-1],
        base64.b64encode(secret.encode()).decode(),
        secret.encode().hex(),
    }


@pytest.fixture
def reader(source: Database) -> Iterator[Database]:
    """The source, entered by a role with a password worth keeping."""
    create_items(source, 50)
    name = f"reader_{source.name}"
    create = sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(
        sql.Identifier(name), sql.Literal(PASSWORD)
    )
    source.execute(create)
    source.execute(f"GRANT SELECT ON public.items TO {name}")
    yield replace(source, user=name, password=PASSWORD)
    source.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")


def variables(source: Database, target: Database) -> dict[str, str]:
    return {
        f"AIRFLOW_CONN_{SOURCE_ID.upper()}": json.dumps(
            {
                "conn_type": "postgres",
                "host": source.host,
                "port": source.port,
                "schema": source.name,
                "login": source.user,
                "password": source.password,
                "extra": {"mask_salt": SALT},
            }
        ),
        f"AIRFLOW_CONN_{TARGET_ID.upper()}": target.uri,
    }


COMMANDS = (("run", "text"), ("run", "json"), ("verify", "json"), ("doctor", "text"))
FAULTS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "wrong password": {"source": {"password": PASSWORD + "x"}},
    "no such user": {"source": {"user": "nobody_at_all"}},
    "no such database": {"source": {"name": "not_there"}},
    "nobody listens": {"source": {"port": None}},
    "no such table": {"table": {"source": "public.other"}},
    "no such column": {"table": {"custom_where": "nothing = 1"}},
    "a key that is none": {
        "table": {"primary_key": "body"},
        "ddl": "UPDATE public.items SET body = 'x'",
    },
    "masked": {"table": {"mask": {"amount": "sha256"}}},
    "masked, and a fault in COPY": {
        "table": {"mask": {"amount": "sha256"}, "custom_where": "1 / (id - 7) < 5"}
    },
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_nothing_that_is_left_holds_a_secret(
    reader: Database, source: Database, target: Database, fault: dict[str, Any], tmp_path: Path
) -> None:
    way = dict(fault.get("source", {}))
    if "port" in way:
        (way["port"],) = free_ports(1)
    if "ddl" in fault:
        source.execute(fault["ddl"])
    path = write_settings(tmp_path / "t.yml", {**FULL, "target": RAW, **fault.get("table", {})})
    environment = variables(replace(reader, **way), target)
    left: list[str] = []
    for command, output in (
        ("run", "text"),
        ("run", "json"),
        ("verify", "json"),
        ("doctor", "text"),
    ):
        arguments = (command, "--config", str(path), "--output", output, "--debug")
        outcome = extract_load(*arguments, environment=environment)
        left += [outcome.stdout, outcome.stderr]
    left += _ledger(target)

    everything = "\n".join(left)
    assert len(everything) > 2000
    for secret in SECRETS:
        for form in forms(secret):
            assert form not in everything


def _ledger(target: Database) -> list[str]:
    tables = target.execute(
        "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables"
        " WHERE schemaname LIKE 'extract\\_load%'"
    )
    return [str(target.execute(f"SELECT to_jsonb(t) FROM {table} AS t")) for (table,) in tables]


def test_no_object_says_a_secret(reader: Database, target: Database) -> None:
    environment = variables(reader, target)
    parameters = resolve_connection(SOURCE_ID, environment)
    with Session(parameters, "source") as session:
        said = [repr(one) for one in (parameters, session, vars(session)["parameters"])]
        said += [str(parameters), f"{parameters}"]
        ((seen,),) = session.execute(
            "SELECT string_agg(query || application_name, ' ') FROM pg_stat_activity"
        )
    assert parameters.password == PASSWORD
    assert parameters.mask_salt == SALT
    assert package.ConnectionParameters is type(parameters)
    for secret in SECRETS:
        for form in forms(secret):
            assert form not in "\n".join([*said, seen])
