"""What facts about a server mean for a run: findings about a connection.

Pure: takes what was read, gives findings.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

from extract_load.config import duration_text
from extract_load.connection_parameters import ConnectionParameters
from extract_load.errors import ExtractLoadError
from extract_load.findings import Code, Finding, Severity
from extract_load.identifiers import quoted_name
from extract_load.server_facts import (
    OLDEST_VERSION,
    OpenWriter,
    ServerFacts,
    version_text,
)

OLD_TRANSACTION = timedelta(minutes=5)
"""A transaction that has written is forgotten, or long, from this age on."""
MANY_XIDS = 1_000_000
"""So many transactions between the oldest open one and the newest: somebody holds xmin back."""
LONG_READ = timedelta(minutes=15)
"""A standby that cancels reads before this age may cancel a run's."""

_REFUSALS = {
    "login": Code.LOGIN_REFUSED,
    "certificate": Code.CERTIFICATE_REFUSED,
    "slots": Code.TOO_FEW_CONNECTIONS,
    "unreachable": Code.UNREACHABLE,
}


@dataclass(frozen=True)
class Needs:
    """What the selected tables need of one server."""

    is_source: bool
    is_target: bool
    connections: int
    """That a run opens, at the most."""
    allowed_connections: int = 0
    """`source_max_connections`: what a run with more tables or workers may open; 0: no source."""
    reads_xmin: bool = False
    reads_cursor: bool = False


def refusal(error: ExtractLoadError, fault: str | None = None) -> Finding:
    """Returns the finding for a connection that could not be opened, or broke.

    Args:
        error: What was said.
        fault: Why the certificate was refused, where that is known.
    """
    code = _REFUSALS.get(error.refusal or "", Code.CONNECTION_FAILED)
    detail, remedy = error.detail, error.hint
    if code is Code.CERTIFICATE_REFUSED and fault:
        detail = f"{detail} The certificate was checked: {fault}."
        if "expired" in fault:
            remedy = "Renew the server's certificate; nothing but that mends it."
    if code is Code.TOO_FEW_CONNECTIONS:
        remedy = (
            "End sessions of this role, raise its CONNECTION LIMIT, the database's, or the "
            "server's max_connections."
        )
    return Finding(Severity.ERROR, code, error.primary, detail, remedy)


def tls_findings(
    parameters: ConnectionParameters, *, is_encrypted: bool | None
) -> Iterator[Finding]:
    """Yields what is wrong with the way to a server.

    Args:
        parameters: The connection.
        is_encrypted: Whether it is; None where it could not be opened.
    """
    if parameters.is_local or parameters.sslmode == "verify-full":
        return
    if is_encrypted is False:
        what = f'the connection is not encrypted (sslmode "{parameters.sslmode}")'
        detail = "Passwords and rows can be read, and changed, on the way."
    else:
        what = f'sslmode "{parameters.sslmode}" does not prove whom it talks to'
        detail = (
            "The certificate is checked, the host's name in it is not."
            if parameters.sslmode == "verify-ca"
            else "It encrypts for whoever answers: the certificate is not checked."
        )
    remedy = (
        'Set "sslmode" to "verify-full" and "sslrootcert" to the file of the server\'s CA in the '
        "extra of the connection."
    )
    yield Finding(Severity.WARNING, Code.SSLMODE_WEAK, what, detail, remedy)


def version_finding(version: int) -> Finding | None:
    """Returns what is wrong with a server's version; None for a supported one."""
    if version >= OLDEST_VERSION:
        return None
    return Finding(
        Severity.ERROR,
        Code.VERSION_TOO_OLD,
        f"PostgreSQL {version_text(version)} is too old",
        "It lacks the 64-bit snapshots that every mode rests on; the oldest that has them is "
        f"{OLDEST_VERSION // 10000}. Nothing more was asked of this server.",
        "Upgrade the server to a version that is supported.",
    )


def pooling_finding(*, has_transactions: bool, needs: Needs) -> Finding:
    """Returns what a pooler means that was found before a server."""
    if not has_transactions:
        return Finding(
            Severity.ERROR,
            Code.STATEMENT_POOLING,
            "a pooler in statement mode stands before the server",
            "BEGIN ends the connection, single statements work: it allows no transaction of several"
            " statements, and every read and publish is one.",
            "Connect to the server itself, or to a pool with pool_mode = transaction or session.",
        )
    return Finding(
        Severity.NOTE,
        Code.POOLER,
        "a pooler stands before the server",
        f"Transactions work through it. A run holds up to {needs.connections} of its server "
        "connections for as long as it reads or writes.",
        f"Give the pool at least {needs.connections} connections for this role, or connect to "
        "the server itself.",
    )


def server_findings(facts: ServerFacts, needs: Needs) -> Iterator[Finding]:
    """Yields what a server's state means for a run."""
    if needs.is_target:
        yield from _read_only(facts)
    yield from _too_few_connections(facts, needs)
    if needs.is_source:
        yield from _recovery_conflicts(facts)
        yield from _old_transactions(facts, needs)


