"""Throw-away PostgreSQL servers and the fresh databases tests work in."""

import itertools
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg2
from psycopg2 import sql
from psycopg2.extensions import connection

from demo.embedded_server import HOST, SUPERUSER, EmbeddedServer, free_ports

PASSWORD = "throw-away"
SETTINGS = {
    "fsync": "off",
    "full_page_writes": "off",
    "shared_buffers": "64MB",
    "max_wal_size": "1GB",
    "max_connections": "100",
    "max_prepared_transactions": "10",
}
_numbers = itertools.count(1)

# A pipe tells the end of pytest even when it was killed with -9: then `read` meets its end. (A
# parent-death signal would not do: it follows the thread that started the server, it is Linux
# only, and nobody would remove the directory.)
_WATCHDOG = """
read -r finished && exit
for pidfile in $(find "$1" -name postmaster.pid); do
    kill -QUIT "$(head -n 1 "$pidfile")"
done
sleep 1
rm -rf "$1"
"""


@dataclass(frozen=True)
class Database:
    """Where a database is and who enters it."""

    host: str
    port: int
    name: str
    user: str
    password: str

    @property
    def uri(self) -> str:
        """Returns the address as libpq, Airflow and the engine read it."""
        return (
            f"postgresql://{quote(self.user)}:{quote(self.password)}"
            f"@{self.host}:{self.port}/{quote(self.name)}"
        )

    def connect(self) -> connection:
        """Returns a new session in autocommit mode."""
        session = psycopg2.connect(
            host=self.host,
            port=self.port,
            dbname=self.name,
            user=self.user,
            password=self.password,
            connect_timeout=10,
            client_encoding="UTF8",
        )
        session.autocommit = True
        return session

    def execute(
        self, statement: str | sql.Composable, args: Sequence[Any] | None = None
    ) -> list[tuple[Any, ...]]:
        """Runs statements in a session of their own and returns the last one's rows."""
        session = self.connect()
        try:
            with session.cursor() as cursor:
                cursor.execute(statement, args)
                return cursor.fetchall() if cursor.description else []
        finally:
            session.close()


@contextmanager
def guarded_directory() -> Iterator[Path]:
    """Yields a directory whose servers die, and which is removed, however pytest ends."""
    directory = Path(tempfile.mkdtemp(prefix="extract-load-test-"))
    watchdog = subprocess.Popen(
        ["/bin/sh", "-c", _WATCHDOG, "watchdog", directory],
        stdin=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C is for pytest, which stops the servers itself
    )
    try:
        yield directory
    finally:
        shutil.rmtree(directory)
        watchdog.communicate(b"finished\n", timeout=10)


@contextmanager
def running_servers(directory: Path) -> Iterator[tuple[EmbeddedServer, EmbeddedServer]]:
    """Yields a running source (PostgreSQL 16) and target (18)."""
    source_port, target_port = free_ports(2)
    source = EmbeddedServer(16, directory / "source", source_port, SETTINGS)
    target = EmbeddedServer(18, directory / "target", target_port, SETTINGS)
    try:
        with ThreadPoolExecutor() as executor:
            list(executor.map(_create_and_start, (source, target)))
        yield source, target
    finally:
        source.stop()
        target.stop()


def _create_and_start(server: EmbeddedServer) -> None:
    server.create(PASSWORD)
    server.start()


@contextmanager
def fresh_database(
    server: EmbeddedServer, prefix: str, encoding: str = "UTF8"
) -> Iterator[Database]:
    """Yields an empty database, dropped afterwards whoever is still connected."""
    maintenance = Database(HOST, server.port, "postgres", SUPERUSER, PASSWORD)
    database = replace(maintenance, name=f"{prefix}_{next(_numbers)}")
    name = sql.Identifier(database.name)
    create = sql.SQL("CREATE DATABASE {} TEMPLATE template0 ENCODING {} {}").format(
        name,
        sql.Literal(encoding),
        # With fsync off it is quicker than writing the template's blocks to the WAL.
        sql.SQL("STRATEGY file_copy" if server.major >= 15 else ""),
    )
    maintenance.execute(create)
    try:
        yield database
    finally:
        maintenance.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(name))
