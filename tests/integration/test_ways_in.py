"""How a session is let in, and by which of several hosts."""

from dataclasses import replace

import psycopg2
import pytest

from extract_load.connection import Session
from extract_load.connection_parameters import ConnectionParameters, resolve_connection
from extract_load.errors import SourceUnavailable
from tests.support.landing import SOURCE_ID, assert_equal, environment, land_one
from tests.support.servers import Database
from tests.support.tables import FULL, create_items


def parameters_of(source: Database, target: Database, **libpq: str) -> ConnectionParameters:
    found = resolve_connection(SOURCE_ID, environment(source, target))
    return replace(found, libpq=tuple(libpq.items()))


def test_a_password_is_proved_by_scram(source: Database, target: Database) -> None:
    """It is never sent, in no form: the server lets nobody in otherwise."""
    assert source.execute(
        "SELECT DISTINCT auth_method FROM pg_hba_file_rules WHERE type = 'host'"
    ) == [("scram-sha-256",)]
    stored = "SELECT rolpassword ~ '^SCRAM-SHA-256' FROM pg_authid WHERE rolname = current_user"
    assert source.execute(stored) == [(True,)]
    with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
        replace(source, password="other").connect()

    create_items(source, 10)
    land_one(source, target, FULL)
    assert_equal(source, target, FULL)


@pytest.mark.parametrize("asked", ["any", "primary", "read-write", "prefer-standby"])
def test_a_host_that_is_what_was_asked_for_is_taken(
    source: Database, target: Database, asked: str
) -> None:
    with Session(parameters_of(source, target, target_session_attrs=asked), "source") as session:
        assert session.execute("SELECT 1") == [(1,)]


@pytest.mark.parametrize(("asked", "why"), [("standby", "hot standby"), ("read-only", "read-only")])
def test_a_host_that_is_something_else_is_not_taken(
    source: Database, target: Database, asked: str, why: str
) -> None:
    with pytest.raises(SourceUnavailable) as failure:
        Session(parameters_of(source, target, target_session_attrs=asked), "source")
    assert why in failure.value.detail
