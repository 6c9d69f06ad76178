"""What the demo does, step by step: coming up, a day passing, going down."""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from demo import shop
from demo.state import ROOT, State, load_or_make_state, load_state, servers_in, state_directory
from extract_load.errors import ConfigError, ExtractLoadError

DEFAULT_ROWS = 200_000
_STEP_LIMIT_SECONDS = 900
_DBT_PROJECT = ROOT / "dbt_project"


def up() -> None:
    """Brings the demo up, or goes on from what stands, and lands what changed meanwhile."""
    rows = _rows_asked()
    state = load_or_make_state()
    with _step("start PostgreSQL 16 (source) and 18 (warehouse)"):
        state = _start(state)
    with _step(f"fill the source with about {rows} rows, unless it is"):
        shop.create_source(state, rows)
        shop.create_warehouses(state)
    report = _extract_load(state, "extract-load run")
    _build_models(state)
    _generate_docs(state)
    print(f"\n{report}\n")
    print(_next(state))


def day() -> None:
    """Lets a day pass in the source and lands it, with a transaction that commits late."""
    state = load_state()
    with _step("start the servers, unless they run"):
        state = _start(state)
    morning = shop.warehouse_time(state)
    with shop.late_transaction(state) as late:
        with _step("a day passes; one transaction stays open"):
            shop.pass_day(state)
        first = _extract_load(state, "extract-load run, without the open transaction")
        late.commit()
    second = _extract_load(state, "extract-load run, after its late commit")
    _build_models(state)
    _generate_docs(state)
    print(f"\nThe day:\n{first}\n\nThe late commit (one order, two lines, one event):\n{second}\n")
    print("What was loaded today; the other rows keep their _loaded_at:")
    for table in shop.touched_since(state, morning):
        print(f"  {table.table:<34} {table.touched:>8} of {table.rows} rows")


def docs() -> None:
    """Writes the dbt docs site of the warehouse as it is now."""
    state = load_state()
    with _step("start the servers, unless they run"):
        state = _start(state)
    _generate_docs(state)
    print(_docs_page(state).as_uri())


def down() -> None:
    """Stops the servers of this checkout; their data stays."""
    for server in servers_in(state_directory()):
        if server.pid:
            with _step(f"stop PostgreSQL {server.major}"):
                server.stop()


def clean() -> None:
    """Stops the servers and removes everything the demo keeps."""
    down()
    directory = state_directory()
    if directory.exists():
        shutil.rmtree(directory)
        print(f"removed {_shown(directory)}")


def _rows_asked() -> int:
    asked = os.environ.get("DEMO_ROWS") or str(DEFAULT_ROWS)
    if not asked.isascii() or not asked.isdigit() or not 100 <= int(asked) <= 100_000_000:
        raise ConfigError(
            "DEMO_ROWS is no number of rows",
            f'It is "{asked}".',
            "Set it to a whole number from 100 to 100000000, or leave it out for 200000.",
        )
    return int(asked)


def _start(state: State) -> State:
    """Creates and starts what is missing; returns where the servers listen now."""
    state = state.with_free_ports()
    state.save()
    for server in (state.source, state.warehouse):
        if not server.is_created:
            server.create(state.variables["DEMO_SUPERUSER_PASSWORD"])
        server.start()
    return state


def _build_models(state: State) -> None:
    run_program(state, "dbt build", ["dbt", "build", *_dbt_options(state)])


def _generate_docs(state: State) -> None:
    command = ["dbt", "docs", "generate", "--static", *_dbt_options(state)]
    run_program(state, "dbt docs generate", command)
    (state.directory / "docs").mkdir(exist_ok=True)
    shutil.copyfile(state.directory / "dbt" / "static_index.html", _docs_page(state))


def _dbt_options(state: State) -> list[str | Path]:
    return [
        "--no-use-colors",
        "--project-dir", _DBT_PROJECT,
        "--profiles-dir", ROOT / "profiles",
        "--target-path", state.directory / "dbt",
        "--log-path", state.directory / "logs",
    ]  # fmt: skip


def _extract_load(state: State, title: str) -> str:
    """Returns the run report."""
    options: list[str | Path] = ["--project-dir", _DBT_PROJECT, "--env-file", state.env_file]
    return run_program(state, title, ["extract-load", "run", *options])


def run_program(state: State, title: str, command: Sequence[str | Path]) -> str:
    """Runs one of the programs of this environment and returns its output; the log has it too."""
    log = state.directory / "logs" / (re.sub(r"[^\w]+", "-", title) + ".log")
    program = Path(sys.executable).with_name(str(command[0]))
    with _step(title):
        try:
            done = subprocess.run(
                [program, *command[1:]],
                cwd=ROOT,
                env=state.environment(),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=_STEP_LIMIT_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired as exc:
            raise ExtractLoadError(
                f'"{title}" took longer than {_STEP_LIMIT_SECONDS} s and was ended'
            ) from exc
        log.write_text(done.stdout + done.stderr)
        if done.returncode:
            raise ExtractLoadError(
                f'"{title}" failed with exit status {done.returncode}',
                "\n".join((done.stdout + done.stderr).strip().splitlines()[-20:]),
                f"All of its output is in {_shown(log)}.",
            )
    return done.stdout.strip()


@contextmanager
def _step(title: str) -> Iterator[None]:
    """Prints one line for a step: what it is, and how long it took once it is done."""
    started = time.monotonic()
    print(f"{title:<56}", end=" ", flush=True)
    try:
        yield
    except BaseException:
        print("failed", flush=True)
        raise
    print(f"{time.monotonic() - started:6.1f} s", flush=True)


def _docs_page(state: State) -> Path:
    return state.directory / "docs" / "index.html"


def _next(state: State) -> str:
    env_file = _shown(state.env_file)
    return f"""\
Three things to look at next:
  1. the models, their columns and their tests: {_docs_page(state).as_uri()}
  2. what was landed, and when:                 .venv/bin/extract-load status --env-file {env_file}
  3. a day passing in the source:               make demo-day

The servers run until "make down"."""


def _shown(path: Path) -> str:
    """Returns a path as short as it can be from the checkout."""
    return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)


COMMANDS: dict[str, Callable[[], None]] = {
    "up": up,
    "day": day,
    "docs": docs,
    "down": down,
    "clean": clean,
}
