"""The regression database, as PostgreSQL's test suite leaves it, and where it lands."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.embedded_server import HOST, SUPERUSER, EmbeddedServer, free_ports
from tests.regression.source_package import MAJOR, PROGRAMS, regression_suite
from tests.support.builds import programs
from tests.support.servers import (
    PASSWORD,
    SETTINGS,
    Database,
    fresh_database,
    guarded_directory,
)

SUITE_SECONDS = 280


@pytest.fixture(scope="session")
def open_directory() -> Iterator[Path]:
    """A directory that root's `nobody` may enter."""
    with guarded_directory() as directory:
        directory.chmod(0o711)
        yield directory


def running(server: EmbeddedServer) -> Iterator[EmbeddedServer]:
    """Yields a new server, and stops it."""
    server.create(PASSWORD)
    server.start()
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def regression(open_directory: Path) -> Iterator[Database]:
    """The database `regression` after the suite; which of its tests passed is no matter."""
    suite = regression_suite()
    (port,) = free_ports(1)
    for _ in running(EmbeddedServer(MAJOR, open_directory / "source", port, SETTINGS, PROGRAMS)):
        subprocess.run(
            [
                suite.pg_regress,
                f"--bindir={PROGRAMS}",
                f"--inputdir={suite.inputs}",
                f"--dlpath={suite.inputs}",
                f"--schedule={suite.inputs / 'parallel_schedule'}",
                f"--outputdir={open_directory}",
                f"--host={HOST}",
                f"--port={port}",
                f"--user={SUPERUSER}",
            ],
            env={**os.environ, "PGPASSWORD": PASSWORD},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=SUITE_SECONDS,
            check=False,
        )
        yield Database(HOST, port, "regression", SUPERUSER, PASSWORD)


@pytest.fixture
def target(open_directory: Path) -> Iterator[Database]:
    """An empty database of a server that knows XML, which the everyday one does not."""
    (port,) = free_ports(1)
    target = EmbeddedServer(18, open_directory / "target", port, SETTINGS, programs(18))
    for server in running(target):
        with fresh_database(server, "target") as database:
            yield database
