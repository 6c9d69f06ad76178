"""The regression database, as PostgreSQL's test suite leaves it."""

import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from demo.embedded_server import HOST, SUPERUSER, EmbeddedServer, free_ports
from tests.regression.source_package import MAJOR, PROGRAMS, regression_suite
from tests.support.servers import PASSWORD, SETTINGS, Database, guarded_directory

SUITE_SECONDS = 280


@pytest.fixture(scope="session")
def open_directory() -> Iterator[Path]:
    """A directory that root's `nobody` may enter."""
    with guarded_directory() as directory:
        directory.chmod(0o711)
        yield directory


@pytest.fixture(scope="session")
def regression(open_directory: Path) -> Iterator[Database]:
    """The database `regression` after the suite; which of its tests passed is no matter."""
    suite = regression_suite()
    (port,) = free_ports(1)
    server = EmbeddedServer(MAJOR, open_directory / "regression", port, SETTINGS, PROGRAMS)
    server.create(PASSWORD)
    server.start()
    try:
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
        yield replace(Database(HOST, port, "postgres", SUPERUSER, PASSWORD), name="regression")
    finally:
        server.stop()
