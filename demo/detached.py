"""Programs that go on running after the command that started them, until they are stopped.

Each leads a session of its own: whatever it starts belongs to that session and ends with it.
"""

import json
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

_SECONDS_TO_END = 20


@dataclass(frozen=True)
class DetachedProgram:
    """A program by its name, and the directory that holds its log and the record of its pid."""

    name: str
    directory: Path

    @property
    def log(self) -> Path:
        """What it prints."""
        return self.directory / f"{self.name}.log"

    @property
    def is_running(self) -> bool:
        """Returns whether the recorded process runs."""
        leader = self._leader()
        return leader is not None and _runs(leader)

    def start(self, command: Sequence[str | Path], environment: Mapping[str, str]) -> None:
        """Starts the program.

        Args:
            command: Its path and its arguments.
            environment: All of its environment.
        """
        with self.log.open("wb") as log:
            process = subprocess.Popen(
                command,
                cwd=self.directory,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        started = psutil.Process(process.pid).create_time()
        self._record.write_text(json.dumps({"pid": process.pid, "started": started}))

    def stop(self) -> None:
        """Ends the program and its whole session; if asking does not help, by force."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            members = self._session()
            for member in members:
                _send(member, number)
            psutil.wait_procs(members, _SECONDS_TO_END)
        self._record.unlink(missing_ok=True)

    @property
    def _record(self) -> Path:
        return self.directory / f"{self.name}.pid"

    def _leader(self) -> psutil.Process | None:
        """The recorded process; its pid alone may be a stranger's by now."""
        try:
            record = json.loads(self._record.read_text())
            process = psutil.Process(record["pid"])
        except (FileNotFoundError, psutil.NoSuchProcess):
            return None
        return process if process.create_time() == record["started"] else None

    def _session(self) -> list[psutil.Process]:
        """The running processes of the session; as long as there is one, its id is not reused."""
        if not self._record.exists():
            return []
        session = json.loads(self._record.read_text())["pid"]
        if psutil.pid_exists(session) and self._leader() is None:
            return []  # the pid is a stranger's, so the session has ended
        return [each for each in psutil.process_iter() if _session_of(each) == session]


def _session_of(process: psutil.Process) -> int | None:
    try:
        return os.getsid(process.pid) if _runs(process) else None
    except (psutil.Error, OSError):  # it has ended meanwhile, or it is somebody else's
        return None


def _runs(process: psutil.Process) -> bool:
    return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)


def _send(process: psutil.Process, number: int) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return
