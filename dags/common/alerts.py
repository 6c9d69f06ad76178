"""Alerts: who is told that something is wrong, by mail and by webhook.

Who is told stands in the central settings (`execution_monitoring_configs`). A channel that fails is
logged, does not keep the other from being used, and never changes how the task itself ended.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from airflow.sdk import Context
from airflow.sdk.configuration import conf
from airflow.sdk.log import redact

from common.airflow_lookup import is_in_task
from common.alert_text import Alert, Message, mail_body, mail_subject, parts_of, webhook_body
from common.central_settings import effective_monitoring
from common.webhook import post
from extract_load import ConfigError, ExtractLoadError, Settings

logger = logging.getLogger(__name__)

_MAIL_HINT = (
    'Check the connection "{}": host, port, user and password, and in its extra from_email, '
    "disable_ssl and disable_tls."
)
_TOLD = "alert_told"
"""XCom of a failed task that somebody was told of."""
_KILLED = (
    "the task ended without a word: it was killed, or its worker is gone",
    "Airflow found it dead; nothing of it is known beyond its log.",
    "Clear the task to run it again. If memory ran out, run fewer tasks at a time or lower "
    "memory_limit_mb.",
)


class MailFailed(ExtractLoadError):
    """A mail did not reach the mail server."""


@dataclass(frozen=True)
class Recipients:
    """Who is told."""

    email: tuple[str, ...] = ()
    """Mail addresses."""
    webhook_conn_id: str | None = None
    """Connection of a webhook."""

    def __bool__(self) -> bool:
        return bool(self.email or self.webhook_conn_id)


def recipients_of(dag_id: str) -> Recipients:
    """Returns who is told about a DAG.

    With a Variable that cannot be used it is who the repository declares: a typo there must not
    make everything silent.

    Args:
        dag_id: The DAG.
    """
    try:
        found = effective_monitoring(dag_id)
    except ConfigError as error:
        logger.error("alerts go to whom the repository declares\n%s", error)  # noqa: TRY400 - told
        found = effective_monitoring(dag_id, find=lambda _: None)
    return Recipients(found.email, found.webhook_conn_id)


def alert_on_failure(context: Context) -> None:
    """Tells that a task has failed for good: an `on_failure_callback` of tasks.

    Where Airflow found the task dead the callback runs in the dag-processor, without an exception.
    Then it is left to the DAG's callback, if that is ours.

    Args:
        context: Of the task.
    """
    ti, exception = context["ti"], context.get("exception")
    if exception is None and _is_told_at_the_end(context["dag"]):
        logger.info("told when the run has ended")
    elif tell_failure(context) and exception is not None:
        ti.xcom_push(key=_TOLD, value=True)


def alert_on_run_failure(context: Context) -> None:
    """Tells of tasks that died without a word: an `on_failure_callback` of DAGs.

    For a task whose process alone was killed, as when memory runs out, Airflow calls nothing.

    Args:
        context: Of the run, in the dag-processor.
    """
    ti, dag = context.get("ti"), context["dag"]
    if ti is None or not is_in_task():  # as in `airflow dags test`, where no task dies alone
        logger.info("nobody knows here how the tasks of the run ended")
        return
    states = ti.get_task_states(dag_id=ti.dag_id, run_ids=[ti.run_id]).get(ti.run_id, {})
    failed = [task_id for task_id, state in states.items() if state == "failed"]
    # The instances of a mapped task have names of their own here: they are not looked at.
    dead = [
        task_id for task_id in failed if task_id in dag.task_dict and not _was_told(ti, task_id)
    ]
    if dead:
        alerts = [Alert(ti.dag_id, _about(dag.get_task(task_id)), *_KILLED) for task_id in dead]
        run_page = ti.log_url.split("/tasks/")[0]
        tell(Message(tuple(alerts), link=run_page), recipients_of(ti.dag_id))


def tell_failure(context: Context) -> bool:
    """Returns whether anybody was told that a task has failed.

    A mail is left to Airflow where the task has `email` and `email_on_failure` itself.

    Args:
        context: Of the task.
    """
    task, ti = context["task"], context["ti"]
    who = recipients_of(ti.dag_id)
    is_mailed = bool(task.email and task.email_on_failure)
    if is_mailed:
        logger.info("the mail is left to Airflow: the task has email and email_on_failure")
        who = Recipients((), who.webhook_conn_id)
        if not who.webhook_conn_id:
            return True
    about = _about(task)
    alerts = [Alert(ti.dag_id, about, *parts) for parts in _parts(context.get("exception"))]
    return tell(Message(tuple(alerts), link=ti.log_url), who) or is_mailed


def tell(message: Message, who: Recipients) -> bool:
    """Returns whether a message reached anybody; a channel that fails is logged.

    Args:
        message: The message.
        who: Whom to tell. Nobody is a warning in the log.
    """
    channels: list[tuple[str, Callable[[], None]]] = []
    if conn_id := who.webhook_conn_id:
        body = webhook_body(message)
        channels.append((f'webhook "{conn_id}"', lambda: post(conn_id, body)))
    if who.email:
        channels.append((f"mail to {', '.join(who.email)}", lambda: _mail(message, who.email)))
    if not channels:
        logger.warning(
            "nobody is told of %s: execution_monitoring_configs has no email and no "
            "webhook_conn_id",
            mail_subject(message),
        )
    reached = [_reached(name, send) for name, send in channels]
    return any(reached)


def _reached(name: str, send: Callable[[], None]) -> bool:
    try:
        send()
    except ExtractLoadError as error:
        logger.error("no alert by %s\n%s", name, error)  # noqa: TRY400 - all there is to know
        return False
    logger.info("alert sent by %s", name)
    return True


def _mail(message: Message, to: tuple[str, ...]) -> None:
    from airflow.providers.smtp.notifications.smtp import SmtpNotifier

    notifier = SmtpNotifier(
        to=list(to),
        from_email=conf.get("email", "from_email", fallback=None),
        subject=mail_subject(message),
        html_content=mail_body(message),
    )
    hint = _MAIL_HINT.format(notifier.smtp_conn_id)
    try:
        # Calling the notifier would render the text, as a template with every connection in reach.
        notifier.notify({})
    except OSError as exc:  # as all errors of smtplib are
        told = f"{type(exc).__name__}: {redact(str(exc))}."
        raise MailFailed("the mail server did not take the mail", told, hint) from None
    except Exception as exc:  # noqa: BLE001 - a backend's, whose text may repeat a secret
        told = f"Airflow told {type(exc).__name__}."
        raise MailFailed("no mail could be sent", told, hint) from None


def _is_told_at_the_end(dag: Any) -> bool:
    callbacks = dag.on_failure_callback
    return alert_on_run_failure in (callbacks if isinstance(callbacks, list) else [callbacks])


def _was_told(ti: Any, task_id: str) -> bool:
    return ti.xcom_pull(task_ids=task_id, key=_TOLD) is not None


def _about(task: Any) -> str:
    settings = getattr(task, "settings", None)
    if not isinstance(settings, Settings):
        return str(task.task_id)
    tables = dict.fromkeys(table.source.written for table in settings.tables)
    return f"{', '.join(tables)} ({task.task_id})"


def _parts(exception: BaseException | str | None) -> list[tuple[str, str, str]]:
    """What an exception says; what is none of ours says its class, and may know a secret."""
    if exception is None:
        return [_KILLED]
    text = str(redact(str(exception).strip()))
    if not text.startswith("error: "):
        text = f"{type(exception).__name__}: {text}"
    return parts_of(text)
