"""Which refusals may pass, and how an action is repeated."""

import psycopg2
import pytest
from psycopg2 import errors as pg

from extract_load.errors import (
    ExtractLoadError,
    SnapshotLost,
    SourceError,
    SourceUnavailable,
    TargetError,
    TargetUnavailable,
)
from extract_load.retry import attempt, connect_error_from, error_from


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ('connection to server at "h", port 1 failed: Connection refused', SourceUnavailable),
        ("timeout expired", SourceUnavailable),
        ('could not translate host name "h" to address', SourceUnavailable),
        ("FATAL:  the database system is starting up", SourceUnavailable),
        ("FATAL:  sorry, too many clients already", SourceUnavailable),
        ("치명적오류:  알 수 없는 오류", SourceUnavailable),
        ('FATAL:  password authentication failed for user "u"', SourceError),
        ('FATAL:  role "u" does not exist', SourceError),
        ('FATAL:  database "d" does not exist', SourceError),
        ('FATAL:  no pg_hba.conf entry for host "1.2.3.4"', SourceError),
        ("server does not support SSL, but SSL was required", SourceError),
        ('invalid sslmode value: "verify"', SourceError),
        ("FATAL:  unsupported startup parameter: options", SourceError),
    ],
)
def test_a_failed_connect_is_told_by_its_text(text: str, kind: type[ExtractLoadError]) -> None:
    error = connect_error_from(psycopg2.OperationalError(text), "source", "shop", "h:1/d")

    assert type(error) is kind
    assert '"shop"' in error.primary
    assert error.hint


def test_a_name_that_nobody_knows_is_not_a_server_that_is_down() -> None:
    text = 'could not translate host name "h" to address: Name or service not known'
    error = connect_error_from(psycopg2.OperationalError(text), "source", "shop", "h:1/d")
    assert error.hint.startswith("Check the host name of the connection")


@pytest.mark.parametrize(
    ("raised", "kind"),
    [
        (psycopg2.OperationalError("server closed the connection unexpectedly"), TargetUnavailable),
        (psycopg2.InterfaceError("connection already closed"), TargetUnavailable),
        (psycopg2.DatabaseError("error with status PGRES_COPY_OUT"), TargetUnavailable),
        (psycopg2.ProgrammingError("can't adapt"), TargetError),
    ],
)
def test_a_lost_connection_is_retryable(
    raised: psycopg2.Error, kind: type[ExtractLoadError]
) -> None:
    assert type(error_from(raised, "target", "two", "copy")) is kind


def test_serialization_failures_have_a_class_of_their_own() -> None:
    assert issubclass(pg.SerializationFailure, psycopg2.OperationalError)


def test_an_action_is_repeated_while_its_error_is_retryable() -> None:
    told: list[str] = []
    outcomes = iter([SourceUnavailable("first"), SourceUnavailable("second"), None])

    def action() -> str:
        if error := next(outcomes):
            raise error
        return "done"

    assert attempt(action, attempts=3, on_retry=lambda e: told.append(e.primary)) == "done"
    assert told == ["first", "second"]


def test_a_terminal_error_is_not_repeated() -> None:
    calls: list[int] = []

    def action() -> None:
        calls.append(1)
        raise SourceError("no")

    with pytest.raises(SourceError, match="no"):
        attempt(action, attempts=5)
    assert len(calls) == 1


def test_a_retryable_error_that_repeating_cannot_mend_is_not_repeated() -> None:
    calls: list[int] = []

    def action() -> None:
        calls.append(1)
        raise SnapshotLost("gone")

    with pytest.raises(SnapshotLost, match="gone"):
        attempt(action, attempts=5, unless=lambda error: isinstance(error, SnapshotLost))
    assert (len(calls), SnapshotLost.retryable) == (1, True)


def test_the_last_error_is_raised_when_attempts_are_used_up() -> None:
    def action() -> None:
        raise TargetUnavailable("still gone")

    with pytest.raises(TargetUnavailable, match="still gone"):
        attempt(action, attempts=2)
