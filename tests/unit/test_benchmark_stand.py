"""Programs that are measured: beside each other, with an end."""

import sys
import time

import pytest

from benchmarks import stand

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
