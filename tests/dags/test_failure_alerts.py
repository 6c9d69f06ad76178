"""Tasks that fail in DAGs run by Airflow: who is told, what, and how often."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from demo.embedded_server import EmbeddedServer, free_ports
from tests.dags.airflow_home import DAG_ID, DAGS, AirflowHome
from tests.dags.alert_servers import (
    Mailbox,
    Webhook,
    assert_no_secret,
    body_of,
    channels,
    running_mail_server,
    running_webhook,
)
from tests.support.command import Outcome
from tests.support.landing import environment
from tests.support.servers import fresh_database

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
        home = self.home.with_variables(**variables)
        outcome = home.airflow("dags", "test", dag_id, *options, timeout=200)
        assert_no_secret(outcome.stdout, outcome.stderr)
        return outcome


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
    return replace(told, home=told.home.with_variables(**variables))


def test_a_load_that_fails_is_told_once_with_all_there_is_to_know(told: Told) -> None:
    """What waits for it does not run, and tells nobody: one problem, one mail, one message."""
    load = "digitalocean_products.extract_load"
    outcome = told.run(DAG_ID, "--mark-success-pattern", rf"(?!{load}$).*")
    assert outcome.status != 0
    states = Counter(told.home.states(DAG_ID).values())
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
