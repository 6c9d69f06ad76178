"""Fixtures for the whole suite: own servers, fresh databases, a clean environment."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from demo.embedded_server import EmbeddedServer
from demo.state import is_connection_variable
from tests.support.servers import Database, fresh_database, guarded_directory, running_servers


def pytest_configure() -> None:
    """Scrubs our variables before the first test module is imported."""
    for name in filter(is_connection_variable, list(os.environ)):
        del os.environ[name]
    settings.register_profile("ours", deadline=None)  # a busy machine is no failure
    settings.load_profile("ours")


@pytest.fixture(scope="session")
def servers_directory() -> Iterator[Path]:
    """A directory for servers: whatever runs anywhere below it dies with pytest."""
    with guarded_directory() as directory:
        yield directory


@pytest.fixture(scope="session")
def servers(servers_directory: Path) -> Iterator[tuple[EmbeddedServer, EmbeddedServer]]:
    with running_servers(servers_directory) as both:
        yield both


@pytest.fixture(scope="session")
def source_server(servers: tuple[EmbeddedServer, EmbeddedServer]) -> EmbeddedServer:
    return servers[0]


@pytest.fixture(scope="session")
def target_server(servers: tuple[EmbeddedServer, EmbeddedServer]) -> EmbeddedServer:
    return servers[1]


@pytest.fixture
def source(source_server: EmbeddedServer) -> Iterator[Database]:
    """A fresh, empty source database (PostgreSQL 16)."""
    with fresh_database(source_server, "source") as database:
        yield database


@pytest.fixture
def target(target_server: EmbeddedServer) -> Iterator[Database]:
    """A fresh, empty target database (PostgreSQL 18)."""
    with fresh_database(target_server, "target") as database:
        yield database
