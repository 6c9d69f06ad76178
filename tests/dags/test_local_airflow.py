"""`make airflow`, `make logs` and the part of `make down` that is Airflow's."""

import json
import os
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import psutil
import pytest

from demo import shop
from demo.airflow import _refuse_broken_files, _wait_until_ready
from demo.detached import DetachedProgram
from demo.embedded_server import HOST, free_ports
from demo.state import ROOT, State, load_or_make_state, make_state_directory
from extract_load import ExtractLoadError
from tests.dags.airflow_home import DAG_ID, HYBRID_ID
from tests.support.command import Outcome

pytestmark = pytest.mark.timeout(900)  # two whole DAGs
LOAD = "digitalocean_users.extract_load"
PROGRAMS = ("api-server", "scheduler", "dag-processor")


def local_airflow(directory: Path, *arguments: str, port: str = "") -> Outcome:
    """Returns the outcome of `python -m demo.airflow`, in the state directory of a demo."""
    variables = {"DEMO_STATE_DIR": str(directory), "AIRFLOW_PORT": port}
    done = subprocess.run(
        [sys.executable, "-m", "demo.airflow", *arguments],
        env={**os.environ, **variables, "AIRFLOW__CORE__EXECUTOR": "somebody.elses"},
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def demo(servers_directory: Path) -> Iterator[State]:
    """A demo whose servers run, with a small shop in the source and an empty warehouse."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DEMO_STATE_DIR", str(servers_directory / "demo-with-airflow"))
        make_state_directory()
        state = load_or_make_state()
        servers = (state.source, state.warehouse)
        try:
            for server in servers:
                server.create(state.variables["DEMO_SUPERUSER_PASSWORD"])
                server.start()
            shop.create_source(state, 1000)
            shop.create_warehouses(state)
            yield state
        finally:
            for server in servers:
                server.stop()


def call(port: str, method: str, path: str, token: str = "", body: Any = None) -> Any:
    """Returns the JSON of Airflow's answer."""
    session = HTTPConnection(HOST, int(port), timeout=10)
    try:
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {token}"}
        session.request(method, path, json.dumps(body) if body else None, headers)
        answer = session.getresponse()
        text = answer.read()
        assert answer.status < 300, text
        return json.loads(text)
    finally:
        session.close()


def trigger(port: str, dag_id: str, token: str) -> str:
    path = f"/api/v2/dags/{dag_id}/dagRuns"
    return str(call(port, "POST", path, token, {"logical_date": None})["dag_run_id"])


def has_ended(port: str, dag_id: str, run: str, token: str) -> bool:
    found = call(port, "GET", f"/api/v2/dags/{dag_id}/dagRuns/{run}", token)
    return found["state"] in {"success", "failed"}


def task_states(port: str, dag_id: str, run: str, token: str) -> dict[str, str]:
    path = f"/api/v2/dags/{dag_id}/dagRuns/{run}/taskInstances?limit=100"
    found = call(port, "GET", path, token)
    assert found["total_entries"] == len(found["task_instances"])
    return {task["task_id"]: task["state"] for task in found["task_instances"]}


def wait_for(what: Callable[[], bool], seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.5)


def test_it_needs_the_demo(tmp_path: Path) -> None:
    outcome = local_airflow(tmp_path, "up")
    assert outcome.status == 1
    assert outcome.stderr.startswith("error: the demo is not set up")
    assert 'Run "make demo"' in outcome.stderr


def test_it_needs_the_demos_servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEMO_STATE_DIR", str(tmp_path))
    load_or_make_state()
    outcome = local_airflow(tmp_path, "up")
    assert outcome.status == 1
    assert outcome.stderr.startswith("error: the demo's servers do not run")


def test_a_port_must_be_one(demo: State) -> None:
    outcome = local_airflow(demo.directory, "up", port="http")
    assert outcome.status == 2
    assert outcome.stderr.startswith("error: AIRFLOW_PORT is no port")


def test_a_busy_port_is_told_before_anything_is_done(demo: State) -> None:
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        outcome = local_airflow(demo.directory, "up", port=port)
    assert outcome.status == 1
    assert outcome.stderr.startswith(f"error: port {port} is in use")
    assert "AIRFLOW_PORT=" in outcome.stderr
    assert outcome.stdout == ""


def test_a_warehouse_that_refuses_is_told(demo: State) -> None:
    (free,) = free_ports(1)
    wrong = {**demo.variables, "DEMO_SUPERUSER_PASSWORD": "geheim"}
    try:
        replace(demo, variables=wrong).save()
        outcome = local_airflow(demo.directory, "up", port=str(free))
    finally:
        demo.save()
    assert outcome.status == 1
    assert outcome.stderr.startswith("error: the demo's warehouse refused\ndetail: ")
    assert "geheim" not in outcome.stderr


def test_a_program_that_ends_at_once_is_told_with_its_log(demo: State) -> None:
    (free,) = free_ports(1)
    program = DetachedProgram("scheduler", demo.directory / "logs")
    program.log.write_text("Traceback ...\nno such table: job\n")
    with pytest.raises(ExtractLoadError, match="did not come up: scheduler ended") as raised:
        _wait_until_ready(demo, free, [program])
    assert raised.value.detail.endswith("no such table: job")
    assert raised.value.hint.startswith(f"All of it is in {program.log}; ")


def test_a_dag_file_that_cannot_be_read_is_told() -> None:
    found = {"import_errors": [{"filename": "a.py", "stack_trace": "ConfigError: error: no"}]}
    with pytest.raises(ExtractLoadError) as raised:
        _refuse_broken_files(found)
    assert raised.value.primary == 'Airflow cannot read the DAG file "a.py"'
    assert raised.value.detail == "ConfigError: error: no"


def test_down_without_anything_to_stop(tmp_path: Path) -> None:
    assert local_airflow(tmp_path, "down") == Outcome(0, "", "")


def test_it_runs_the_dag_shows_a_log_and_leaves_nothing_behind(demo: State) -> None:
    (free,) = free_ports(1)
    port = str(free)
    home = demo.directory / "airflow"
    try:
        up = local_airflow(demo.directory, "up", port=port)
        assert up.status == 0, up.stdout + up.stderr
        assert f"http://localhost:{port}\n" in up.stdout
        again = local_airflow(demo.directory, "up", port=port)
        assert again == Outcome(0, up.stdout[up.stdout.index("\nAirflow: ") :], "")
        sessions = [json.loads((home / f"{name}.pid").read_text())["pid"] for name in PROGRAMS]

        password = json.loads((home / "passwords.json").read_text())["admin"]
        login = {"username": "admin", "password": password}
        token = call(port, "POST", "/auth/token", body=login)["access_token"]
        runs = f"/api/v2/dags/{DAG_ID}/dagRuns"
        assert call(port, "GET", runs, token)["total_entries"] == 0  # starting runs nothing
        run = call(port, "POST", runs, token, {"logical_date": None})["dag_run_id"]
        both = {DAG_ID: run, HYBRID_ID: trigger(port, HYBRID_ID, token)}
        wait_for(lambda: all(has_ended(port, *one, token) for one in both.items()), seconds=500)
        states = {one: task_states(port, one, both[one], token) for one in both}
        assert {one: set(found.values()) for one, found in states.items()} == {
            one: {"success"} for one in both
        }, states
        assert LOAD in states[DAG_ID]
        assert "snap_digitalocean__users_local.snapshot" in states[HYBRID_ID]
        pool = call(port, "GET", "/api/v2/pools/source_digitalocean_postgres", token)
        assert pool["slots"] == 4

        lines = local_airflow(demo.directory, "logs", DAG_ID, LOAD).stdout.splitlines()
        assert [line for line in lines if " INFO  published run=" in line and " rows=60 " in line]
        assert [line for line in lines if line.endswith(" done")]
        assert not [line for line in lines if "::group::" in line or "task_id=" in line]
        of_run = local_airflow(demo.directory, "logs", DAG_ID, LOAD, run)
        assert of_run.stdout.splitlines() == lines
    finally:
        down = local_airflow(demo.directory, "down")
    assert down.status == 0, down.stderr
    wait_for(lambda: not members_of(sessions), seconds=5)
    for secret in ("passwords.json", "secrets.json"):
        assert stat.S_IMODE((home / secret).stat().st_mode) == 0o600
    assert_no_secret_is_logged(demo, password)


def assert_no_secret_is_logged(demo: State, password: str) -> None:
    secrets = json.loads((demo.directory / "airflow" / "secrets.json").read_text()).values()
    known = [value for name, value in demo.variables.items() if name.endswith("PASSWORD")]
    logs = [*demo.directory.glob("airflow/*.log"), *demo.directory.rglob("logs/**/*.log")]
    assert len(logs) > len(PROGRAMS)
    for log in logs:
        text = log.read_text(errors="replace")
        assert not [secret for secret in (password, *secrets, *known) if secret in text], log


def members_of(sessions: list[int]) -> list[psutil.Process]:
    return [p for p in psutil.process_iter() if p.pid in sessions or _session(p.pid) in sessions]


def _session(pid: int) -> int:
    try:
        return os.getsid(pid)
    except OSError:
        return 0


@pytest.mark.parametrize("arguments", [(), (DAG_ID,)])
def test_a_log_needs_both_names(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    outcome = local_airflow(tmp_path, "logs", *arguments)
    assert outcome.status == 2
    assert outcome.stderr.startswith("error: which task's log?")
    assert f"make logs DAG={DAG_ID} TASK={LOAD}" in outcome.stderr
