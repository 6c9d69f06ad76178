"""The ways by which a run may reach its databases; each test of this folder goes all of them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from demo.embedded_server import EmbeddedServer, free_ports
from tests.support.builds import programs
from tests.support.own_servers import database_of
from tests.support.servers import PASSWORD, SETTINGS, Database, fresh_database, guarded_directory
from tests.support.ways import ANYWHERE, give, make_certificate, openssl, pgbouncer

WAYS = [
    pytest.param("socket", id="socket"),
    pytest.param("ipv6", id="ipv6"),
    pytest.param("two hosts", id="two-hosts"),
    *(
        pytest.param(way, id=way.replace(" ", "-"), marks=pytest.mark.slow)
        for way in (
            *("pooled source", "pooled target", "pooled both"),
            *("require", "verify-ca", "verify-full", "client certificate"),
        )
    ),
]


@dataclass(frozen=True)
class Elsewhere(Database):
    """A database whose address says more than host and port."""

    said_host: str = ""
    query: str = ""

    @property
    def uri(self) -> str:
        """The address as a user writes it."""
        plain = super().uri
        return plain.replace(f"@{self.host}:", f"@{self.said_host}:") + f"?{self.query}"


@pytest.fixture(scope="module")
def own_directory() -> Iterator[Path]:
    with guarded_directory() as directory:
        directory.chmod(0o711)
        yield directory


@pytest.fixture(scope="module")
def own_server(own_directory: Path) -> Iterator[EmbeddedServer]:
    """A server on both loopback addresses."""
    (port,) = free_ports(1)
    both = {**SETTINGS, "listen_addresses": "127.0.0.1,::1"}
    server = EmbeddedServer(16, own_directory / "both", port, both)
    server.create(PASSWORD)
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def tls_server(own_directory: Path) -> Iterator[EmbeddedServer]:
    """A server with a certificate of a CA of its own (a build from npm: the wheel has no TLS)."""
    (port,) = free_ports(1)
    tls = {
        "ssl": "on",
        "ssl_cert_file": "server.crt",
        "ssl_key_file": "server.key",
        "ssl_ca_file": "ca.crt",
    }
    server = EmbeddedServer(16, own_directory / "tls", port, {**SETTINGS, **tls}, programs(16))
    server.create(PASSWORD)
    make_certificate(own_directory, days=30)
    for name in ("server.key", "server.crt", "ca.crt"):
        give(own_directory / name, server.data_dir)
    request = ["req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=postgres"]
    openssl(own_directory, *request, "-keyout", "client.key", "-out", "client.csr")
    sign = ["x509", "-req", "-in", "client.csr", "-CA", "ca.crt", "-CAkey", "ca.key"]
    openssl(own_directory, *sign, "-CAcreateserial", "-days", "30", "-out", "client.crt")
    (own_directory / "client.key").chmod(0o600)
    server.start()
    yield server
    server.stop()


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def source(way: str, request: pytest.FixtureRequest, own_directory: Path) -> Iterator[Database]:
    """A fresh source database, reached that way."""
    name = "own_server" if way in ("socket", "ipv6") else "source_server"
    server: EmbeddedServer = request.getfixturevalue("tls_server" if way in TLS else name)
    with (
        fresh_database(server, "source") as plain,
        _pooled(plain, is_asked=way in ("pooled source", "pooled both")) as database,
        _only_by_certificate(server, is_asked=way == "client certificate"),
    ):
        said = {
            "socket": ("", f"host={server.data_dir}"),
            "ipv6": ("[::1]", ""),
            "two hosts": ("127.0.0.2,127.0.0.1", "sslmode=disable"),
            **{
                one: (ANYWHERE, query.format(directory=own_directory)) for one, query in TLS.items()
            },
        }.get(way)
        if said is None:
            yield database
        else:
            query = said[1].format(directory=own_directory)
            yield Elsewhere(**vars(database), said_host=said[0], query=query)


TLS = {
    "require": "sslmode=require",
    "verify-ca": "sslmode=verify-ca&sslrootcert={directory}/ca.crt",
    "verify-full": "sslmode=verify-full&sslrootcert={directory}/ca.crt",
    "client certificate": "sslmode=verify-full&sslrootcert={directory}/ca.crt"
    "&sslcert={directory}/client.crt&sslkey={directory}/client.key",
}


@pytest.fixture
def target(way: str, target_server: EmbeddedServer) -> Iterator[Database]:
    """A fresh target database, reached that way."""
    is_asked = way in ("pooled target", "pooled both")
    with fresh_database(target_server, "target") as plain, _pooled(plain, is_asked=is_asked) as one:
        yield one


@contextmanager
def _pooled(database: Database, *, is_asked: bool) -> Iterator[Database]:
    """Yields a database behind PgBouncer, which hands each transaction to any of its sessions."""
    if not is_asked:
        yield database
        return
    with guarded_directory() as directory:
        directory.chmod(0o711)
        with pgbouncer(database, "transaction", directory) as pooled:
            yield pooled


@contextmanager
def _only_by_certificate(server: EmbeddedServer, *, is_asked: bool) -> Iterator[None]:
    """Lets nobody in over TLS without a certificate of the CA, where it is asked for."""
    rules = server.data_dir / "pg_hba.conf"
    before = rules.read_text()
    if is_asked:
        rules.write_text(f"hostssl all all all cert\n{before}")
        database_of(server).execute("SELECT pg_reload_conf()")
    try:
        yield
    finally:
        if is_asked:
            rules.write_text(before)
            # The rule that goes lets only certificates in over TLS; this comes without TLS.
            database_of(server).execute("SELECT pg_reload_conf()")
