"""The ledger: the tables of schema `extract_load` in every target.

Every function works inside the caller's transaction, so that what it says commits with the rows
it speaks of.
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from psycopg2 import sql
from psycopg2.extras import Json

from extract_load import __version__
from extract_load.connection import Session
from extract_load.errors import TargetError
from extract_load.identifiers import TableName
from extract_load.sql import queries
from extract_load.watermark import RawMark, Watermark

SCHEMA = "extract_load"
SCRATCH_SCHEMA = "extract_load_scratch"
_TAKE_LOCK = f"SELECT pg_advisory_xact_lock({0x65786C64})"
"""A number of ours; the lock ends with the transaction, so that a pooler cannot keep it."""


def migrate(session: Session) -> None:
    """Creates or updates the ledger, in one transaction, one caller at a time.

    Raises:
        TargetError: If a newer version of this package wrote the ledger, or the role may not
            create it.
    """
    with session.transaction(doing="create the ledger"):
        session.execute(_TAKE_LOCK)
        known = migrations()
        present = ledger_version(session)
        if present > len(known):
            raise TargetError(
                f'the ledger in target "{session.parameters.conn_id}" is newer than this program',
                f"It is at version {present}; this program knows {len(known)}.",
                "Install the extract-load that wrote it, or a later one.",
            )
        if present == len(known):
            return
        if not present:
            _create_schemas(session)
        for number, text in list(enumerate(known, start=1))[present:]:
            session.execute(text, doing="create the ledger")
            session.execute(
                "INSERT INTO extract_load.ledger_version (version) VALUES (%(number)s)",
                {"number": number},
            )


def migrations() -> list[str]:
    """Returns the SQL of every migration, oldest first."""
    folder = Path(__file__).parent / "sql" / "migrations"
    names = sorted(item.name for item in folder.iterdir() if item.name.endswith(".sql"))
    return [(folder / name).read_text(encoding="utf-8") for name in names]


def ledger_version(session: Session) -> int:
    """Returns how many migrations the ledger of a target has seen; 0 where there is none."""
    found = session.execute("SELECT to_regclass('extract_load.ledger_version') IS NOT NULL")
    if not found[0][0]:
        return 0
    return int(session.execute("SELECT max(version) FROM extract_load.ledger_version")[0][0])


def _create_schemas(session: Session) -> None:
    for schema in (SCHEMA, SCRATCH_SCHEMA):
        create_schema(session, schema)
    session.execute(
        "CREATE TABLE extract_load.ledger_version ("
        "version integer PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT clock_timestamp())"
    )


def create_schema(session: Session, schema: str) -> None:
    """Creates a schema unless it is there, one caller at a time, in the caller's transaction.

    It asks first: CREATE SCHEMA IF NOT EXISTS wants the right to create one even where it need
    not, and two callers at once make one of them fail.
    """
    if _has_schema(session, schema):
        return
    session.execute(_TAKE_LOCK)
    if not _has_schema(session, schema):
        session.execute(
            sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(schema)),
            doing=f'create schema "{schema}"',
        )


def _has_schema(session: Session, schema: str) -> bool:
    query = "SELECT count(*) FROM pg_namespace WHERE nspname = %(name)s"
    return bool(session.execute(query, {"name": schema})[0][0])


def scratch_tables(target: TableName, name: str) -> tuple[TableName, ...]:
    """Returns every table that a run may leave beside a raw table.

    Args:
        target: The raw table.
        name: Of its scratch table.
    """
    return (
        TableName(target.schema, name),
        *(TableName(SCRATCH_SCHEMA, f"{name}{part}") for part in ("", "_keys", "_changed", "_new")),
    )


def start_run(session: Session, run_id: str, invoked_by: Mapping[str, Any]) -> None:
    """Writes that a run reached this target."""
    session.execute(
        queries("ledger")["start_run"],
        {
            "run_id": run_id,
            "invoked_by": Json(dict(invoked_by)),
            "version": __version__,
        },
    )


def finish_run(session: Session, run_id: str, status: str, peak_rss_bytes: int) -> None:
    """Writes how a run ended."""
    session.execute(
        queries("ledger")["finish_run"],
        {"run_id": run_id, "status": status, "peak_rss_bytes": peak_rss_bytes},
    )


def start_table_run(session: Session, facts: Mapping[str, Any]) -> None:
    """Writes that a run works on a table."""
    session.execute(queries("ledger")["start_table_run"], facts)


def finish_table_run(session: Session, facts: Mapping[str, Any]) -> None:
    """Writes how a run's work on a table ended."""
    error = facts["error"]
    session.execute(
        queries("ledger")["finish_table_run"], {**facts, "error": Json(error) if error else None}
    )


def read_watermark(session: Session, target: TableName) -> Watermark | None:
    """Returns what is known of a raw table, or None where none was ever published."""
    rows = session.execute(queries("ledger")["read_watermark"], _named(target))
    if not rows:
        return None
    oid, identity, fingerprint, lsn, cursor_value, xid, loaded_at, *added = rows[0]
    open_for, snapshot_xid, run_id, mark = added
    return Watermark(
        target_oid=oid,
        identity=identity,
        fingerprint=fingerprint,
        lsn=lsn,
        cursor_value=cursor_value,
        xid=None if xid is None else int(xid),
        loaded_at=loaded_at,
        open_for=open_for,
        snapshot_xid=None if snapshot_xid is None else int(snapshot_xid),
        run_id=run_id,
        raw_mark=RawMark(**{**mark, "writers": tuple(mark["writers"])}) if mark else None,
    )


def write_watermark(session: Session, target: TableName, facts: Mapping[str, Any]) -> None:
    """Writes how far a raw table is published. Belongs into the publishing transaction."""
    mark = facts["raw_mark"]
    session.execute(
        queries("ledger")["write_watermark"],
        {
            **_named(target),
            **facts,
            "identity": Json(facts["identity"]),
            "fingerprint": Json(facts["fingerprint"]),
            "raw_mark": Json(asdict(mark)) if mark else None,
        },
    )


def forget_watermark(session: Session, target: TableName) -> bool:
    """Returns whether there was a raw table whose watermark is now forgotten."""
    return session.change(queries("ledger")["forget_watermark"], _named(target)) > 0


def forget_fingerprint(session: Session, target: TableName) -> None:
    """Lets the next run read the whole table, also when this one ends before its publish.

    Identity and WAL position stay: a snapshot older than what is published is still known as one.
    """
    session.execute(queries("ledger")["forget_fingerprint"], _named(target))


def forget_mark(session: Session, target: TableName) -> None:
    """Lets the next `full_sync` rely on no row of the raw table."""
    session.execute(queries("ledger")["forget_mark"], _named(target))


def _named(target: TableName) -> dict[str, Any]:
    return {"target_schema": target.schema, "target_table": target.table}
