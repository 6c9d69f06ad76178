"""`doctor` about the way to a server: TLS, and a pooler in between.

The TLS builds come from npm, PgBouncer from Debian.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from demo.embedded_server import EmbeddedServer, free_ports
from extract_load.findings import Code, Severity
from tests.support.builds import programs
from tests.support.doctor import ITEMS, assert_found, codes, diagnose
from tests.support.landing import SOURCE_ID
from tests.support.own_servers import database_of, wait_for
from tests.support.servers import PASSWORD, SETTINGS, Database, guarded_directory
from tests.support.tables import create_items
from tests.support.ways import ANYWHERE, give, make_certificate, pgbouncer

pytestmark = pytest.mark.slow

SOURCE_VARIABLE = f"AIRFLOW_CONN_{SOURCE_ID.upper()}"


@dataclass(frozen=True)
class Encrypted:
    """A source that speaks TLS, and the CA of its certificate."""

    server: EmbeddedServer
    ca: Path

    def certify(self, days: int) -> None:
        """Gives the server a certificate that is valid for so many days from now."""
        make_certificate(self.ca.parent, days)
        for name in ("server.key", "server.crt"):
            give(self.ca.parent / name, self.server.data_dir)

    def variables(self, **extra: str) -> dict[str, str]:
        """Returns the variable that names it, as no loopback address."""
        uri = replace(database_of(self.server), host=ANYWHERE).uri
        return {SOURCE_VARIABLE: f"{uri}?{'&'.join('='.join(one) for one in extra.items())}"}


@pytest.fixture(scope="module")
def encrypted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Encrypted]:
    with guarded_directory() as directory:
        directory.chmod(0o711)
        (port,) = free_ports(1)
        tls = {"ssl": "on", "ssl_cert_file": "server.crt", "ssl_key_file": "server.key"}
        data = directory / "encrypted"
        server = EmbeddedServer(16, data, port, {**SETTINGS, **tls}, programs(16))
        server.create(PASSWORD)
        found = Encrypted(server, tmp_path_factory.mktemp("ca") / "ca.crt")
        found.certify(days=30)
        server.start()
        create_items(database_of(server), 100)
        yield found
        server.stop()


@pytest.mark.parametrize(
    ("extra", "what", "fact"),
    [
        ({}, 'sslmode "require" does not prove whom it talks to', "is not checked"),
        ({"sslmode": "verify-ca"}, 'sslmode "verify-ca" does not', "the host's name in it is not"),
        ({"sslmode": "disable"}, 'is not encrypted (sslmode "disable")', "can be read"),
    ],
    ids=["the default", "verify-ca", "none"],
)
def test_sslmode_is_too_weak(
    extra: dict[str, str], what: str, fact: str, encrypted: Encrypted, target: Database
) -> None:
    ca = {"sslrootcert": str(encrypted.ca)} if extra.get("sslmode") == "verify-ca" else {}
    variables = encrypted.variables(**extra, **ca)

    assert_found(
        diagnose(database_of(encrypted.server), target, variables=variables),
        Severity.WARNING,
        Code.SSLMODE_WEAK,
        what,
        fact,
        remedy='Set "sslmode" to "verify-full" and "sslrootcert"',
    )


def test_verify_full_is_well(encrypted: Encrypted, target: Database) -> None:
    variables = encrypted.variables(sslmode="verify-full", sslrootcert=str(encrypted.ca))

    found = diagnose(database_of(encrypted.server), target, variables=variables)

    assert codes(found) == []


def test_an_expired_certificate(encrypted: Encrypted, target: Database) -> None:
    source = database_of(encrypted.server)
    variables = encrypted.variables(sslmode="verify-full", sslrootcert=str(encrypted.ca))
    encrypted.certify(days=-1)
    source.execute("SELECT pg_reload_conf()")
    try:
        wait_for(
            lambda: codes(diagnose(source, target, variables=variables)) != [], "the certificate"
        )

        assert_found(
            diagnose(source, target, variables=variables),
            Severity.ERROR,
            Code.CERTIFICATE_REFUSED,
            f'source "{SOURCE_ID}" refused the connection',
            "certificate verify failed",
            "certificate has expired",
            remedy="Renew the server's certificate",
        )
    finally:
        encrypted.certify(days=30)
        source.execute("SELECT pg_reload_conf()")


# ---------------------------------------------------------------- poolers


@pytest.fixture
def pool_directory() -> Iterator[Path]:
    with guarded_directory() as directory:
        directory.chmod(0o711)
        yield directory


@pytest.mark.parametrize("side", ["source", "target"])
def test_a_pooler_in_statement_mode(
    side: str, source: Database, target: Database, pool_directory: Path
) -> None:
    create_items(source, 100)
    with pgbouncer(source if side == "source" else target, "statement", pool_directory) as pooled:
        both = (pooled, target) if side == "source" else (source, pooled)
        by_cursor = {"sync_mode": "incremental_sync", "incremental_field": "updated_at"}

        found = diagnose(*both, {**ITEMS, **by_cursor})

    assert_found(
        found,
        Severity.ERROR,
        Code.STATEMENT_POOLING,
        "a pooler in statement mode stands before the server",
        "it allows no transaction of several statements",
        remedy="pool_mode = transaction or session",
    )
    # What can be seen without a transaction is told all the same.
    assert ("warning", "cursor_not_indexed") in codes(found)
    assert len(found.findings) == 2


def test_a_pooler_in_transaction_mode(
    source: Database, target: Database, pool_directory: Path
) -> None:
    create_items(source, 100)
    with pgbouncer(source, "transaction", pool_directory) as pooled:
        found = diagnose(pooled, target)

    assert_found(
        found,
        Severity.NOTE,
        Code.POOLER,
        "a pooler stands before the server",
        "A run holds up to 3 of its server connections",
        remedy="Give the pool at least 3 connections",
    )
    assert len(found.findings) == 1


def test_a_pooler_that_keeps_a_server_from_quoting_plainly(
    source: Database, target: Database, pool_directory: Path
) -> None:
    """What is asked of the server at login does not reach it; texts would be quoted wrongly."""
    create_items(source, 100)
    source.execute(f'ALTER DATABASE "{source.name}" SET standard_conforming_strings = off')
    assert not diagnose(source, target).findings
    with pgbouncer(source, "transaction", pool_directory, "extra_float_digits, options") as pooled:
        found = diagnose(pooled, target)

    assert_found(
        found,
        Severity.ERROR,
        Code.LOGIN_REFUSED,
        f'source "{SOURCE_ID}" refused the connection',
        "standard_conforming_strings stays off",
        remedy="Set standard_conforming_strings to on for the role",
    )
