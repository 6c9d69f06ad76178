"""A task killed with -9, in an Airflow with an executor: Airflow itself calls nothing for it."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from demo.embedded_server import HOST, free_ports
from tests.dags.airflow_home import DAGS, AirflowHome, program_path
from tests.dags.alert_servers import Mailbox, channels, running_mail_server, running_webhook

pytestmark = pytest.mark.timeout(300)

DAG = '''
"""A DAG of a user, with both callbacks."""
import os
import time
from pathlib import Path
from airflow.sdk import dag, task
from common.alerts import alert_on_failure, alert_on_run_failure

@task
def fails():
    raise ValueError("its own reason")

@task
def is_killed():
    Path(os.environ["AIRFLOW_HOME"], "pid").write_text(str(os.getpid()))
    time.sleep(120)

@dag(
    default_args={"on_failure_callback": alert_on_failure},
    on_failure_callback=alert_on_run_failure,
    is_paused_upon_creation=False,
)
def own_dag():
    fails()
    is_killed()

own_dag()
'''


def wait_for(what: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.5)


@contextmanager
def running(home: AirflowHome, *arguments: str) -> Iterator[None]:
    """Keeps a program of Airflow running, with its children."""
    with (home.directory / f"{arguments[0]}.log").open("w") as log:
        program = subprocess.Popen(
            [program_path("airflow"), *arguments],
            env=home.environment(),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            yield
        finally:
            os.killpg(program.pid, signal.SIGTERM)
            try:
                program.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(program.pid, signal.SIGKILL)
                program.wait(20)


@pytest.fixture
def airflow(tmp_path: Path) -> Iterator[tuple[AirflowHome, Mailbox]]:
    """An Airflow under LocalExecutor, with the DAG above."""
    with ExitStack() as stack:
        mailbox = stack.enter_context(running_mail_server())
        webhook = stack.enter_context(running_webhook())
        (port,) = free_ports(1)
        (tmp_path / "own").mkdir()
        (tmp_path / "own" / "own_dag.py").write_text(DAG)
        home = AirflowHome(
            tmp_path,
            tmp_path / "no_manifest",
            {
                **channels(mailbox, webhook),
                "AIRFLOW__API__HOST": HOST,
                "AIRFLOW__API__PORT": str(port),
                "AIRFLOW__API__WORKERS": "1",
                "AIRFLOW__API_AUTH__JWT_SECRET": "s" * 64,
                "AIRFLOW__CORE__DAGS_FOLDER": str(tmp_path / "own"),
                "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://{HOST}:{port}/execution/",
                "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
                "AIRFLOW__CORE__PARALLELISM": "2",
                "PYTHONPATH": str(DAGS),
            },
        )
        migrated = home.airflow("db", "migrate")
        assert migrated.status == 0, migrated.stderr
        for program in (["api-server"], ["dag-processor"], ["scheduler", "--skip-serve-logs"]):
            stack.enter_context(running(home, *program))
        yield home, mailbox


def test_a_killed_task_is_told_once_when_the_run_has_ended(
    airflow: tuple[AirflowHome, Mailbox],
) -> None:
    home, mailbox = airflow
    wait_for(lambda: home.airflow("dags", "trigger", "own_dag").status == 0, 90)
    pid = home.directory / "pid"
    wait_for(lambda: pid.exists() and bool(pid.read_text()), 60)

    os.kill(int(pid.read_text()), signal.SIGKILL)
    wait_for(lambda: len(mailbox.mails) >= 2, 60)

    assert sorted(mail["Subject"] for mail in mailbox.mails) == [
        "[own_dag] fails: ValueError: its own reason",
        "[own_dag] is_killed: the task ended without a word: it was killed, or its worker is gone",
    ]
