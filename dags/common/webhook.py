"""Messages to the webhook of a chat. Its URL is a secret: whoever has it may write there."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from airflow.sdk import Connection
from airflow.sdk.exceptions import AirflowNotFoundException
from airflow.sdk.log import mask_secret
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_fixed

from extract_load import ConfigError, ExtractLoadError

_ATTEMPTS = 2
_TIMEOUTS = (5, 10)
"""Seconds to connect, and to wait for each answer."""
_TYPES = frozenset({"http", "https", "slackwebhook"})
_HINT = (
    "Write a connection of type HTTP or Slack Incoming Webhook whose host is the URL up to the "
    "token and whose password is the token."
)


class WebhookFailed(ExtractLoadError):
    """A message did not reach the webhook."""


class _Unavailable(WebhookFailed):
    """... and may reach it in a moment."""

    retryable = True


def post(conn_id: str, body: Mapping[str, Any]) -> None:
    """Sends JSON to a webhook, twice at most.

    Args:
        conn_id: The Airflow connection with its URL.
        body: The message.

    Raises:
        ConfigError: If the connection leads to no webhook.
        WebhookFailed: If the message was not taken.
    """
    url = webhook_url(conn_id)
    for attempt in Retrying(
        stop=stop_after_attempt(_ATTEMPTS),
        wait=wait_fixed(1),
        retry=retry_if_exception_type(_Unavailable),
        reraise=True,
    ):
        with attempt:
            _post_once(conn_id, url, body)


def webhook_url(conn_id: str) -> str:
    """Returns the URL that an Airflow connection holds.

    The host may be the whole URL, or what stands before the token, which is the password then.

    Args:
        conn_id: The connection.

    Raises:
        ConfigError: If there is no such connection, or no such URL in it.
    """
    found = _connection(conn_id)
    if found.conn_type not in _TYPES:
        told = f'Its type is "{found.conn_type}".'
        raise ConfigError(f'connection "{conn_id}" leads to no webhook', told, _HINT)
    host, schema, token = (text or "" for text in (found.host, found.schema, found.password))
    if "://" not in host:
        # An HTTP connection says its protocol in "schema", a URL has the path there.
        scheme = schema if schema in {"http", "https"} else found.conn_type
        host = f"{'http' if scheme == 'http' else 'https'}://{host}"
        host += f":{found.port}" if found.port else ""
    path = schema if schema not in {"http", "https"} else ""
    url = "/".join(part.strip("/ ") for part in (host, path, token) if part)
    if not _is_http(url):
        told = "Host, schema and password give no http or https URL."
        raise ConfigError(f'connection "{conn_id}" leads to no webhook', told, _HINT)
    for secret in (url, urlsplit(url).path.strip("/")):
        mask_secret(secret)
    return url


def _connection(conn_id: str) -> Any:
    try:
        return Connection.get(conn_id)
    except AirflowNotFoundException:
        raise ConfigError(
            f'there is no connection "{conn_id}"',
            "It is named by webhook_conn_id in execution_monitoring_configs.",
            _HINT,
        ) from None
    except Exception as exc:  # noqa: BLE001 - a backend's; its text may repeat the URI
        told = f"Airflow told {type(exc).__name__}."
        raise ConfigError(f'connection "{conn_id}" cannot be read', told, _HINT) from None


def _is_http(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme in {"http", "https"} and bool(parts.netloc)


def _post_once(conn_id: str, url: str, body: Mapping[str, Any]) -> None:
    """Sends it. The texts of requests' exceptions hold the URL: they go no further than here."""
    import requests  # takes 40 ms, which no DAG file should pay

    primary = f'webhook "{conn_id}" did not take the message'
    try:
        with (
            _silent(),
            requests.post(
                url, json=body, timeout=_TIMEOUTS, allow_redirects=False, stream=True
            ) as answer,
        ):
            status = answer.status_code
    except (requests.ConnectionError, requests.Timeout) as exc:
        told = f"The connection failed: {type(exc).__name__}."
        hint = "Check the host of the connection, and that this machine may reach it."
        raise _Unavailable(primary, told, hint) from None
    except (requests.RequestException, ValueError) as exc:
        raise WebhookFailed(primary, f"It failed: {type(exc).__name__}.", _HINT) from None
    if 200 <= status < 300:
        return
    kind = _Unavailable if status == 429 or status >= 500 else WebhookFailed
    hint = "Check that the webhook still exists, and the token of the connection."
    raise kind(primary, f"It answered with HTTP status {status}.", hint)


@contextmanager
def _silent() -> Iterator[None]:
    """Keeps urllib3 from logging the path of the URL, which it does at debug level."""
    loggers = [logging.getLogger(f"urllib3.{name}") for name in ("connectionpool", "util.retry")]
    were = [logger.disabled for logger in loggers]
    for logger in loggers:
        logger.disabled = True
    try:
        yield
    finally:
        for logger, was in zip(loggers, were, strict=True):
            logger.disabled = was
