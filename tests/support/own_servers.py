"""Source servers of one test: stopped, copied, crashed, promoted, or billions of xids later."""

import os
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import psutil

from demo.embedded_server import HOST, SUPERUSER, EmbeddedServer, free_ports
from tests.support.servers import PASSWORD, SETTINGS, Database

WAIT_SECONDS = 30.0
_EPOCH = 1 << 32
_HOP = 1_500_000_000
"""Less than 2^31: the age at which a server refuses to go on."""
_XIDS_PER_SEGMENT = 32 * 8192 * 4
_SEGMENT_BYTES = 32 * 8192


def new_server(directory: Path, settings: Mapping[str, str] = {}) -> EmbeddedServer:
    """Returns a running server of PostgreSQL 16."""
    (port,) = free_ports(1)
    server = EmbeddedServer(16, directory, port, {**SETTINGS, **settings})
    server.create(PASSWORD)
    server.start()
    return server


def database_of(server: EmbeddedServer, name: str = "postgres") -> Database:
    """Returns a database of a server, for its superuser."""
    return Database(HOST, server.port, name, SUPERUSER, PASSWORD)


def cold_copy(server: EmbeddedServer, directory: Path) -> EmbeddedServer:
    """Returns a stopped copy of a stopped server: its files, under another port."""
    shutil.copytree(server.data_dir, directory)
    owner = server.data_dir.stat()
    for path in (directory, *directory.rglob("*")):
        os.chown(path, owner.st_uid, owner.st_gid)
    (port,) = free_ports(1)
    return EmbeddedServer(server.major, directory, port, server.settings)


def standby_of(primary: EmbeddedServer, directory: Path) -> EmbeddedServer:
    """Returns a running standby that streams from a server, which is restarted for it."""
    primary.stop()
    standby = cold_copy(primary, directory)
    primary.start()
    follow(standby, primary)
    return standby


def follow(standby: EmbeddedServer, primary: EmbeddedServer) -> None:
    """Starts a stopped server as a standby that streams from another."""
    (standby.data_dir / "standby.signal").touch()
    with (standby.data_dir / "postgresql.auto.conf").open("a") as settings:
        settings.write(
            f"primary_conninfo = 'host={HOST} port={primary.port} user={SUPERUSER}"
            f" password={PASSWORD}'\nmax_standby_streaming_delay = 0\n"
        )
    standby.start()


def crash(server: EmbeddedServer) -> None:
    """Kills every process of a server with -9: what was only in its memory is gone."""
    postmaster = psutil.Process(server.pid)
    processes = [postmaster, *postmaster.children(recursive=True)]
    for process in processes:
        with suppress(psutil.NoSuchProcess):  # a worker may have ended by itself
            process.kill()
    psutil.wait_procs(processes, timeout=WAIT_SECONDS)
    (server.data_dir / "postmaster.pid").unlink()


def wait_for(is_so: Callable[[], bool], what: str) -> None:
    """Waits for a condition, with a limit."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not is_so():
        assert time.monotonic() < deadline, f"waited {WAIT_SECONDS:g} s for {what}"
        time.sleep(0.02)


def catch_up(primary: Database, standby: Database) -> None:
    """Waits until a standby has replayed what its primary has written by now."""
    ((lsn,),) = primary.execute("SELECT pg_current_wal_insert_lsn()")  # VACUUM flushes none
    query = "SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn"
    wait_for(lambda: bool(standby.execute(query, (lsn,))[0][0]), f"replay of {lsn}")


def skip_transactions(server: EmbeddedServer, count: int) -> None:
    """Lets a running server go on as if it had spent so many transaction ids.

    Rows keep their xmin. Every 1.5 billion all databases are frozen, as autovacuum would do.
    """
    ((now,),) = database_of(server).execute("SELECT pg_current_xact_id()::text::bigint")
    wanted = now + count
    while now < wanted:
        _freeze(server)
        now = min(now + _HOP, wanted)
        server.stop()
        _reset_next_xid(server, now)
        server.start()


def _freeze(server: EmbeddedServer) -> None:
    one = database_of(server)
    one.execute("UPDATE pg_database SET datallowconn = true")
    for (name,) in one.execute("SELECT datname FROM pg_database"):
        database_of(server, name).execute("VACUUM (FREEZE)")


def _reset_next_xid(server: EmbeddedServer, next_xid: int) -> None:
    """What pg_resetwal sets must have its page of commit states."""
    epoch, xid = divmod(next_xid, _EPOCH)
    states = server.data_dir / "pg_xact" / f"{xid // _XIDS_PER_SEGMENT:04X}"
    if not states.exists():
        states.write_bytes(bytes(_SEGMENT_BYTES))
        owner = server.data_dir.stat()
        os.chown(states, owner.st_uid, owner.st_gid)
    server._run(
        ["pg_resetwal", f"--epoch={epoch}", f"--next-transaction-id={xid}"], server.data_dir
    )
