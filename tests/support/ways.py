"""Ways to a server: certificates of one's own, and PgBouncer in between (Debian's)."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psycopg2

from demo.embedded_server import HOST, free_ports
from tests.support.own_servers import wait_for
from tests.support.servers import Database

ANYWHERE = "0.0.0.0"  # noqa: S104 - Linux takes it for loopback, and the settings do not


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


def give(file: Path, data_dir: Path) -> None:
    """Copies a key or certificate to where a server reads it, as its own."""
    place = data_dir / file.name
    shutil.copy(file, place)
    owner = data_dir.stat()
    shutil.chown(place, owner.st_uid, owner.st_gid)
    place.chmod(0o600)


@contextmanager
def pgbouncer(
    database: Database, pool_mode: str, directory: Path, ignored: str = "extra_float_digits"
) -> Iterator[Database]:
    """Yields a database behind PgBouncer, which ignores some parameters of a login."""
    program = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
    assert program, "PgBouncer is missing: apt-get install pgbouncer"
    (port,) = free_ports(1)
    (directory / "users.txt").write_text(f'"{database.user}" "{database.password}"\n')
    (directory / "pgbouncer.ini").write_text(
        f"[databases]\n* = host={database.host} port={database.port}\n"
        f"[pgbouncer]\nlisten_addr = {HOST}\nlisten_port = {port}\nunix_socket_dir =\n"
        f"auth_type = plain\nauth_file = {directory / 'users.txt'}\npool_mode = {pool_mode}\n"
        f"logfile = {directory / 'pgbouncer.log'}\ndefault_pool_size = 8\n"
        f"ignore_startup_parameters = {ignored}\n"
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
