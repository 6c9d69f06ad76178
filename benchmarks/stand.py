"""The test stand: two servers of one's own, and what a program costs both of them and itself."""

import os
import re
import shutil
import signal
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import psutil
import psycopg2

from demo.embedded_server import HOST, SUPERUSER, EmbeddedServer, bin_dir, free_ports

PASSWORD = "benchmark"  # noqa: S105 - of servers that live as long as this program
SETTINGS = {
    "shared_buffers": "1GB",
    "max_wal_size": "8GB",
    "maintenance_work_mem": "256MB",
    "autovacuum": "off",  # it would work for the one and not for the other
}
MAJOR = 18
"""The servers' version, unless another build's programs are asked for."""
PSQL = str(bin_dir(MAJOR) / "psql")
LIMIT_SECONDS = 3600
"""After so long a program that is measured is killed."""
ALONE_SECONDS = 10
_OTHERS = (
    "SELECT count(*) FROM pg_stat_activity"
    " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
)

Pipeline = Sequence[Sequence[str]]
"""Programs with their arguments; each reads what the one before writes."""


@dataclass(frozen=True)
class Cost:
    """What one way of landing a table cost."""

    seconds: float
    client_cpu_seconds: float
    peak_mib: float
    """Resident memory, each process by itself, added up."""
    servers_cpu_seconds: float
    target_wal_bytes: int


def median_cost(costs: Sequence[Cost]) -> Cost:
    """Returns the median of each figure."""
    return Cost(
        *(
            statistics.median(getattr(cost, name) for cost in costs)
            for name in Cost.__dataclass_fields__
        )
    )


@dataclass(frozen=True)
class Stand:
    """A source and a target, with the same settings."""

    directory: Path
    source: EmbeddedServer
    target: EmbeddedServer

    @property
    def source_uri(self) -> str:
        """Returns the source's address."""
        return uri_of(self.source)

    @property
    def target_uri(self) -> str:
        """Returns the target's address."""
        return uri_of(self.target)

    def ask(self, server: EmbeddedServer, statements: str) -> list[tuple[Any, ...]]:
        """Returns the rows of the last of several statements, each committed by itself."""
        connection = psycopg2.connect(uri_of(server))
        connection.autocommit = True
        try:
            with connection.cursor() as cursor:
                for statement in filter(str.strip, statements.split(";\n")):
                    cursor.execute(statement)
                return cursor.fetchall() if cursor.description else []
        finally:
            connection.close()

    @contextmanager
    def settled(self) -> Iterator[None]:
        """Lets no write-back of the one be paid by the other."""
        for server in (self.source, self.target):
            self.ask(server, "CHECKPOINT")
        yield

    def cost(
        self,
        *pipelines: Pipeline,
        after: str = "",
        environment: Mapping[str, str] = MappingProxyType({}),
    ) -> Cost:
        """Returns what pipelines beside each other cost, with statements on the target behind them.

        Raises:
            RuntimeError: If a program fails.
        """
        cpu, wal = self._servers_cpu(), self._wal()
        started = time.perf_counter()
        usages = run_beside(pipelines, {**self._environment(), **environment})
        if after:
            self.ask(self.target, after)
        seconds = time.perf_counter() - started
        self._wait_until_alone()
        return Cost(
            seconds=seconds,
            client_cpu_seconds=sum(usage.ru_utime + usage.ru_stime for usage in usages),
            peak_mib=sum(usage.ru_maxrss for usage in usages) / 1024,
            servers_cpu_seconds=self._servers_cpu() - cpu,
            target_wal_bytes=self._wal() - wal,
        )

    def _environment(self) -> dict[str, str]:
        # As installed: compiled once, not at each start.
        inherited = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
        return {
            **inherited,
            "AIRFLOW_CONN_SOURCE": self.source_uri,
            "AIRFLOW_CONN_TARGET": self.target_uri,
        }

    def _wait_until_alone(self) -> None:
        """Waits until the sessions of who just ended are gone, and counted in their postmaster."""
        for server in (self.source, self.target):
            limit = time.monotonic() + ALONE_SECONDS
            while self.ask(server, _OTHERS) != [(0,)] or _has_zombies(server):
                if time.monotonic() > limit:
                    raise RuntimeError(
                        f"port {server.port} has other sessions after {ALONE_SECONDS} s; "
                        "end whatever else uses this server"
                    )
                time.sleep(0.01)

    def _servers_cpu(self) -> float:
        """Of both servers since they started; sessions that ended count in their postmaster."""
        return sum(_tree_cpu(psutil.Process(s.pid)) for s in (self.source, self.target) if s.pid)

    def _wal(self) -> int:
        ((written,),) = self.ask(self.target, "SELECT pg_current_wal_lsn() - '0/0'::pg_lsn")
        return int(written)


