"""What `doctor` prints: findings and grants, for people and as JSON."""

from itertools import groupby
from typing import Any

from extract_load.doctor import Examination, Examined
from extract_load.findings import Finding, Severity
from extract_load.grants import Grants

_REMEDY = "-> "


def examination_as_dict(examination: Examination) -> dict[str, Any]:
    """Returns the JSON of `doctor`."""
    return {
        "summary": {
            "errors": _count(examination, Severity.ERROR),
            "warnings": _count(examination, Severity.WARNING),
            "notes": _count(examination, Severity.NOTE),
            "connections": len(examination.connections),
            "tables": len(examination.tables),
        },
        "findings": [finding.as_dict() for finding in examination.findings],
    }


def examination_as_text(examination: Examination) -> str:
    """Returns the findings by connection, then by table, the worst first."""
    lines: list[str] = []
    for connection in examination.connections:
        found = [f for f in examination.findings if f.connection == connection.conn_id]
        lines += [_headline(connection), *_connection_lines(found), ""]
    return "\n".join([*lines, _bottom_line(examination)])


def grants_as_dict(grants: tuple[Grants, ...]) -> dict[str, Any]:
    """Returns the JSON of `doctor --grants`."""
    return {
        "grants": [
            {
                "connection": one.conn_id,
                "side": one.side,
                "database": one.database,
                "role": one.role,
                "statements": list(one.statements),
                "notes": list(one.notes),
            }
            for one in grants
        ]
    }


def grants_as_text(grants: tuple[Grants, ...]) -> str:
    """Returns SQL, one part for each server, with what is to be known in comments."""
    parts = []
    for one in grants:
        head = f'-- on {one.side} "{one.conn_id}", database "{one.database}", as its owner'
        notes = [f"-- {note}" for note in one.notes]
        parts.append("\n".join([head, *(f"{line};" for line in one.statements), *notes]))
    return "\n\n".join(parts)


def _headline(connection: Examined) -> str:
    version = f", PostgreSQL {connection.version}" if connection.version else ""
    return f"{connection.conn_id} ({connection.sides}, {connection.address}{version})"


def _connection_lines(findings: list[Finding]) -> list[str]:
    if not findings:
        return ["  all well"]
    lines: list[str] = []
    of_connection = [finding for finding in findings if finding.table is None]
    lines += _finding_lines(of_connection, "  ")
    of_tables = [finding for finding in findings if finding.table is not None]
    for (table, target), group in groupby(of_tables, key=lambda f: (f.table, f.target)):
        lines.append(f"  {table} -> {target}")
        lines += _finding_lines(list(group), "    ")
    return lines


def _finding_lines(findings: list[Finding], indent: str) -> list[str]:
    lines = []
    order = list(Severity)
    for finding in sorted(findings, key=lambda finding: order.index(finding.severity)):
        lines.append(f"{indent}{finding.severity}: {finding.what} [{finding.code}]")
        if finding.detail:
            lines.append(f"{indent}  {finding.detail}")
        if finding.remedy:
            lines.append(f"{indent}  {_REMEDY}{finding.remedy}")
    return lines


def _bottom_line(examination: Examination) -> str:
    looked = (
        f"{_plural(len(examination.connections), 'connection')}, "
        f"{_plural(len(examination.tables), 'table')} looked at. Nothing was changed."
    )
    if not examination.findings:
        return f"All well. {looked}"
    counts = ", ".join(
        _plural(_count(examination, severity), severity.value)
        for severity in Severity
        if _count(examination, severity)
    )
    may_run = "" if _count(examination, Severity.ERROR) else " No error: a run can go ahead."
    return f"{counts}.{may_run} {looked}"


def _count(examination: Examination, severity: Severity) -> int:
    return sum(finding.severity is severity for finding in examination.findings)


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
