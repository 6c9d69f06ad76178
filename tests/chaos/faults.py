"""What goes wrong in the middle of a run."""

import os
import random
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psycopg2

from demo.embedded_server import EmbeddedServer
from tests.chaos.bank import TABLE
from tests.support.own_servers import crash
from tests.support.proxy import Wire
from tests.support.servers import Database

Process = subprocess.Popen[bytes]
LIMIT_SECONDS = 90.0


@dataclass
class Scene:
    """Where a fault happens."""

    source: Database
    target: Database
    source_server: EmbeddedServer
    target_server: EmbeddedServer
    source_wire: Wire
    target_wire: Wire
    start: Callable[[], Process]
    chance: random.Random

    def begin(self) -> Process:
        """Starts a run, and mostly returns when it is at work: a machine may be slow to start it.

        From then on moments are counted.
        """
        process = self.start()
        if self.chance.random() < 0.9:
            limit = time.monotonic() + LIMIT_SECONDS
            while process.poll() is None and not self.target.execute(_AT_WORK):
                assert time.monotonic() < limit, "the run does not begin"
                time.sleep(0.03)
        return process

    def sleep(self, most: float = 1.2) -> None:
        """Lets a part of a run happen; a refresh that reads changes is over soon."""
        time.sleep(most * self.chance.random() ** 2)


_AT_WORK = "SELECT 1 FROM pg_stat_activity WHERE application_name LIKE 'extract-load%'"


Fault = Callable[[Scene], list[Process]]
"""Starts runs and harms them; returns those that may still work."""


def client_kill(scene: Scene) -> list[Process]:
    """Kill -9 of the client."""
    process = scene.begin()
    scene.sleep()
    process.kill()
    return [process]


def client_terminate(scene: Scene) -> list[Process]:
    """SIGTERM, as a scheduler sends it."""
    process = scene.begin()
    scene.sleep()
    process.terminate()
    return [process]


def worker_terminate(scene: Scene) -> list[Process]:
    """An administrator ends sessions of the run, on both sides."""
    process = scene.begin()
    for _ in range(3):
        scene.sleep(0.6)
        side = scene.chance.choice([scene.source, scene.target])
        side.execute(
            "SELECT pg_terminate_backend(pid) FROM (SELECT pid FROM pg_stat_activity"
            " WHERE application_name LIKE 'extract-load%' ORDER BY random() LIMIT 1) AS one"
        )
    return [process]


def source_restart(scene: Scene) -> list[Process]:
    """The source crashes and comes back."""
    return _restarted(scene, scene.source_server)


def target_restart(scene: Scene) -> list[Process]:
    """The target crashes and comes back: unlogged tables are empty then."""
    return _restarted(scene, scene.target_server)


def _restarted(scene: Scene, server: EmbeddedServer) -> list[Process]:
    process = scene.begin()
    scene.sleep()
    crash(server)
    server.start()
    return [process]


def source_wire_cut(scene: Scene) -> list[Process]:
    """The wire to the source is cut at some byte."""
    scene.source_wire.cut_after = scene.chance.randrange(1, 900_000)
    return [scene.start()]


def target_wire_cut(scene: Scene) -> list[Process]:
    """The wire to the target is cut at some byte of its answers."""
    scene.target_wire.cut_after = scene.chance.randrange(1, 60_000)
    return [scene.start()]


def commit_answer_lost(scene: Scene) -> list[Process]:
    """A COMMIT arrives, its answer does not."""
    scene.target_wire.lose_commit = scene.target_wire.commits + scene.chance.randrange(1, 40)
    return [scene.start()]


def two_runs(scene: Scene) -> list[Process]:
    """A scheduler starts a second copy."""
    first = scene.begin()
    scene.sleep(0.5)
    return [first, scene.start()]


def zombie(scene: Scene) -> list[Process]:
    """A client is stopped, its lease expires and is taken over; then it wakes."""
    first = scene.begin()
    scene.sleep()
    first.send_signal(signal.SIGSTOP)
    with suppress(psycopg2.errors.UndefinedTable):
        scene.target.execute(
            "UPDATE extract_load.leases SET heartbeat_at = now() - interval '1 minute'"
        )
    second = scene.start()
    scene.sleep()
    first.send_signal(signal.SIGCONT)
    return [first, second]


def vacuum_full(scene: Scene) -> list[Process]:
    """Between crash and resume rows move and keep their xmin."""
    ended = client_kill(scene)
    scene.source.execute(f"VACUUM FULL {TABLE}")
    return ended


def truncate(scene: Scene) -> list[Process]:
    """Between crash and resume the table is emptied and filled again."""
    ended = client_kill(scene)
    scene.source.execute(
        f"BEGIN; CREATE TEMP TABLE kept ON COMMIT DROP AS SELECT * FROM {TABLE}; TRUNCATE {TABLE};"
        f"INSERT INTO {TABLE} SELECT * FROM kept ORDER BY random(); COMMIT"
    )
    return ended


def full_disk(scene: Scene) -> list[Process]:
    """The target's disk is full for a while."""
    with small_disk(scene.target, scene.target_server.data_dir):
        return _waited([scene.start()])


def _waited(processes: list[Process]) -> list[Process]:
    for process in processes:
        process.wait(LIMIT_SECONDS)
    return processes


@contextmanager
def small_disk(target: Database, near: Path) -> Iterator[None]:
    """New tables go to a disk of 512 KiB, for as long as the block lasts."""
    place = Path(tempfile.mkdtemp(prefix="extract-load-disk-"))
    place.chmod(0o755)  # the server's user has to get there
    _as_root("mount", "-t", "tmpfs", "-o", "size=512k,mode=0755", "tmpfs", str(place))
    inside = place / "tables"
    inside.mkdir()
    owner = near.stat()
    os.chown(inside, owner.st_uid, owner.st_gid)
    name = f"small_{target.name}"
    target.execute(f"CREATE TABLESPACE {name} LOCATION '{inside}'")
    target.execute(f"ALTER DATABASE {target.name} SET default_tablespace = {name}")
    try:
        yield
    finally:
        target.execute(f"ALTER DATABASE {target.name} RESET default_tablespace")
        _move_away(target, name)
        target.execute(f"DROP TABLESPACE {name}")
        _as_root("umount", str(place))
        place.rmdir()


def _as_root(program: str, *arguments: str) -> None:
    found = shutil.which(program)
    assert found is not None
    subprocess.run([found, *arguments], check=True)


def _move_away(target: Database, tablespace: str) -> None:
    """What landed there in the meantime goes where there is space."""
    for kind in ("TABLE", "INDEX"):
        target.execute(f"ALTER {kind} ALL IN TABLESPACE {tablespace} SET TABLESPACE pg_default")


FAULTS: dict[str, Fault] = {
    fault.__name__.replace("_", " "): fault
    for fault in (
        client_kill,
        client_terminate,
        worker_terminate,
        source_restart,
        target_restart,
        source_wire_cut,
        target_wire_cut,
        commit_answer_lost,
        two_runs,
        zombie,
        vacuum_full,
        truncate,
    )
}
if os.geteuid() == 0:  # only root may mount a disk of its own
    FAULTS["full disk"] = full_disk
