"""Programs that are measured: beside each other, with an end."""

import sys
import time
from pathlib import Path

import pytest

from benchmarks import stand
from demo.embedded_server import bin_dir

PYTHON = sys.executable


def test_pipelines_run_beside_each_other() -> None:
    sleeping = [[[PYTHON, "-c", "import time; time.sleep(1)"]]] * 2
    started = time.monotonic()
    assert len(stand.run_beside(sleeping, {})) == 2
    assert time.monotonic() - started < 1.9


def test_a_pipeline_hands_on_what_it_writes() -> None:
    writer = [PYTHON, "-c", "print('row')"]
    reader = [PYTHON, "-c", "import sys; sys.exit(sys.stdin.read() != 'row\\n')"]
    assert len(stand.run_beside([[writer, reader]], {})) == 2


def test_what_a_failed_program_said_is_told() -> None:
    fine, failing = [PYTHON, "-c", ""], ["/bin/sh", "-c", "echo no such table >&2; exit 3"]
    with pytest.raises(RuntimeError, match=r"^sh failed with 3: no such table"):
        stand.run_beside([[fine], [failing]], {})


def test_a_program_that_does_not_end_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stand, "LIMIT_SECONDS", 0.5)
    started = time.monotonic()
    with pytest.raises(RuntimeError, match=r"was killed, as after 0\.5 s"):
        stand.run_beside([[[PYTHON, "-c", "import time; time.sleep(60)"]]], {})
    assert time.monotonic() - started < 20


def test_another_build_tells_its_version() -> None:
    assert stand.major_of(bin_dir(16)) == 16
    assert stand.major_of(None) == stand.MAJOR


def test_a_directory_without_a_server_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r'no "postgres" runs in .*; name a directory'):
        stand.major_of(tmp_path)


def test_a_program_that_is_no_server_is_told(tmp_path: Path) -> None:
    program = tmp_path / "postgres"
    program.write_text("#!/bin/sh\necho another program")
    program.chmod(0o755)
    with pytest.raises(ValueError, match='postgres" is not PostgreSQL: another program'):
        stand.major_of(tmp_path)
