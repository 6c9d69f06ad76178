"""Programs that outlive the command that started them, and are ended with all they started."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from demo.detached import DetachedProgram

# A program that starts another one and tells its pid; both would run for a minute.
PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print(child.pid, flush=True)
time.sleep(60)
"""


@pytest.fixture
def program(tmp_path: Path) -> Iterator[DetachedProgram]:
    program = DetachedProgram("parent", tmp_path)
    yield program
    program.stop()


def start(program: DetachedProgram) -> tuple[psutil.Process, psutil.Process]:
    """Starts it and returns it with the program it started."""
    program.start([sys.executable, "-c", PARENT], os.environ)
    deadline = time.monotonic() + 20
    while not program.log.read_text().endswith("\n"):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    pid = json.loads((program.directory / "parent.pid").read_text())["pid"]
    return psutil.Process(pid), psutil.Process(int(program.log.read_text()))


def ended(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def test_stop_ends_all_of_its_session(program: DetachedProgram) -> None:
    parent, child = start(program)
    assert program.is_running
    program.stop()
    assert ended(parent)
    assert ended(child)
    assert not program.is_running


def test_stop_ends_what_a_dead_program_left_behind(program: DetachedProgram) -> None:
    parent, child = start(program)
    parent.kill()
    parent.wait(10)
    assert not program.is_running
    assert not ended(child)
    program.stop()
    assert ended(child)


def test_stop_without_a_start_does_nothing(program: DetachedProgram) -> None:
    program.stop()
    assert not program.is_running


def test_a_stranger_with_the_recorded_pid_is_left_alone(program: DetachedProgram) -> None:
    """After a reboot the pid may be anybody's."""
    stranger = subprocess.Popen([sys.executable, "-c", PARENT], start_new_session=True)
    try:
        record = {"pid": stranger.pid, "started": psutil.Process(stranger.pid).create_time() - 60}
        (program.directory / "parent.pid").write_text(json.dumps(record))
        assert not program.is_running
        program.stop()
        assert stranger.poll() is None
    finally:
        os.killpg(stranger.pid, 9)
        stranger.wait(10)
