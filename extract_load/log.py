"""Log lines: key=value, with the run and the table on every one.

2026-11-22T02:00:14Z INFO  published run=1f3a table=public.orders raw_table=raw_data.orders
"""

import json
import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType

_context: ContextVar[Mapping[str, str]] = ContextVar(
    "extract_load_log_context", default=MappingProxyType({})
)
_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


def get_logger(name: str) -> logging.Logger:
    """Returns the logger of a module."""
    return logging.getLogger(name)


@contextmanager
def bound(**facts: str) -> Iterator[None]:
    """Puts facts on every line of its block: of this thread, and of those that take its context."""
    token = _context.set({**_context.get(), **facts})
    try:
        yield
    finally:
        _context.reset(token)


class KeyValueFormatter(logging.Formatter):
    """Formats a record as one line: time in UTC, level, message, facts."""

    converter = staticmethod(time.gmtime)

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-5s %(message)s", "%Y-%m-%dT%H:%M:%SZ")

    def format(self, record: logging.LogRecord) -> str:
        """Returns the line."""
        return " ".join([super().format(record), *_facts(record)])


def message_and_facts(record: logging.LogRecord) -> str:
    """Returns a record as `published run=1f3a rows=8123`, without time and level.

    To be called where the record was logged: the run and the table belong to its context.
    """
    return " ".join([record.getMessage(), *_facts(record)])


def to_stderr(level: int) -> None:
    """Sends this package's log lines to standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(KeyValueFormatter())
    logger = logging.getLogger("extract_load")
    logger.handlers = [handler]
    logger.setLevel(level)
    logger.propagate = False


def _facts(record: logging.LogRecord) -> list[str]:
    own = {key: value for key, value in vars(record).items() if key not in _STANDARD}
    return [f"{key}={_quoted(value)}" for key, value in {**_context.get(), **own}.items()]


def _quoted(value: object) -> str:
    text = f"{value:.2f}" if isinstance(value, float) else str(value)
    return json.dumps(text, ensure_ascii=False) if " " in text or '"' in text else text
