"""Alerts: what they say, how they are sent, and what happens when a channel fails."""

import json
import logging
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest
import requests
import structlog
from airflow.api_fastapi.execution_api.datamodels.taskinstance import (
    DagRun,
    TaskInstance,
    TIRunContext,
)
from airflow.callbacks.callback_requests import TaskCallbackRequest
from airflow.dag_processing.dagbag import BundleDagBag
from airflow.dag_processing.processor import _execute_task_callbacks
from airflow.utils.state import DagRunState, TaskInstanceState
from airflow.utils.types import DagRunType

from common import webhook as webhook_module
from common.alert_text import Alert, Message, mail_body, mail_subject, parts_of, webhook_body
from common.alerts import Recipients, recipients_of, tell
from common.webhook import webhook_url
from demo.embedded_server import HOST, free_ports
from extract_load import ConfigError
from tests.dags.alert_servers import (
    SMTP_PASSWORD,
    TOKEN,
    Mailbox,
    Webhook,
    assert_no_secret,
    body_of,
    running_mail_server,
    running_webhook,
)

ALERT = Alert(
    "a_dag",
    'public."<!channel> & 주문"',
    'there is no table "public.orders"',
    "It was\nlooked for.",
    "Look {{ conn.smtp_default.password }} again.",
)
MESSAGE = Message((ALERT,), link="http://airflow.example.com/log?a=1&b=2")
WHO = Recipients(("a@example.com", "b@example.com"), "a_webhook")


@pytest.fixture
def mailbox() -> Iterator[Mailbox]:
    with running_mail_server() as mailbox:
        yield mailbox


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    with running_webhook() as webhook:
        yield webhook


@pytest.fixture
def known_channels(mailbox: Mailbox, webhook: Webhook, monkeypatch: pytest.MonkeyPatch) -> None:
    """Airflow knows both; nobody is told unless a test says so."""
    monkeypatch.setenv("AIRFLOW_CONN_SMTP_DEFAULT", mailbox.connection)
    monkeypatch.setenv("AIRFLOW_CONN_A_WEBHOOK", webhook.connection)


# ---------------------------------------------------------------- texts


def test_the_errors_of_a_task_are_taken_apart() -> None:
    text = "error: first\ndetail: One,\n        two.\nhint: Look.\nerror: second\nhint: Wait."
    assert parts_of(text) == [("first", "One,\ntwo.", "Look."), ("second", "", "Wait.")]
    assert parts_of("ValueError: a\nb\nc") == [("ValueError: a", "b\nc", "")]


def test_a_subject_is_one_short_line() -> None:
    message = Message((replace(ALERT, primary="one\r\nBcc: x@example.com" + "y" * 500), ALERT))
    subject = mail_subject(message)
    assert len(subject) == 160
    assert subject.startswith('[a_dag] public."<!channel> & 주문": one Bcc: x@example.com')
    assert "\n" not in subject
    assert "\r" not in subject


def test_a_subject_counts_what_else_there_is() -> None:
    others = tuple(replace(ALERT, about=f"t{number}") for number in range(3))
    assert mail_subject(Message(others)).endswith("(and 2 more)")
    assert mail_subject(Message((), others[:1])).startswith("[a_dag] ended: t0")


def test_the_same_problem_of_two_dags_is_told_once() -> None:
    message = Message((ALERT, replace(ALERT, dag_id="b_dag"), ALERT))
    (alert,) = message.alerts
    assert alert.dag_id == "a_dag, b_dag"


def test_a_chat_message_is_escaped_and_short_enough() -> None:
    many = tuple(replace(ALERT, about=f"<!channel> {number}") for number in range(500))
    text = webhook_body(Message(many, link=MESSAGE.link))["text"]
    assert len(text) < 4000
    assert "<!channel>" not in text
    assert "&lt;!channel&gt; 0" in text
    shown = text.count(":red_circle:")
    assert f"... and {500 - shown} more: the log has them all" in text
    assert text.endswith("\n<http://airflow.example.com/log?a=1&amp;b=2|log>")


def test_one_endless_detail_leaves_room_for_the_link() -> None:
    text = webhook_body(Message((replace(ALERT, detail="x" * 10_000),), link=MESSAGE.link))["text"]
    assert len(text) < 4000
    assert "no table" in text
    assert text.endswith("|log>")


def test_a_mail_about_500_tables_is_readable() -> None:
    many = tuple(replace(ALERT, about=f"t{number}") for number in range(500))
    body = mail_body(Message(many, many))
    assert body.count("detail: ") == 50
    assert "... and 450 more: the log has them all" in body
    assert "... and 450 more have ended" in body


# ---------------------------------------------------------------- channels


@pytest.mark.usefixtures("known_channels")
def test_everybody_is_told(mailbox: Mailbox, webhook: Webhook) -> None:
    assert tell(MESSAGE, WHO)

    (mail,) = mailbox.mails
    assert mail["To"] == "a@example.com, b@example.com"
    assert mail["From"] == "airflow@example.com"
    assert mail["Subject"] == mail_subject(MESSAGE)
    body = body_of(mail)
    assert "public.&quot;&lt;!channel&gt; &amp; 주문&quot;" in body
    assert "detail: It was<br>\nlooked for." in body
    assert 'href="http://airflow.example.com/log?a=1&amp;b=2"' in body
    ((path, said),) = webhook.requests
    assert path == f"/services/{TOKEN}"
    assert list(said) == ["text"]
    assert 'there is no table "public.orders" (a_dag)\ndetail: It was\nlooked for.' in said["text"]


