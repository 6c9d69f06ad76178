"""The guide, and what its examples need: a shop with many users, and two warehouses."""

import itertools
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from airflow.sdk.execution_time.context import OutletEventAccessors

from demo.embedded_server import EmbeddedServer
from demo.shop import fill
from tests.dags.airflow_home import DAGS, ROOT, AirflowHome
from tests.dags.code_blocks import Page
from tests.support.command import PROGRAM, Outcome, clean_environment
from tests.support.landing import environment
from tests.support.servers import Database, fresh_database

GUIDE = Page(ROOT / "docs" / "ko" / "guide.md")
CONNECTION_TEST = "ConnectionManager.test_connection("
DAG_CONFIG = "DAGConfigManager.get_dag_config("
CONNECTION_INFO = "print(f\"Host: {conn_info['host']}\")"
METADATA = "ConnectionManager.get_connection_metadata("
CALLS = (CONNECTION_TEST, DAG_CONFIG, CONNECTION_INFO, METADATA)

USERS = 60_000
_runs = itertools.count(1)
PATH = f"{PROGRAM.parent}{os.pathsep}{os.environ['PATH']}"
_MORE_USERS = f"""
INSERT INTO users (public_id, email, status, balance, is_subscribed, tags, created_at, updated_at)
SELECT gen_random_uuid(), 'more' || i || '@example.com',
    CASE i % 3 WHEN 0 THEN 'closed' ELSE 'active' END::user_status, i, false, '{{}}',
    timestamptz '2023-07-01' + i * interval '10 minutes', timestamptz '2025-01-01'
FROM generate_series(1, {USERS} - (SELECT count(*) FROM users)) AS i;
ANALYZE users
"""


@dataclass(frozen=True)
class GuideShop:
    """The guide's three databases."""

    digitalocean: Database
    warehouse: Database
    fs2: Database

    @property
    def variables(self) -> dict[str, str]:
        """The variables that name them."""
        return {
            **environment(self.digitalocean, self.warehouse),
            "AIRFLOW_CONN_FS2_POSTGRES": self.fs2.uri,
        }

    def change_users(self) -> None:
        """Updates some users and adds one, as an application does."""
        self.digitalocean.execute(
            "UPDATE users SET full_name = coalesce(full_name, '') || '!', updated_at = now()"
            " WHERE id % 5000 = 7"
        )
        self.digitalocean.execute(
            "INSERT INTO users (public_id, email, status, balance, is_subscribed, tags, created_at,"
            " updated_at) VALUES (gen_random_uuid(), 'new@example.com', 'active', 0, true, '{}',"
            " now(), now())"
        )


@contextmanager
def guide_shop(source: EmbeddedServer, target: EmbeddedServer) -> Iterator[GuideShop]:
    """Yields the databases: the shop, an empty warehouse, and prices in the second one."""
    with (
        fresh_database(source, "shop") as digitalocean,
        fresh_database(target, "dwh") as warehouse,
        fresh_database(target, "fs2") as fs2,
    ):
        with closing(digitalocean.connect()) as session:
            fill(session, 1000)
        digitalocean.execute(_MORE_USERS)
        fs2.execute(
            "CREATE TABLE prices AS SELECT i AS id, i / 7.0 AS price FROM generate_series(1, 99) i"
        )
        fs2.execute("ALTER TABLE prices ADD PRIMARY KEY (id)")
        yield GuideShop(digitalocean, warehouse, fs2)


def with_dags(home: AirflowHome, **files: str | Path) -> AirflowHome:
    """Returns an Airflow with a folder of its own for DAGs, each by its id.

    Args:
        home: The Airflow.
        files: The text of a DAG file, or one of the project's.
    """
    folder = Path(tempfile.mkdtemp(prefix="dags-", dir=home.directory))
    (folder / "common").symlink_to(DAGS / "common")
    (folder / ".airflowignore").write_text("common/\n")
    for dag_id, file in files.items():
        path = folder / f"{dag_id}.py"
        path.symlink_to(file) if isinstance(file, Path) else path.write_text(file)
    return home.with_variables(AIRFLOW__CORE__DAGS_FOLDER=str(folder))


def execute(task: Any, **params: Any) -> Any:
    """Returns what a task returns that is executed by itself, as the first try of a new run."""
    ids = {"dag_id": task.dag_id, "run_id": f"run {next(_runs)}", "task_id": task.task_id}
    ti = SimpleNamespace(**ids, try_number=1)
    context = {"ti": ti, "params": params, "outlet_events": OutletEventAccessors()}
    return copy(task).execute(context)


def in_shell(program: str, variables: Mapping[str, str]) -> Outcome:
    """Returns the outcome of a Python program, started as the guide says."""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=clean_environment({"PYTHONPATH": str(DAGS), "PYTHONUTF8": "1", **variables}),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


def in_sh(commands: str, variables: Mapping[str, str], directory: Path) -> Outcome:
    """Returns the outcome of a block of commands; the first that fails ends it."""
    done = subprocess.run(
        ["/bin/sh", "-ec", commands],
        env={**clean_environment(variables), "PATH": PATH},
        cwd=directory,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return Outcome(done.returncode, done.stdout, done.stderr)
