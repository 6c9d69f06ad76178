"""`python -m demo.airflow up|down|logs`: a local Airflow over the demo's two servers."""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

import psycopg2

from demo.airflow_settings import DAG, USER, home, passwords_file, port_asked, with_airflow
from demo.detached import DetachedProgram
from demo.embedded_server import HOST, is_free
from demo.state import ROOT, State, load_state, state_directory
from demo.story import run_program
from demo.task_log import last_attempt, plain_lines
from extract_load.errors import ExtractLoadError

_READY_SECONDS = 180
_PROGRAMS = {
    "api-server": ["api-server"],
    # Logs are read from the disk: no second web server, on a port another checkout may hold.
    "scheduler": ["scheduler", "--skip-serve-logs"],
    "dag-processor": ["dag-processor"],
}


def up() -> None:
    """Starts Airflow and waits until it has read the DAG; one that runs is left alone."""
    state, port = load_state(), port_asked()
    programs = _programs(state.directory)
    if not (state.source.pid and state.warehouse.pid):
        raise ExtractLoadError(
            "the demo's servers do not run",
            "Airflow needs both the source and the warehouse, which also holds its own database.",
            'Run "make demo".',
        )
    if all(program.is_running for program in programs):
        print(_next(home(state.directory)))
        return
    _stop(programs)
    if not is_free(port):
        raise ExtractLoadError(
            f"port {port} is in use",
            f"Airflow's web interface could not listen on {HOST}:{port}.",
            "Stop what listens there, or take another port: AIRFLOW_PORT=8090 make airflow",
        )
    state = with_airflow(state, port)
    _port_file(home(state.directory)).write_text(str(port))
    _prepare(state)
    airflow = Path(sys.executable).with_name("airflow")
    try:
        for program in programs:
            program.start([airflow, *_PROGRAMS[program.name]], state.environment())
        _wait_until_ready(state, port, programs)
    except BaseException:
        _stop(programs)
        raise
    print(_next(home(state.directory)))


def down() -> None:
    """Stops Airflow, with whatever task it is running; its database and its logs stay."""
    _stop(_programs(state_directory()))


def logs(dag: str, task: str, run: str) -> None:
    """Prints the log of a task's last attempt."""
    for line in plain_lines(last_attempt(home(state_directory()) / "logs", dag, task, run)):
        print(line)


def _prepare(state: State) -> None:
    """Everything Airflow finds when it starts: the DAG's manifest, its tables, the pools."""
    dbt_options: list[str | Path] = [
        "--no-use-colors",
        "--project-dir", ROOT / "dbt_project",
        "--profiles-dir", ROOT / "profiles",
        "--target-path", Path(state.variables["EXTRACT_LOAD_MANIFEST"]).parent,
        "--log-path", state.directory / "logs",
    ]  # fmt: skip
    run_program(state, "dbt parse", ["dbt", "parse", *dbt_options])
    run_program(state, "airflow db migrate", ["airflow", "db", "migrate"])
    pools = ROOT / "dags" / "pools.json"
    run_program(state, "airflow pools import", ["airflow", "pools", "import", pools])


def _wait_until_ready(state: State, port: int, programs: Sequence[DetachedProgram]) -> None:
    """Waits until Airflow is healthy and has read the DAG."""
    print(f"{'start Airflow and wait until it has read the DAG':<56}", end=" ", flush=True)
    started = time.monotonic()
    try:
        while not _is_ready(state, port):
            _refuse_to_wait(programs, time.monotonic() - started)
            time.sleep(0.5)
    except BaseException:
        print("failed", flush=True)
        raise
    print(f"{time.monotonic() - started:6.1f} s", flush=True)


def _refuse_to_wait(programs: Sequence[DetachedProgram], seconds: float) -> None:
    """Raises when Airflow cannot become ready any more, or has had time enough."""
    ended = [program for program in programs if not program.is_running]
    if not ended and seconds < _READY_SECONDS:
        return
    what = f"{ended[0].name} ended" if ended else f"not ready within {_READY_SECONDS} s"
    log = (ended or programs)[0].log
    raise ExtractLoadError(
        f"Airflow did not come up: {what}",
        "\n".join(log.read_text(errors="replace").strip().splitlines()[-20:]),
        f"All of it is in {_shown(log)}; the logs of the other programs lie beside it.",
    )


def _is_ready(state: State, port: int) -> bool:
    try:
        health = _call(port, "GET", "/api/v2/monitor/health")
        if any(health[part]["status"] != "healthy" for part in ("scheduler", "dag_processor")):
            return False
        password = json.loads(passwords_file(home(state.directory)).read_text())[USER]
        login = {"username": USER, "password": password}
        token = _call(port, "POST", "/auth/token", body=login)["access_token"]
        _refuse_broken_files(_call(port, "GET", "/api/v2/importErrors", token=token))
        return bool(_call(port, "GET", f"/api/v2/dags/{DAG}", token=token))
    except (OSError, HTTPException, KeyError):  # not listening yet, or no such answer yet
        return False


def _refuse_broken_files(found: Any) -> None:
    for problem in found["import_errors"]:
        raise ExtractLoadError(
            f'Airflow cannot read the DAG file "{problem["filename"]}"',
            problem["stack_trace"].strip(),
            'Mend it, then run "make airflow" again.',
        )


def _call(port: int, method: str, path: str, token: str = "", body: Any = None) -> Any:
    """Returns the JSON of an answer, or nothing when it was refused."""
    session = HTTPConnection(HOST, port, timeout=10)
    try:
        headers = {"Content-Type": "application/json"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        session.request(method, path, body=json.dumps(body) if body else None, headers=headers)
        answer = session.getresponse()
        text = answer.read()
        return json.loads(text) if answer.status < 300 else {}
    finally:
        session.close()


def _programs(directory: Path) -> list[DetachedProgram]:
    return [DetachedProgram(name, home(directory)) for name in _PROGRAMS]


def _stop(programs: Sequence[DetachedProgram]) -> None:
    for program in reversed(programs):
        program.stop()


def _shown(path: Path) -> str:
    return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)


def _port_file(airflow_home: Path) -> Path:
    """Where the port is kept that a running Airflow listens on."""
    return airflow_home / "port"


def _next(airflow_home: Path) -> str:
    return f"""
Airflow: http://localhost:{_port_file(airflow_home).read_text()}
  log in as {USER}; the password is in {_shown(passwords_file(airflow_home))}
  {DAG} runs at 02:00 in Seoul, hybrid_data_copy_dag at 02:30;
  their trigger buttons run them now
  a task's log:  make logs DAG={DAG} TASK=digitalocean_users.extract_load
It runs until "make down"."""


def main() -> int:
    """Runs one command and returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m demo.airflow", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("up", help=up.__doc__)
    commands.add_parser("down", help=down.__doc__)
    of_task = commands.add_parser("logs", help=logs.__doc__)
    for name in ("dag", "task", "run"):
        of_task.add_argument(name, nargs="?", default="")
    arguments = vars(parser.parse_args())
    steps: dict[str, Callable[..., None]] = {"up": up, "down": down, "logs": logs}
    try:
        steps[arguments.pop("command")](**arguments)
    except KeyboardInterrupt:
        return 130
    except (ExtractLoadError, psycopg2.Error) as exc:
        error = exc
        if not isinstance(error, ExtractLoadError):
            error = ExtractLoadError("the demo's warehouse refused", str(exc).strip())
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    for variable in [name for name in os.environ if name.startswith("AIRFLOW_")]:
        if variable != "AIRFLOW_PORT":
            del os.environ[variable]  # another Airflow's, out of the user's shell
    sys.exit(main())
