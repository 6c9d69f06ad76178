"""Tasks that fail in DAGs run by Airflow: who is told, what, and how often."""

import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from demo.embedded_server import EmbeddedServer, free_ports
from tests.dags.airflow_home import DAG_ID, DAGS, AirflowHome
from tests.dags.alert_servers import (
    SMTP_PASSWORD,
    TOKEN,
    Mailbox,
    Webhook,
    body_of,
    running_mail_server,
    running_webhook,
)
from tests.support.command import Outcome
from tests.support.landing import environment
from tests.support.servers import PASSWORD, fresh_database

pytestmark = pytest.mark.timeout(300)

OWN_DAGS = '''
"""DAGs of a user."""
from datetime import timedelta
from airflow.sdk import dag, task
from common.alerts import alert_on_failure

default_args = {
    "email_on_failure": True,
    "email": ["admin@example.com", "data-team@example.com"]
}

@task
def fails():
    raise ValueError("the cause <i>of it</i>")

@dag(default_args=default_args)
def guide_dag():
    fails()

@dag(default_args={**default_args, "on_failure_callback": alert_on_failure})
def both_dag():
    fails()

@dag(default_args={"on_failure_callback": alert_on_failure})
def retried_dag():
    fails.override(retries=1, retry_delay=timedelta(0))()

guide_dag()
both_dag()
retried_dag()
'''


def assert_no_secret(*texts: str) -> None:
    for text in texts:
        assert not [secret for secret in (SMTP_PASSWORD, TOKEN, PASSWORD) if secret in text]


@dataclass(frozen=True)
class Told:
    """An Airflow that tells a mail server and a webhook of failures."""

    home: AirflowHome
    mailbox: Mailbox
    webhook: Webhook

    def run(self, dag_id: str, *options: str, **variables: str) -> Outcome:
        """Returns the outcome of one run of a DAG; both servers forget what was before."""
        self.mailbox.mails.clear()
        self.webhook.requests.clear()
        home = replace(self.home, variables={**self.home.variables, **variables})
        outcome = home.airflow("dags", "test", dag_id, *options, timeout=200)
        assert_no_secret(outcome.stdout, outcome.stderr)
        return outcome


def channels(mailbox: Mailbox, webhook: Webhook) -> Mapping[str, str]:
    """Returns the variables that make Airflow tell both."""
    return {
        "AIRFLOW_CONN_SMTP_DEFAULT": mailbox.connection,
        "AIRFLOW_CONN_A_WEBHOOK": webhook.connection,
        "AIRFLOW_VAR_EXECUTION_MONITORING_CONFIGS": json.dumps(
            {"email": ["on-call@example.com"], "webhook_conn_id": "a_webhook"}
        ),
        "AIRFLOW__API__BASE_URL": "https://airflow.example.com/",
    }


@pytest.fixture(scope="module")
def told(
    source_server: EmbeddedServer,
    target_server: EmbeddedServer,
    servers_directory: Path,
    manifest: Path,
) -> Iterator[Told]:
    directory = servers_directory / "airflow-with-alerts"
    directory.mkdir()
    with (
        fresh_database(source_server, "empty") as source,
        fresh_database(target_server, "dwh") as target,
        running_mail_server() as mailbox,
        running_webhook() as webhook,
    ):
        variables = {**environment(source, target), **channels(mailbox, webhook)}
        home = AirflowHome(directory, manifest, variables)
        migrated = home.airflow("db", "migrate")
        assert migrated.status == 0, migrated.stderr
        yield Told(home, mailbox, webhook)


@pytest.fixture(scope="module")
def own(told: Told, tmp_path_factory: pytest.TempPathFactory) -> Told:
    """The same, with the DAGs of a user."""
    folder = tmp_path_factory.mktemp("own-dags")
    (folder / "own_dags.py").write_text(OWN_DAGS)
    variables = {"AIRFLOW__CORE__DAGS_FOLDER": str(folder), "PYTHONPATH": str(DAGS)}
    home = replace(told.home, variables={**told.home.variables, **variables})
    return replace(told, home=home)


def test_a_load_that_fails_is_told_once_with_all_there_is_to_know(told: Told) -> None:
    """What waits for it does not run, and tells nobody: one problem, one mail, one message."""
    load = "digitalocean_products.extract_load"
    outcome = told.run(DAG_ID, "--mark-success-pattern", rf"(?!{load}$).*")
    assert outcome.status != 0
    with closing(sqlite3.connect(told.home.directory / "airflow.db")) as session:
        query = "SELECT state, count(*) FROM task_instance WHERE dag_id = ? GROUP BY state"
        states = dict(session.execute(query, (DAG_ID,)).fetchall())
    assert states["failed"] == 1
    assert states["upstream_failed"] > 1

    (mail,) = told.mailbox.mails
    assert mail["To"] == "on-call@example.com"
    assert mail["Subject"] == (
        f"[{DAG_ID}] public.products ({load}): "
        'there is no table "public.products" in source "digitalocean_postgres"'
    )
    body = body_of(mail)
    assert f"dag: {DAG_ID}" in body
    assert "detail: Looked in 127.0.0.1:" in body
    assert "hint: Check the name: case is never folded." in body
    link = f"https://airflow.example.com/dags/{DAG_ID}/runs/"
    assert f'<a href="{link}' in body
    assert f"/tasks/{load}?try_number=1" in body
    (text,) = told.webhook.texts
    assert 'there is no table "public.products" in source' in text
    assert "\nhint: " in text
    assert f"<{link}" in text
    assert_no_secret(text, mail.as_string())


def test_the_guides_default_args_lead_to_a_mail(own: Told) -> None:
    """Airflow's own way: nothing of ours but the mail server's connection."""
    assert own.run("guide_dag").status != 0
    (mail,) = own.mailbox.mails
    assert mail["To"] == "admin@example.com, data-team@example.com"
    assert "task_id='fails' dag_id='guide_dag'" in mail["Subject"]
    assert "the cause &lt;i&gt;of it&lt;/i&gt;" in body_of(mail)
    assert own.webhook.texts == []


def test_a_task_with_mail_of_its_own_and_alerts_sends_one_mail(own: Told) -> None:
    assert own.run("both_dag").status != 0
    (mail,) = own.mailbox.mails
    assert mail["To"] == "admin@example.com, data-team@example.com"
    (text,) = own.webhook.texts
    assert "*fails*: ValueError: the cause &lt;i&gt;of it&lt;/i&gt; (both_dag)" in text


def test_a_try_that_is_followed_by_another_is_not_told(own: Told) -> None:
    assert own.run("retried_dag").status != 0
    (mail,) = own.mailbox.mails
    assert mail["Subject"] == "[retried_dag] fails: ValueError: the cause <i>of it</i>"
    assert "/tasks/fails?try_number=2" in body_of(mail)
    assert len(own.webhook.texts) == 1


def test_a_task_fails_for_its_own_reason_also_when_nobody_can_be_told(own: Told) -> None:
    (nobody_listens,) = free_ports(1)
    own.webhook.statuses += [500, 500]
    outcome = own.run("retried_dag", AIRFLOW_CONN_SMTP_DEFAULT=Mailbox(nobody_listens).connection)
    assert outcome.status != 0
    assert "the cause <i>of it</i>" in outcome.stdout
    assert "error: the mail server did not take the mail" in outcome.stdout
    assert 'error: webhook "a_webhook" did not take the message' in outcome.stdout
    assert "Failed to run task callback" not in outcome.stdout + outcome.stderr
