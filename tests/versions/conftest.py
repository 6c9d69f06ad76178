"""Servers of every supported version, started when a test first asks."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from demo.embedded_server import EmbeddedServer, free_ports
from tests.support.builds import programs
from tests.support.servers import PASSWORD, SETTINGS, Database, fresh_database, guarded_directory

ServerOf = Callable[[int], EmbeddedServer]


@pytest.fixture(scope="session")
def open_directory() -> Iterator[Path]:
    """A directory that root's `nobody` may enter: initdb of 13 takes no other way to its own."""
    with guarded_directory() as directory:
        directory.chmod(0o711)
        yield directory


@pytest.fixture(scope="session")
def server_of(open_directory: Path) -> Iterator[ServerOf]:
    """Returns a running server of a major version."""
    running: dict[int, EmbeddedServer] = {}

    def get(major: int) -> EmbeddedServer:
        if major not in running:
            directory = open_directory / f"postgresql-{major}"
            (port,) = free_ports(1)
            server = EmbeddedServer(major, directory, port, SETTINGS, programs(major))
            server.create(PASSWORD)
            server.start()
            running[major] = server
        return running[major]

    yield get
    for server in running.values():
        server.stop()


@pytest.fixture
def pair(request: pytest.FixtureRequest) -> tuple[int, int]:
    """The major versions of source and target."""
    versions: tuple[int, int] = request.param
    return versions


@pytest.fixture
def source(server_of: ServerOf, pair: tuple[int, int]) -> Iterator[Database]:
    """A fresh, empty source database."""
    with fresh_database(server_of(pair[0]), "source") as database:
        yield database


@pytest.fixture
def target(server_of: ServerOf, pair: tuple[int, int]) -> Iterator[Database]:
    """A fresh, empty target database."""
    with fresh_database(server_of(pair[1]), "target") as database:
        yield database