def _read_only(facts: ServerFacts) -> Iterator[Finding]:
    if facts.is_standby:
        yield Finding(
            Severity.ERROR,
            Code.READ_ONLY_TARGET,
            "the target takes no writes: it is a standby",
            "A server in recovery repeats what its primary does, and nothing else.",
            "Name the primary in the connection.",
        )
    elif facts.is_read_only:
        yield Finding(
            Severity.ERROR,
            Code.READ_ONLY_TARGET,
            "the target takes no writes: its transactions are read-only",
            "default_transaction_read_only is on for the server, the database or the role. Some "
            "providers set it when the disk is nearly full.",
            f"Make space if the disk is full, then run: ALTER ROLE {quoted_name(facts.role)} SET "
            "default_transaction_read_only = off, or mend it where it was set.",
        )


def _too_few_connections(facts: ServerFacts, needs: Needs) -> Iterator[Finding]:
    for limit in facts.limits:
        free = limit.allowed - limit.used
        held = f"{limit.name} allows it {limit.allowed}, of which others hold {max(limit.used, 0)}"
        if free < needs.connections:
            is_too_low = limit.allowed < needs.connections
            yield Finding(
                Severity.ERROR if is_too_low else Severity.WARNING,
                Code.TOO_FEW_CONNECTIONS,
                f"a run needs {needs.connections} connections, and {max(free, 0)} are to be had",
                f"Role {quoted_name(facts.role)}: {held}; superuser_reserved_connections are not "
                "among them.",
                _more_connections(needs),
            )
        elif limit.allowed < needs.allowed_connections:
            yield Finding(
                Severity.WARNING,
                Code.TOO_FEW_CONNECTIONS,
                f'"source_max_connections" is {needs.allowed_connections}, more than '
                f"{limit.allowed} are never to be had",
                f"Role {quoted_name(facts.role)}: {held}. These tables need {needs.connections}.",
                _more_connections(needs),
            )


def _more_connections(needs: Needs) -> str:
    fewer = "tables_in_parallel" if needs.is_target else "source_max_connections"
    return (
        "Raise the CONNECTION LIMIT of role or database, or max_connections, end sessions, or "
        f'lower "{fewer}" and "parallel_workers".'
    )


def _recovery_conflicts(facts: ServerFacts) -> Iterator[Finding]:
    delay = timedelta(milliseconds=facts.conflict_delay_ms)
    is_patient = facts.conflict_delay_ms < 0 or delay >= LONG_READ
    if not facts.is_standby or facts.sends_feedback or is_patient:
        return
    yield Finding(
        Severity.WARNING,
        Code.RECOVERY_CONFLICTS,
        "the source is a standby that cancels long reads",
        "hot_standby_feedback is off and max_standby_streaming_delay is "
        f"{duration_text(delay)}: a vacuum on the primary ends what has read for longer, "
        '"canceling statement due to conflict with recovery".',
        "Set hot_standby_feedback = on on the standby, or max_standby_streaming_delay above the "
        f"longest run ({duration_text(LONG_READ)} or more); or read from the primary.",
    )


def _old_transactions(facts: ServerFacts, needs: Needs) -> Iterator[Finding]:
    reads = [
        *(["every xmin run reads all rows written since again"] if needs.reads_xmin else []),
        *(["a cursor reads back to its begin, where it can be seen"] if needs.reads_cursor else []),
    ]
    cost = f" Until it ends, {' and '.join(reads)}." if reads else ""
    is_old = [writer for writer in facts.writers if _is_old(writer)]
    for writer in is_old:
        yield _old_transaction(writer, cost)
    if not is_old and facts.open_xids >= MANY_XIDS:
        yield Finding(
            Severity.WARNING,
            Code.OLD_TRANSACTION,
            f"an open transaction is {facts.open_xids:,} transactions old",
            f"The role does not see whose it is.{cost}",
            "Look for it as a superuser in pg_stat_activity (backend_xid) and pg_prepared_xacts.",
        )
    if needs.reads_cursor and not (facts.sees_transactions or facts.is_standby):
        role = quoted_name(facts.role)
        yield Finding(
            Severity.NOTE,
            Code.HIDDEN_TRANSACTIONS,
            "the role does not see how old other sessions' transactions are",
            'A cursor goes back by its "lookback" alone; what commits later than that is missed.',
            f'Run on the source: GRANT pg_read_all_stats TO {role}, or set "late_rows" to xmin.',
        )


def _is_old(writer: OpenWriter) -> bool:
    """A prepared transaction is old at once: who prepares one commits it in the next moment."""
    if writer.state == "prepared":
        return True
    return writer.seconds is not None and writer.seconds >= OLD_TRANSACTION.total_seconds()


def _old_transaction(writer: OpenWriter, cost: str) -> Finding:
    where = f'of role "{writer.owner}" in database "{writer.database}"'
    age = duration_text(timedelta(seconds=round(writer.seconds or 0)))
    if writer.state == "prepared":
        handle = writer.handle.replace("'", "''")
        return Finding(
            Severity.WARNING,
            Code.OLD_TRANSACTION,
            f"{writer.name} was never ended",
            f"It was prepared {age} ago, {where}.{cost} It outlives restarts, holds its locks and "
            "keeps vacuum from its work.",
            f"If nobody is to end it, run in its database: ROLLBACK PREPARED '{handle}', or "
            f"COMMIT PREPARED '{handle}'.",
        )
    return Finding(
        Severity.WARNING,
        Code.OLD_TRANSACTION,
        f"{writer.name} has been in a transaction for {age}",
        f"It has written and is {writer.state or 'of unknown state'}, {where}.{cost}",
        f"Wait for it, end it with SELECT pg_terminate_backend({writer.handle}), and set "
        "idle_in_transaction_session_timeout where it was forgotten.",
    )
