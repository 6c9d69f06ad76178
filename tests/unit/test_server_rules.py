"""What facts about a server mean: versions and thresholds no server here can be made to have."""

from dataclasses import replace
from typing import Any

import pytest

from extract_load.connection_parameters import ConnectionParameters
from extract_load.errors import SourceUnavailable
from extract_load.findings import Code, Finding, Severity
from extract_load.server_facts import ConnectionLimit, OpenWriter, ServerFacts
from extract_load.server_rules import (
    LONG_READ,
    MANY_XIDS,
    OLD_TRANSACTION,
    Needs,
    refusal,
    server_findings,
    tls_findings,
    version_finding,
)
from extract_load.target_rules import disk_finding

FACTS = ServerFacts(
    role="reader",
    is_standby=False,
    is_read_only=False,
    sends_feedback=False,
    conflict_delay_ms=30_000,
    sees_transactions=True,
    may_create_schemas=True,
    databases_bytes=0,
    open_xids=0,
)
SOURCE = Needs(is_source=True, is_target=False, connections=3, allowed_connections=4)
SERVER = ConnectionParameters("warehouse", "db.example.com", "dwh", "loader")
MIB = 1 << 20


def one(findings: list[Finding]) -> Finding:
    (finding,) = findings
    return finding


@pytest.mark.parametrize(
    ("version", "shown"),
    [(120022, "12.22"), (110005, "11.5"), (90624, "9.6"), (90224, "9.2")],
    ids=["12", "11", "9.6", "9.2"],
)
def test_a_version_before_13_is_too_old(version: int, shown: str) -> None:
    finding = version_finding(version)

    assert finding is not None
    assert (finding.severity, finding.code) == (Severity.ERROR, Code.VERSION_TOO_OLD)
    assert finding.what == f"PostgreSQL {shown} is too old"
    assert "the oldest that has them is 13" in finding.detail
    assert finding.remedy == "Upgrade the server to a version that is supported."


@pytest.mark.parametrize("version", [130000, 180000])
def test_a_supported_version_is_no_finding(version: int) -> None:
    assert version_finding(version) is None


def writer(seconds: float | None) -> OpenWriter:
    return OpenWriter("active", "session 7 (job)", "app", "shop", seconds, "7")


def test_a_writer_is_told_of_from_an_age_on() -> None:
    age = OLD_TRANSACTION.total_seconds()

    assert list(server_findings(replace(FACTS, writers=(writer(age - 1),)), SOURCE)) == []
    assert list(server_findings(replace(FACTS, writers=(writer(None),)), SOURCE)) == []
    finding = one(list(server_findings(replace(FACTS, writers=(writer(age),)), SOURCE)))
    assert finding.what == "session 7 (job) has been in a transaction for 5 minutes"
    assert finding.detail == 'It has written and is active, of role "app" in database "shop".'


def test_a_hidden_transaction_shows_by_its_number() -> None:
    needs = replace(SOURCE, reads_xmin=True)

    finding = one(list(server_findings(replace(FACTS, open_xids=MANY_XIDS), needs)))

    assert (finding.severity, finding.code) == (Severity.WARNING, Code.OLD_TRANSACTION)
    assert finding.what == "an open transaction is 1,000,000 transactions old"
    assert "every xmin run reads all rows written since again" in finding.detail
    assert "pg_stat_activity" in finding.remedy


@pytest.mark.parametrize(
    ("change", "is_told"),
    [
        ({}, True),
        ({"conflict_delay_ms": -1}, False),
        ({"conflict_delay_ms": int(LONG_READ.total_seconds() * 1000)}, False),
        ({"sends_feedback": True}, False),
        ({"is_standby": False}, False),
    ],
    ids=["short", "for ever", "long", "feedback", "primary"],
)
def test_when_a_standby_cancels_reads(change: dict[str, Any], is_told: bool) -> None:
    facts = replace(FACTS, **{"is_standby": True, **change})

    found = [finding.code for finding in server_findings(facts, SOURCE)]

    assert found == ([Code.RECOVERY_CONFLICTS] if is_told else [])


def test_connections_that_others_hold_now_are_a_warning() -> None:
    busy = replace(FACTS, limits=(ConnectionLimit("the server", 100, 98),))

    finding = one(list(server_findings(busy, SOURCE)))

    assert (finding.severity, finding.code) == (Severity.WARNING, Code.TOO_FEW_CONNECTIONS)
    assert finding.what == "a run needs 3 connections, and 2 are to be had"
    assert "the server allows it 100, of which others hold 98" in finding.detail


@pytest.mark.parametrize(
    ("held", "severity"),
    [(80, None), (85, Severity.WARNING), (95, Severity.ERROR)],
    ids=["fits", "nearly full", "too small"],
)
def test_how_full_a_disk_gets(held: int, severity: Severity | None) -> None:
    where = replace(SERVER, target_disk_mb=100)

    finding = disk_finding(where, replace(FACTS, databases_bytes=held * MIB), 10 * MIB)

    assert (finding.severity if finding else None) is severity
    assert disk_finding(SERVER, replace(FACTS, databases_bytes=held * MIB), 10 * MIB) is None


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "/var/run/postgresql"])
def test_loopback_and_sockets_need_no_certificate(host: str) -> None:
    assert list(tls_findings(replace(SERVER, host=host), is_encrypted=False)) == []


def test_what_is_not_known_of_a_way_is_told_by_its_settings() -> None:
    finding = one(list(tls_findings(SERVER, is_encrypted=None)))
    assert finding.what == 'sslmode "require" does not prove whom it talks to'
    verified = replace(SERVER, libpq=(("sslmode", "verify-full"),))
    assert list(tls_findings(verified, is_encrypted=True)) == []


def test_a_connection_that_breaks_for_another_reason() -> None:
    finding = refusal(SourceUnavailable("could not begin", "It said: gone.", "Run again."))

    assert (finding.severity, finding.code) == (Severity.ERROR, Code.CONNECTION_FAILED)
    assert (finding.what, finding.remedy) == ("could not begin", "Run again.")
