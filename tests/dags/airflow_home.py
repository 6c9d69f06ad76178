"""An Airflow of its own: a home directory, a SQLite database, the repository's DAGs."""

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tests.support.command import Outcome

ROOT = Path(__file__).resolve().parents[2]
DAGS = ROOT / "dags"
DAG_ID = "digitalocean_data_copy_dag"
HYBRID_ID = "hybrid_data_copy_dag"

_BUSY = 3
"""How much longer than a quiet machine one may take that runs other tests beside."""


@dataclass(frozen=True)
class DagFolder:
    """What Airflow finds in a folder of DAG files."""

    import_errors: Mapping[str, str]
    """By file name."""
    touched: list[str]
    """What parsing looked up or connected to: databases, servers, Variables, Connections."""
    cpu_seconds: float
    """What parsing cost, imports aside."""
    yardstick_seconds: float
    """What a fixed piece of plain Python took just before, CPU too."""
    dags: Mapping[str, Any]
    """Each DAG with its tasks."""

    @property
    def tasks(self) -> dict[str, dict[str, Any]]:
        """The tasks of our DAG, by id."""
        return dict(self.dags[DAG_ID]["tasks"])


def airflow_variables(home: Path) -> dict[str, str]:
    """Returns the variables that keep an Airflow within its home, and quiet."""
    return {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(DAGS),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__COSMOS__CACHE_DIR": str(home / "cosmos"),
        "AIRFLOW__COSMOS__ENABLE_TELEMETRY": "False",
    }


@dataclass(frozen=True)
class AirflowHome:
    """Where an Airflow lives, and the environment its programs get."""

    directory: Path
    manifest: Path
    variables: Mapping[str, str] = field(default_factory=dict)

    @property
    def dags_folder(self) -> Path:
        """Where it looks for DAGs."""
        return Path(self.environment()["AIRFLOW__CORE__DAGS_FOLDER"])

    def airflow(self, *arguments: str, timeout: float = 60) -> Outcome:
        """Returns the outcome of an `airflow` command.

        Args:
            arguments: What stands behind `airflow`.
            timeout: Seconds it may take.
        """
        return self._run([program_path("airflow"), *arguments], timeout)

    def with_variables(self, **variables: str) -> "AirflowHome":
        """Returns the same home, with more variables in its environment."""
        return replace(self, variables={**self.variables, **variables})

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """Returns what its own database answers."""
        with closing(sqlite3.connect(self.directory / "airflow.db")) as session:
            return session.execute(query).fetchall()

    def states(self, dag_id: str) -> dict[str, str]:
        """Returns how each task of a DAG ended that has run once."""
        query = f"SELECT task_id, state FROM task_instance WHERE dag_id = '{dag_id}'"
        return dict(self.rows(query))

    def shell(self, commands: str) -> Outcome:
        """Returns the outcome of commands; the first that fails ends them."""
        path = f'PATH="{Path(sys.executable).parent}:$PATH"\n'
        return self._run(["/bin/sh", "-ec", path + commands], timeout=60)

    def python(self, program: str, timeout: float = 60) -> Outcome:
        """Returns the outcome of a Python program beside this Airflow.

        Args:
            program: Its text. It finds `common` as DAG files do.
            timeout: Seconds it may take.
        """
        path = f"import sys; sys.path.append({str(DAGS)!r})\n"
        return self._run([sys.executable, "-c", path + program], timeout)

    def read_dags(self, folder: Path = DAGS) -> DagFolder:
        """Returns what Airflow finds in a folder of DAG files; what parsing touches is refused."""
        script = Path(__file__).with_name("read_dags.py")
        outcome = self._run([sys.executable, script, folder], timeout=60)
        assert outcome.status == 0, outcome.stderr
        return DagFolder(**json.loads(outcome.stdout.splitlines()[-1]))

    def _run(self, command: list[str | Path], timeout: float) -> Outcome:
        done = subprocess.run(
            command,
            env=self.environment(),
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout * _BUSY,
            check=False,
        )
        return Outcome(done.returncode, done.stdout, done.stderr)

    def environment(self) -> dict[str, str]:
        """Returns what its programs find in their environment."""
        kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
        return {
            **kept,
            **airflow_variables(self.directory),
            "DO_NOT_TRACK": "1",
            "NO_COLOR": "1",
            "HOME": str(self.directory),
            "TMPDIR": str(self.directory),
            "EXTRACT_LOAD_MANIFEST": str(self.manifest),
            **self.variables,
        }


def program_path(name: str) -> Path:
    """Returns where a program of this Python's environment is."""
    return Path(sys.executable).with_name(name)
