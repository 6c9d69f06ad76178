"""`doctor` about the way to a server: TLS, and a pooler in between.

The TLS builds come from npm, PgBouncer from Debian.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import psycopg2
import pytest

from demo.embedded_server import HOST, EmbeddedServer, free_ports
from extract_load.findings import Code, Severity
from tests.support.builds import programs
from tests.support.doctor import ITEMS, assert_found, codes, diagnose
from tests.support.landing import SOURCE_ID
from tests.support.own_servers import database_of, wait_for
from tests.support.servers import PASSWORD, SETTINGS, Database, guarded_directory
from tests.support.tables import create_items

pytestmark = pytest.mark.slow

ANYWHERE = "0.0.0.0"  # noqa: S104 - Linux takes it for loopback, and the settings do not
SOURCE_VARIABLE = f"AIRFLOW_CONN_{SOURCE_ID.upper()}"


def openssl(directory: Path, *arguments: str) -> None:
    subprocess.run(
        ["openssl", *arguments],  # noqa: S607
        cwd=directory,
        capture_output=True,
        timeout=60,
        check=True,
    )


def make_certificate(directory: Path, days: int) -> None:
    """Writes server.key and server.crt for the loopback address, under ca.crt."""
    if not (directory / "ca.crt").exists():
        new = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30", "-subj", "/CN=ca"]
        openssl(directory, *new, "-keyout", "ca.key", "-out", "ca.crt")
    request = ["req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=server"]
    openssl(directory, *request, "-keyout", "server.key", "-out", "server.csr")
    (directory / "names").write_text(f"subjectAltName=IP:{ANYWHERE}")
    sign = ["x509", "-req", "-in", "server.csr", "-CA", "ca.crt", "-CAkey", "ca.key"]
    more = ["-CAcreateserial", "-extfile", "names", "-days", str(days)]
    openssl(directory, *sign, *more, "-out", "server.crt")


@dataclass(frozen=True)
class Encrypted:
    """A source that speaks TLS, and the CA of its certificate."""

    server: EmbeddedServer
    ca: Path

    def certify(self, days: int) -> None:
        """Gives the server a certificate that is valid for so many days from now."""
        make_certificate(self.ca.parent, days)
        for name in ("server.key", "server.crt"):
            place = self.server.data_dir / name
            shutil.copy(self.ca.parent / name, place)
            owner = self.server.data_dir.stat()
            shutil.chown(place, owner.st_uid, owner.st_gid)
            place.chmod(0o600)

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


@contextmanager
def pgbouncer(database: Database, pool_mode: str, directory: Path) -> Iterator[Database]:
    """Yields a database behind PgBouncer."""
    program = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
    assert program, "PgBouncer is missing: apt-get install pgbouncer"
    (port,) = free_ports(1)
    (directory / "users.txt").write_text(f'"{database.user}" "{database.password}"\n')
    (directory / "pgbouncer.ini").write_text(
        f"[databases]\n* = host={database.host} port={database.port}\n"
        f"[pgbouncer]\nlisten_addr = {HOST}\nlisten_port = {port}\nunix_socket_dir =\n"
        f"auth_type = plain\nauth_file = {directory / 'users.txt'}\npool_mode = {pool_mode}\n"
        f"logfile = {directory / 'pgbouncer.log'}\ndefault_pool_size = 8\n"
        "ignore_startup_parameters = extra_float_digits\n"
    )
    is_root = os.geteuid() == 0
    for path in (directory, *directory.iterdir()) if is_root else ():
        shutil.chown(path, "nobody")
    # Its own switch: it refuses root.
    as_nobody = ["-u", "nobody"] if is_root else []
    process = subprocess.Popen([program, "-q", *as_nobody, directory / "pgbouncer.ini"])
    try:
        pooled = replace(database, port=port)
        wait_for(lambda: _answers(pooled), "PgBouncer")
        yield pooled
    finally:
        process.terminate()
        process.wait(timeout=10)


def _answers(database: Database) -> bool:
    try:
        return database.execute("SELECT 1") == [(1,)]
    except psycopg2.OperationalError:
        return False


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