@pytest.mark.usefixtures("known_channels")
def test_the_text_of_an_error_is_no_template(mailbox: Mailbox) -> None:
    """A table's name, or a server's message, could else read every connection."""
    assert tell(MESSAGE, replace(WHO, webhook_conn_id=None))
    (mail,) = mailbox.mails
    assert "hint: Look {{ conn.smtp_default.password }} again." in body_of(mail)
    assert SMTP_PASSWORD not in mail.as_string()


@pytest.mark.usefixtures("known_channels")
def test_a_mail_server_that_is_down_does_not_silence_the_webhook(
    webhook: Webhook, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (nobody_listens,) = free_ports(1)
    monkeypatch.setenv("AIRFLOW_CONN_SMTP_DEFAULT", Mailbox(nobody_listens).connection)
    caplog.set_level(logging.DEBUG)
    assert tell(MESSAGE, WHO)
    assert len(webhook.requests) == 1
    assert "error: the mail server did not take the mail\ndetail: ConnectionRefused" in caplog.text
    assert 'hint: Check the connection "smtp_default": host' in caplog.text
    assert_no_secret(caplog.text)


@pytest.mark.usefixtures("known_channels")
def test_a_webhook_that_fails_does_not_silence_the_mail(
    mailbox: Mailbox, webhook: Webhook, caplog: pytest.LogCaptureFixture
) -> None:
    webhook.statuses += [500, 503]
    caplog.set_level(logging.DEBUG)
    assert tell(MESSAGE, WHO)
    assert len(mailbox.mails) == 1
    assert len(webhook.requests) == 2
    assert 'error: webhook "a_webhook" did not take the message' in caplog.text
    assert "detail: It answered with HTTP status 503." in caplog.text
    assert_no_secret(caplog.text)


@pytest.mark.usefixtures("known_channels")
def test_a_hiccup_of_the_webhook_is_waited_for(webhook: Webhook) -> None:
    webhook.statuses += [429]
    assert tell(MESSAGE, replace(WHO, email=()))
    assert len(webhook.requests) == 2


@pytest.mark.usefixtures("known_channels")
@pytest.mark.parametrize("status", [302, 404])
def test_what_a_webhook_refuses_is_not_sent_again(
    webhook: Webhook, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    """Nor anywhere else: who knows where a redirection leads."""
    webhook.statuses += [status]
    assert not tell(MESSAGE, replace(WHO, email=()))
    assert [path for path, _ in webhook.requests] == [f"/services/{TOKEN}"]
    assert f"It answered with HTTP status {status}." in caplog.text


@pytest.mark.usefixtures("known_channels")
def test_a_webhook_that_hangs_is_given_up(
    webhook: Webhook, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(webhook_module, "_TIMEOUTS", (1, 0.2))
    webhook.hangs.set()
    caplog.set_level(logging.DEBUG)
    assert not tell(MESSAGE, replace(WHO, email=()))
    assert "detail: The connection failed: ReadTimeout." in caplog.text
    assert_no_secret(caplog.text)


@pytest.mark.parametrize(
    ("channel", "told"),
    [
        (Recipients(webhook_conn_id="nobody_has_me"), 'error: there is no connection "nobody_has_'),
        (Recipients(("a@example.com",)), "error: no mail could be sent\ndetail: Airflow told "),
    ],
    ids=["webhook", "mail"],
)
def test_a_missing_connection_is_told(
    channel: Recipients, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert not tell(MESSAGE, channel)
    assert told in caplog.text


def test_that_nobody_is_to_be_told_is_told(caplog: pytest.LogCaptureFixture) -> None:
    assert not tell(MESSAGE, Recipients())
    assert "execution_monitoring_configs has no email and no webhook_conn_id" in caplog.text


# ---------------------------------------------------------------- whose webhook, who is told


@pytest.mark.parametrize(
    ("connection", "url"),
    [
        (
            {"conn_type": "slackwebhook", "host": "https://hooks.slack.com/services"},
            f"https://hooks.slack.com/services/{TOKEN}",
        ),
        (
            {
                "conn_type": "http",
                "host": f"https://chat.example.com/hooks/{TOKEN}",
                "password": "",
            },
            f"https://chat.example.com/hooks/{TOKEN}",
        ),
        (
            {"conn_type": "http", "host": "chat.example.com", "port": 8443, "schema": "https"},
            f"https://chat.example.com:8443/{TOKEN}",
        ),
        ({"conn_type": "http", "host": "localhost"}, f"http://localhost/{TOKEN}"),
        (f"https://chat.example.com/hooks/{TOKEN}", f"https://chat.example.com/hooks/{TOKEN}"),
    ],
    ids=["slack", "whole URL", "HTTP connection", "http", "a URL in the environment"],
)
def test_a_connection_is_a_url(
    monkeypatch: pytest.MonkeyPatch, connection: dict[str, object] | str, url: str
) -> None:
    text = connection
    if isinstance(connection, dict):
        text = json.dumps({"password": TOKEN, **connection})
    monkeypatch.setenv("AIRFLOW_CONN_A_WEBHOOK", str(text))
    assert webhook_url("a_webhook") == url


@pytest.mark.parametrize(
    "text",
    [
        f"postgresql://a:{SMTP_PASSWORD}@b/c",
        f"a://b://c://{SMTP_PASSWORD}",
        json.dumps({"conn_type": "http", "password": SMTP_PASSWORD}),
        json.dumps({"conn_type": "http", "host": f"ftp://b/{SMTP_PASSWORD}"}),
        json.dumps({"conn_type": "http", "host": f"http://[b/{SMTP_PASSWORD}"}),
    ],
    ids=["another server", "unreadable", "no host", "another protocol", "no URL"],
)
def test_a_connection_that_is_no_webhook_is_refused_without_showing_it(
    monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_A_WEBHOOK", text)
    with pytest.raises(ConfigError, match='connection "a_webhook"') as raised:
        webhook_url("a_webhook")
    assert_no_secret(str(raised.value))


def test_a_url_that_breaks_requests_stays_unseen(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    host = f"http://{'a' * 70}..b/{TOKEN}"
    text = json.dumps({"conn_type": "http", "host": host})
    monkeypatch.setenv("AIRFLOW_CONN_A_WEBHOOK", text)
    assert not tell(MESSAGE, Recipients(webhook_conn_id="a_webhook"))
    assert 'error: webhook "a_webhook" did not take the message' in caplog.text
    assert_no_secret(caplog.text)


def test_the_library_would_tell_the_url(webhook: Webhook, caplog: pytest.LogCaptureFixture) -> None:
    """The tests above prove something only if this one does."""
    caplog.set_level(logging.DEBUG)
    requests.post(f"http://{HOST}:{webhook.port}/{TOKEN}", json={}, timeout=5)
    assert TOKEN in caplog.text


def test_a_dag_may_have_its_own_recipients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        "AIRFLOW_VAR_EXECUTION_MONITORING_CONFIGS",
        json.dumps({"email": "a@b.c", "dags": {"b": {"email": ["d@e.f"], "webhook_conn_id": "w"}}}),
    )
    assert recipients_of("a") == Recipients(("a@b.c",), None)
    assert recipients_of("b") == Recipients(("d@e.f",), "w")


def test_a_typo_in_the_variable_does_not_make_everything_silent(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("AIRFLOW_VAR_EXECUTION_MONITORING_CONFIGS", '{"emial": "a@b.c"}')
    assert recipients_of("a") == Recipients()
    assert "alerts go to whom the repository declares" in caplog.text
    assert "execution_monitoring_configs.emial" in caplog.text


# ---------------------------------------------------------------- in the dag-processor


@pytest.mark.usefixtures("known_channels")
def test_a_task_that_airflow_found_dead_is_told_without_an_error(
    mailbox: Mailbox, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The callback runs in the dag-processor then, out of the DAG file, without an exception."""
    now = datetime.now(UTC)
    who = {"email": ["on-call@example.com"]}
    monkeypatch.setenv("AIRFLOW_VAR_EXECUTION_MONITORING_CONFIGS", json.dumps(who))
    (tmp_path / "a_dag.py").write_text(
        "from airflow.sdk import DAG\n"
        "from airflow.providers.standard.operators.empty import EmptyOperator\n"
        "from common.alerts import alert_on_failure\n"
        "with DAG('a_dag', default_args={'on_failure_callback': alert_on_failure}):\n"
        "    EmptyOperator(task_id='a_task')\n"
    )
    ids = {"dag_id": "a_dag", "run_id": "a_run"}
    dag_run = DagRun(
        **ids,
        logical_date=now,
        data_interval_start=now,
        data_interval_end=now,
        run_after=now,
        start_date=now,
        end_date=None,
        run_type=DagRunType.MANUAL,
        state=DagRunState.RUNNING,
        consumed_asset_events=[],
        partition_key=None,
    )
    request = TaskCallbackRequest(
        filepath="a_dag.py",
        bundle_name="tested",
        bundle_version=None,
        msg="heartbeat timeout",
        ti=TaskInstance(**ids, id=uuid4(), task_id="a_task", try_number=2, dag_version_id=uuid4()),
        task_callback_type=TaskInstanceState.FAILED,
        context_from_server=TIRunContext(
            dag_run=dag_run, max_tries=1, variables=[], connections=[]
        ),
    )
    bag = BundleDagBag(tmp_path, bundle_path=tmp_path, bundle_name="tested")

    _execute_task_callbacks(bag, request, structlog.get_logger())

    (mail,) = mailbox.mails
    assert mail["Subject"] == (
        "[a_dag] a_task: the task ended without a word: it was killed, or its worker is gone"
    )
    assert "/dags/a_dag/runs/a_run/tasks/a_task?try_number=2" in body_of(mail)