@contextmanager
def stand(programs: Path | None = None) -> Iterator[Stand]:
    """Yields two new servers; they and their data are gone afterwards.

    Args:
        programs: Directory of another build's initdb, pg_ctl and postgres.
    """
    directory = Path(tempfile.mkdtemp(prefix="benchmark-"))
    directory.chmod(0o755)
    servers = []
    try:
        servers.append(new_server(directory, "source", programs))
        servers.append(new_server(directory, "target", programs))
        yield Stand(directory, *servers)
    finally:
        for server in servers:
            server.stop()
        shutil.rmtree(directory, ignore_errors=True)


def new_server(directory: Path, name: str, programs: Path | None = None) -> EmbeddedServer:
    """Returns a server that runs; whoever asked for it stops it."""
    (port,) = free_ports(1)
    server = EmbeddedServer(major_of(programs), directory / name, port, SETTINGS, programs)
    server.create(PASSWORD)
    server.start()
    return server


def major_of(programs: Path | None) -> int:
    """Returns the major version of a build.

    Raises:
        ValueError: If there is none.
    """
    if programs is None:
        return MAJOR
    try:
        asked = [str(programs / "postgres"), "--version"]
        told = subprocess.run(asked, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError) as exc:
        hint = "name a directory with initdb, pg_ctl and postgres"
        raise ValueError(f'no "postgres" runs in "{programs}": {exc}; {hint}') from exc
    if not (version := re.search(r"\(PostgreSQL\) (\d+)", told)):
        raise ValueError(f'"{programs}/postgres" is not PostgreSQL: {told.strip()}')
    return int(version[1])


def uri_of(server: EmbeddedServer) -> str:
    """Returns a server's address."""
    return f"postgresql://{SUPERUSER}:{PASSWORD}@{HOST}:{server.port}/postgres"


def run_beside(pipelines: Sequence[Pipeline], environment: dict[str, str]) -> list[Any]:
    """Runs pipelines at the same time; returns what each of their programs used.

    Raises:
        RuntimeError: If a program fails, or takes longer than the limit.
    """
    with tempfile.TemporaryFile() as said:
        running = [
            process
            for commands in pipelines
            for process in _started(commands, environment, said.fileno())
        ]
        limit = threading.Timer(LIMIT_SECONDS, _kill, [running])
        limit.daemon = True
        limit.start()
        usages = [_usage_of(process) for process in running]
        limit.cancel()
        names = [Path(command[0]).name for commands in pipelines for command in commands]
        failed = [
            _how_ended(name, process.returncode)
            for name, process in zip(names, running, strict=True)
            if process.returncode
        ]
        if failed:
            said.seek(0)
            raise RuntimeError(f"{', '.join(failed)}: {said.read().decode()[-2000:]}")
    return usages


def _how_ended(program: str, status: int) -> str:
    """How a program failed, for people."""
    if status == -signal.SIGKILL:
        return f"{program} was killed, as after {LIMIT_SECONDS} s of work"
    return f"{program} failed with {status}"


def _usage_of(process: "subprocess.Popen[bytes]") -> Any:
    """Waits for a program's end; returns what it used."""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return usage


def _kill(processes: Sequence["subprocess.Popen[bytes]"]) -> None:
    for process in processes:
        if process.returncode is None:  # not waited for yet: its number is nobody else's
            os.kill(process.pid, signal.SIGKILL)


def _started(
    commands: Pipeline, environment: dict[str, str], said: int
) -> list["subprocess.Popen[bytes]"]:
    """Starts programs, each reading what the one before writes; what the last says goes to said."""
    running: list[subprocess.Popen[bytes]] = []
    for number, command in enumerate(commands, start=1):
        process = subprocess.Popen(
            list(command),
            env=environment,
            stdin=running[-1].stdout if running else subprocess.DEVNULL,
            stdout=said if number == len(commands) else subprocess.PIPE,
            stderr=said,
        )
        if running and running[-1].stdout:
            running[-1].stdout.close()  # so that its writer notices when the reader ends
        running.append(process)
    return running


def _has_zombies(server: EmbeddedServer) -> bool:
    """Whether a server has yet to take notice of a process that ended."""
    children = psutil.Process(server.pid).children(recursive=True)
    return any(_status(child) == psutil.STATUS_ZOMBIE for child in children)


def _status(process: psutil.Process) -> str | None:
    try:
        return process.status()
    except psutil.NoSuchProcess:
        return None


def _tree_cpu(process: psutil.Process) -> float:
    own = process.cpu_times()
    children = [_own_cpu(child) for child in process.children(recursive=True)]
    return float(own.user + own.system + own.children_user + own.children_system + sum(children))


def _own_cpu(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system)
