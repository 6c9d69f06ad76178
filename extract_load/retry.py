"""What a server's refusal means: which of our errors it is, and whether trying again may help.

It knows SQLSTATEs (manual, appendix A) and, because a failed connect carries none in psycopg2,
the texts libpq and the server use then.
"""

import random
import re
from collections.abc import Callable
from typing import Literal, TypeVar

import psycopg2

from extract_load.errors import (
    ExtractLoadError,
    SourceBusy,
    SourceError,
    SourceUnavailable,
    TargetError,
    TargetUnavailable,
)

Side = Literal["source", "target", "server"]
"""What a server is to a run; `server` where there is no run, only a login."""
Result = TypeVar("Result")

CONNECT_ATTEMPTS = 4
"""Connecting is given up after about two seconds: longer faults are the scheduler's."""

_ERRORS: dict[Side, tuple[type[ExtractLoadError], type[ExtractLoadError]]] = {
    "source": (SourceError, SourceUnavailable),
    "target": (TargetError, TargetUnavailable),
    "server": (SourceError, SourceUnavailable),
}
LOCK_NOT_AVAILABLE = "55P03"
QUERY_CANCELED = "57014"
_RETRYABLE_CLASSES = ("08",)
_RETRYABLE_STATES = frozenset(
    {"57P01", "57P02", "57P03", "53300", LOCK_NOT_AVAILABLE, "40001", "40P01", "25P03", "25P04"}
)
_QUOTING = (
    "Set standard_conforming_strings to on for the role (ALTER ROLE ... SET), "
    "or update the PgBouncer between to 1.20 or later."
)
_REFUSED = {
    "password authentication failed": "Check user and password of the connection.",
    "no password supplied": "Give the connection a password.",
    "does not exist": "Check user and database of the connection.",
    "no pg_hba.conf entry": "Ask for this host among the cluster's trusted sources.",
    "is not permitted to log in": "Grant LOGIN to the role.",
    "permission denied for database": "Grant CONNECT on the database to the role.",
    "certificate": "Check sslrootcert and the host name of the connection.",
    "does not support SSL": 'Set sslmode to "disable" if the network is your own.',
    "standard_conforming_strings": _QUOTING,
    "unsupported startup parameter: options": _QUOTING,
    "invalid sslmode value": "Set sslmode to disable, prefer, require, verify-ca or verify-full.",
}
"""Texts of a server that answered and will answer the same again."""
_NO_SLOT = (
    "too many connections",
    "too many clients",
    "remaining connection slots",
    "no more connections allowed",
)
"""Texts of a server, or a pooler, that has no connection free."""

_RUN_AGAIN = "Run again: what is published stays, and chunks that are loaded count."
_LOOK = "Look for the cause in what the server said, mend it, and run again."
_HINTS = {
    "42501": "Grant the role what it lacks, then run again; nothing was published.",
    "53100": "Make space on the server's disk, then run again.",
}


_COPY_CONTEXT = re.compile(
    r'COPY .*?, line \d+, column (?P<column>.*?)(?:: "|: null input|\Z)', re.DOTALL
)
"""What the server says about where it stands in a COPY."""


def is_lost(exc: psycopg2.Error) -> bool:
    """Returns whether an error says no more than that the connection is gone."""
    # A plain DatabaseError: what psycopg2 raises for a COPY whose connection went without a word.
    return exc.pgcode is None and (
        isinstance(exc, psycopg2.OperationalError | psycopg2.InterfaceError)
        or type(exc) is psycopg2.DatabaseError
    )


def error_from(exc: psycopg2.Error, side: Side, conn_id: str, doing: str) -> ExtractLoadError:
    """Returns our error for one that psycopg2 raised while doing something.

    Args:
        exc: What psycopg2 raised.
        side: What the server is to the run.
        conn_id: Which server: with several targets the side alone would not tell.
        doing: What we did, as in "could not <doing>".
    """
    terminal, unavailable = _ERRORS[side]
    state = exc.pgcode
    retryable = is_lost(exc) or (
        state is not None and (state[:2] in _RETRYABLE_CLASSES or state in _RETRYABLE_STATES)
    )
    kind = unavailable if retryable else terminal
    said = exc.diag.message_primary or _first_line(exc)
    more = exc.diag.message_detail or ""
    error = kind(
        f"could not {doing}",
        f'The {side} "{conn_id}" said: {said}'
        + (f" ({more})" if more else "")
        + _column_note(exc.diag.context)
        + _state_note(state),
        _HINTS.get(state or "", _RUN_AGAIN if retryable else _LOOK),
    )
    error.sqlstate = state
    return error


