import socket
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from demo.embedded_server import HOST
from demo.state import State, is_connection_variable, load_or_make_state, load_state
from demo.story import run_program
from extract_load.errors import ExtractLoadError


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> State:
    """The state of a demo that was never started."""
    monkeypatch.setenv("DEMO_STATE_DIR", str(tmp_path))
    (tmp_path / "logs").mkdir()
    return load_or_make_state()


def test_what_was_written_is_read_again(state: State) -> None:
    assert load_state() == load_or_make_state() == state
    assert stat.S_IMODE(state.env_file.stat().st_mode) == 0o600


def test_no_repr_has_a_password(state: State) -> None:
    assert state.variables["POSTGRES_PASSWORD"] not in repr(state)


def test_two_demos_have_other_ports_and_passwords(
    state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEMO_STATE_DIR", str(tmp_path / "other"))
    (tmp_path / "other").mkdir()
    other = load_or_make_state()
    assert state.variables["POSTGRES_PASSWORD"] != other.variables["POSTGRES_PASSWORD"]
    assert state.source.port != state.warehouse.port


def test_a_port_that_somebody_took_meanwhile_is_given_up(state: State) -> None:
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        uri = state.variables["AIRFLOW_CONN_DIGITALOCEAN_POSTGRES"]
        both = {
            "DEMO_SOURCE_PORT": port,
            "POSTGRES_PORT": port,
            "AIRFLOW_CONN_DIGITALOCEAN_POSTGRES": uri.replace(str(state.source.port), port),
        }
        moved = replace(state, variables={**state.variables, **both}).with_free_ports()

    assert str(moved.source.port) != port != str(moved.warehouse.port)
    assert (
        f"@{HOST}:{moved.source.port}/shop"
        in moved.environment()["AIRFLOW_CONN_DIGITALOCEAN_POSTGRES"]
    )


def test_free_ports_are_kept(state: State) -> None:
    assert state.with_free_ports() == state


def test_a_step_sees_the_demos_databases_and_no_other(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shell that is set up for a production database must not lead a step there."""
    foreign = (
        "AIRFLOW_CONN_DIGITALOCEAN_POSTGRES",
        "PGPASSWORD",
        "DBT_PROFILES_DIR",
        "POSTGRES_DB",
    )
    for name in foreign:
        monkeypatch.setenv(name, "production")

    environment = state.environment()

    assert "production" not in environment.values()
    assert "PATH" in environment
    assert not [name for name in environment if name.startswith("DEMO_")], "superusers stay out"


@pytest.mark.parametrize("name", ["PATH", "HOME", "PAGER", "PIP_INDEX_URL", "AIRFLOW_HOME", "LANG"])
def test_other_variables_are_no_connections(name: str) -> None:
    assert not is_connection_variable(name)


def test_a_failing_program_ends_the_demo_with_its_own_words(
    state: State, capsys: pytest.CaptureFixture[str]
) -> None:
    script = "import sys; print('so far so good'); sys.exit('and then it broke')"
    with pytest.raises(ExtractLoadError) as caught:
        run_program(state, "try something, once", ["python", "-c", script])

    assert caught.value.primary == '"try something, once" failed with exit status 1'
    assert caught.value.detail == "so far so good\nand then it broke"
    log = state.directory / "logs" / "try-something-once.log"
    assert str(log) in caught.value.hint
    assert log.read_text() == "so far so good\nand then it broke\n"
    assert capsys.readouterr().out.split() == ["try", "something,", "once", "failed"]


def test_a_programs_output_is_returned_without_its_log_lines(state: State) -> None:
    script = "import sys; print('report'); print('log line', file=sys.stderr)"
    assert run_program(state, "try", ["python", "-c", script]) == "report"
