"""Who is told in tests: a real mail server, and a real HTTP server as the webhook of a chat."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from demo.embedded_server import HOST, free_ports
from tests.support.servers import PASSWORD

SMTP_PASSWORD = "geheim-der-post"
TOKEN = "T000/B000/geheimes-token"


@dataclass
class Mailbox:
    """A mail server and what it was given."""

    port: int
    mails: list[EmailMessage] = field(default_factory=list)

    @property
    def connection(self) -> str:
        """The Airflow connection `smtp_default`, as JSON."""
        extra = {
            "disable_ssl": True,
            "disable_tls": True,
            "from_email": "airflow@example.com",
            "timeout": 5,
            "retry_limit": 0,
        }
        return json.dumps(
            {
                "conn_type": "smtp",
                "host": HOST,
                "port": self.port,
                "login": "airflow",
                "password": SMTP_PASSWORD,
                "extra": extra,
            }
        )

    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:  # noqa: N802 - aiosmtpd's name
        mail = message_from_bytes(cast("bytes", envelope.content), policy=policy.default)
        self.mails.append(mail)
        return "250 OK"


def assert_no_secret(*texts: str) -> None:
    """Neither the servers' nor the databases' password, and not the webhook's token."""
    for text in texts:
        assert not [secret for secret in (SMTP_PASSWORD, TOKEN, PASSWORD) if secret in text]


def body_of(mail: EmailMessage) -> str:
    """Returns the HTML of a mail."""
    (part,) = [part for part in mail.walk() if part.get_content_type() == "text/html"]
    return str(part.get_content())


@dataclass
class Webhook:
    """An HTTP server, what it was sent, and how it answers."""

    port: int
    requests: list[tuple[str, Any]] = field(default_factory=list)
    """Path and JSON of each."""
    statuses: list[int] = field(default_factory=list)
    """Of the next answers; 200 when there is none left."""
    hangs: threading.Event = field(default_factory=threading.Event)
    """Set: it answers as soon as this is no longer so, or after ten seconds."""

    @property
    def connection(self) -> str:
        """The Airflow connection, as Slack's provider writes it."""
        return json.dumps(
            {
                "conn_type": "slackwebhook",
                "host": f"http://{HOST}:{self.port}/services",
                "password": TOKEN,
            }
        )

    @property
    def texts(self) -> list[str]:
        """What was said."""
        return [body["text"] for _, body in self.requests]


def channels(mailbox: Mailbox, webhook: Webhook) -> dict[str, str]:
    """Returns the variables that make Airflow tell both."""
    return {
        "AIRFLOW_CONN_SMTP_DEFAULT": mailbox.connection,
        "AIRFLOW_CONN_A_WEBHOOK": webhook.connection,
        "AIRFLOW_VAR_EXECUTION_MONITORING_CONFIGS": json.dumps(
            {"email": ["on-call@example.com"], "webhook_conn_id": "a_webhook"}
        ),
        "AIRFLOW__API__BASE_URL": "https://airflow.example.com/",
    }


@contextmanager
def running_mail_server() -> Iterator[Mailbox]:
    """Yields a mail server that wants a password."""
    (port,) = free_ports(1)
    mailbox = Mailbox(port)

    def authenticate(*arguments: Any) -> AuthResult:
        given = arguments[-1]
        is_right = isinstance(given, LoginPassword) and given.password == SMTP_PASSWORD.encode()
        return AuthResult(success=is_right)

    controller = Controller(
        mailbox,
        hostname=HOST,
        port=port,
        authenticator=authenticate,
        auth_required=True,
        auth_require_tls=False,
    )
    controller.start()
    try:
        yield mailbox
    finally:
        controller.stop()


@contextmanager
def running_webhook() -> Iterator[Webhook]:
    """Yields an HTTP server that takes messages."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            webhook.requests.append((self.path, json.loads(body)))
            if webhook.hangs.is_set():
                released.wait(10)
            status = webhook.statuses.pop(0) if webhook.statuses else 200
            self.send_response(status)
            if status == 302:
                self.send_header("Location", "/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Says nothing."""

    released = threading.Event()
    server = ThreadingHTTPServer((HOST, 0), Handler)
    webhook = Webhook(server.server_port)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield webhook
    finally:
        released.set()
        server.shutdown()
        thread.join(timeout=10)
        server.server_close()
