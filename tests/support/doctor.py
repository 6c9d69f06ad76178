"""Asking `doctor` in a test, and what it must have said of one seeded fault."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from psycopg2 import sql

from extract_load.config import Settings
from extract_load.doctor import Examination, examine
from extract_load.doctor_report import examination_as_dict, examination_as_text
from extract_load.findings import Code, Finding, Severity
from extract_load.selection import resolve_all
from tests.support.landing import environment, settings
from tests.support.servers import Database

ITEMS: dict[str, Any] = {"source": "public.items"}


def diagnose(
    source: Database,
    target: Database,
    *tables: Mapping[str, Any],
    variables: Mapping[str, str] = {},
    **run_keys: Any,
) -> Examination:
    """Returns what `doctor` finds; the raw table's name follows from the source's.

    Args:
        source: The source database.
        target: The target database.
        tables: Table keys.
        variables: Of the environment, over those that name the databases.
        run_keys: Of the settings.
    """
    chosen = settings(*(tables or (ITEMS,)), **run_keys)
    return diagnosis(chosen, {**environment(source, target), **variables})


def diagnosis(chosen: Settings, variables: Mapping[str, str]) -> Examination:
    """Returns what `doctor` finds with some settings."""
    return examine(chosen, chosen.tables, resolve_all(chosen.tables, variables, None))


def codes(examination: Examination) -> list[tuple[str, str]]:
    """Returns severity and code of every finding."""
    return [(str(f.severity), str(f.code)) for f in examination.findings]


def assert_found(
    examination: Examination,
    severity: Severity,
    code: Code,
    what: str,
    *facts: str,
    remedy: str,
) -> Finding:
    """Returns the one finding of a code, which both forms of the output tell.

    Args:
        examination: All findings.
        severity: Its severity.
        code: Its code.
        what: A part of what it says.
        facts: Parts of its detail.
        remedy: A part of its remedy.
    """
    found = [finding for finding in examination.findings if finding.code is code]
    assert len(found) == 1, codes(examination)
    (finding,) = found
    assert finding.severity is severity
    assert what in finding.what
    for fact in facts:
        assert fact in finding.detail
    assert remedy in finding.remedy
    text = examination_as_text(examination)
    assert f"{severity}: {finding.what} [{code}]" in text
    assert finding.remedy in text
    shown = json.loads(json.dumps(examination_as_dict(examination), ensure_ascii=False))
    assert finding.as_dict() in shown["findings"]
    return finding


def new_role(database: Database, attributes: str = "", grants: str = "") -> Database:
    """Returns a database as a fresh role enters it.

    Args:
        database: As its superuser enters it.
        attributes: Of the role, as CREATE ROLE takes them.
        grants: Statements, in which `{role}` is the role.
    """
    role = f"role_{database.name}"
    database.execute(
        sql.SQL("DROP ROLE IF EXISTS {role}; CREATE ROLE {role} LOGIN PASSWORD 'p' ").format(
            role=sql.Identifier(role)
        )
        + sql.SQL(attributes)
    )
    if grants:
        database.execute(grants.format(role=role))
    return replace(database, user=role, password="p")