def connect_error_from(
    exc: psycopg2.OperationalError, side: Side, conn_id: str, address: str
) -> ExtractLoadError:
    """Returns our error for a connection that could not be opened."""
    terminal, unavailable = _ERRORS[side]
    text = str(exc)
    for known, hint in _REFUSED.items():
        if known in text:
            refused = terminal(
                f'{side} "{conn_id}" refused the connection', f"{address}: {_reason(exc)}", hint
            )
            refused.refusal = "certificate" if known == "certificate" else "login"
            return refused
    failed = unavailable(
        f'could not connect to {side} "{conn_id}"',
        f"{address}: {_reason(exc)}",
        "Check the host name of the connection, and that it can be looked up from here."
        if "could not translate host name" in text
        else "Check that the server is up and that this host is among its trusted sources.",
    )
    failed.refusal = "slots" if any(known in text for known in _NO_SLOT) else "unreachable"
    return failed


def attempt(
    action: Callable[[], Result],
    *,
    attempts: int,
    on_retry: Callable[[ExtractLoadError], None] = lambda _: None,
    unless: Callable[[ExtractLoadError], bool] = lambda _: False,
) -> Result:
    """Returns what the action returns, repeating it while its error is retryable.

    Args:
        action: Done up to `attempts` times, with growing, jittered pauses of up to 5 s.
        attempts: At least 1.
        on_retry: Told of each error that is followed by another attempt.
        unless: Whether repeating this action cannot mend a retryable error.

    Raises:
        ExtractLoadError: The last one, when no attempt succeeded.
    """

    def may_help(exc: BaseException) -> bool:
        return isinstance(exc, ExtractLoadError) and exc.retryable and not unless(exc)

    try:
        return action()
    except ExtractLoadError as error:
        if attempts == 1 or not may_help(error):
            raise
        return _attempt_again(action, error, attempts, on_retry, may_help)


def _attempt_again(
    action: Callable[[], Result],
    first: ExtractLoadError,
    attempts: int,
    on_retry: Callable[[ExtractLoadError], None],
    may_help: Callable[[BaseException], bool],
) -> Result:
    """What follows a first attempt that ended with a retryable error."""
    # Only now: tenacity brings asyncio along, a tenth of the time a run takes to start.
    from tenacity import (  # noqa: PLC0415
        RetryCallState,
        Retrying,
        retry_if_exception,
        stop_after_attempt,
        wait_exponential_jitter,
    )

    made = [first]

    def once() -> Result:
        if made:
            raise made.pop()
        return action()

    def tell(state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        if isinstance(error, ExtractLoadError):
            on_retry(error)

    return Retrying(
        stop=stop_after_attempt(attempts),
        wait=wait_exponential_jitter(multiplier=0.2, max=5, jitter=0.3),
        retry=retry_if_exception(may_help),
        before_sleep=tell,
        reraise=True,
    )(once)


class Patience:
    """How long a landing goes on trying: while every few tries keep more than those before.

    Pauses grow to eight seconds, so that a server has time to start again.
    """

    def __init__(self, tries: int) -> None:
        """Begins.

        Args:
            tries: How many failures in a row may have brought nothing that was kept.
        """
        self._tries = tries
        self._fruitless = 0
        self._kept = 0

    def pause(self, error: ExtractLoadError, kept: int) -> float | None:
        """Returns the seconds to wait before another try; None where it would not help.

        Args:
            error: What the last try ended with.
            kept: What it had begun with: how much earlier tries had done that still counted.
        """
        self._fruitless = 1 if kept > self._kept else self._fruitless + 1
        self._kept = max(kept, self._kept)
        may_help = isinstance(error, SourceUnavailable | TargetUnavailable)
        is_waited_for = error.sqlstate == LOCK_NOT_AVAILABLE or isinstance(error, SourceBusy)
        if not may_help or is_waited_for or self._fruitless > self._tries:
            return None
        return min(0.25 * 4.0 ** (self._fruitless - 1), 8.0) * random.uniform(0.5, 1.0)  # noqa: S311 - no secret


def _first_line(exc: psycopg2.Error) -> str:
    return (str(exc).strip() or type(exc).__name__).splitlines()[0]


def _reason(exc: psycopg2.Error) -> str:
    """What libpq says, without the address it puts in front."""
    return _first_line(exc).rpartition(" failed: ")[2]


def _column_note(context: str | None) -> str:
    """The column that a COPY stopped at; not the value, which stands there too."""
    found = _COPY_CONTEXT.match(context or "")
    return f' in column "{found["column"]}"' if found else ""


def _state_note(state: str | None) -> str:
    return f" [SQLSTATE {state}]" if state else ""
