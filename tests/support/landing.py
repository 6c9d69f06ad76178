"""Landing a table in a test, and comparing both sides by the project's own equality."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from psycopg2 import sql

from extract_load.chunk_loading import LandingCounts, Progress
from extract_load.config import Settings
from extract_load.connection import READ_CONSISTENT, Session
from extract_load.connection_parameters import connection_from_airflow
from extract_load.digests import Value
from extract_load.equality import Part, Side, TableDifference, compare
from extract_load.identifiers import TableName, parse_table_name
from extract_load.landing import LandingOptions
from extract_load.report import RunReport, TableResult
from extract_load.runner import Run, RunOptions, run
from extract_load.selection import resolve_all
from extract_load.settings_file import settings_from_document
from extract_load.table_plan import TablePlan, predicate_of
from tests.support.servers import Database

SOURCE_ID = "digitalocean_postgres"
TARGET_ID = "postgres_default"
SECOND_TARGET_ID = "fs2_postgres"


def environment(
    source: Database, target: Database, second_target: Database | None = None
) -> dict[str, str]:
    """Returns the variables that name the databases."""
    named = {SOURCE_ID: source, TARGET_ID: target, SECOND_TARGET_ID: second_target}
    return {f"AIRFLOW_CONN_{conn_id.upper()}": d.uri for conn_id, d in named.items() if d}


def settings(*tables: Mapping[str, Any], **run_keys: Any) -> Settings:
    """Returns settings for tables; the raw table's name follows from the source's."""
    document = {
        "source_connection": SOURCE_ID,
        "target_connection": TARGET_ID,
        **run_keys,
        "tables": [
            dict(table)
            if "targets" in table
            else {"target": _raw_name(str(table["source"])), **table}
            for table in tables
        ],
    }
    return settings_from_document(document, "test settings")


def land(
    source: Database,
    target: Database,
    *tables: Mapping[str, Any],
    after_chunk: Callable[[int], None] = lambda _: None,
    **options: Any,
) -> RunReport:
    """Returns the report of one run; a failed table is in it, not raised.

    Args:
        source: The source database.
        target: The target database.
        tables: Table keys; the raw table's name follows from the source's.
        after_chunk: Called with the number of chunks loaded so far, in the run.
        options: Of `LandingOptions`.
    """
    return run(
        settings(*tables),
        environment(source, target),
        RunOptions(
            landing=LandingOptions(**{"wait_seconds": 10, **options}),
            progress=each_once(lambda _plan, chunks: after_chunk(chunks)),
        ),
    )


def each_once(after_chunk: Callable[[TablePlan, int], None]) -> Progress:
    """Returns what tells each number of chunks of a table once, and leaves none out.

    A run's threads tell the number there is: two that end a chunk together may both tell the later.
    """
    lock = threading.Lock()
    told: list[tuple[LandingCounts, int]] = []

    def progress(plan: TablePlan, counts: LandingCounts) -> None:
        with lock:
            before = max((chunks for known, chunks in told if known is counts), default=0)
            now = counts.chunks
            told.append((counts, now))
        for chunks in range(before + 1, now + 1):
            after_chunk(plan, chunks)

    return progress


def prepared_run(source: Database, target: Database, *tables: Mapping[str, Any]) -> Run:
    """Returns a run that has taken its snapshot and done nothing else."""
    chosen = settings(*tables)
    connections = resolve_all(chosen.tables, environment(source, target), None)
    prepared = Run(chosen, chosen.tables, connections, RunOptions())
    prepared._source(chosen.tables[0])
    return prepared


def land_one(
    source: Database, target: Database, table: Mapping[str, Any], **options: Any
) -> TableResult:
    """Returns the result of landing one table, which must succeed."""
    result = land(source, target, table, **options).tables[0]
    assert result.error is None, str(result.error)
    return result


def difference(
    source: Database,
    target: Database,
    table: Mapping[str, Any],
    columns: list[str] | None = None,
) -> TableDifference:
    """Returns how raw table and source differ; soft-deleted rows do not count."""
    one = settings(table).tables[0]
    bytes_ = _byte_columns(target, one.target)
    names = columns or _columns(source, one.source)
    key = list(one.primary_key) or _key(source, one.source)

    def side(session: Session, name: TableName, belongs: sql.Composable) -> Side:
        def values(wanted: list[str]) -> tuple[Value, ...]:
            return tuple(Value(sql.Identifier(c), bytes_.get(c, "text")) for c in wanted)

        @contextmanager
        def reading(_: tuple[int, ...]) -> Iterator[Session]:
            with session.transaction(READ_CONSISTENT, {"search_path": "pg_catalog, public"}):
                yield session

        part = Part(sql.SQL("ONLY {}").format(name.sql), belongs)
        return Side(values(names), values(key), (part,), reading)

    has_tombstones = "_deleted_at" in _columns(target, one.target)
    live = sql.SQL("_deleted_at IS NULL" if has_tombstones else "true")
    with session_on(source, "source") as ours, session_on(target, "target") as theirs:
        return compare(side(ours, one.source, predicate_of(one)), side(theirs, one.target, live))


def assert_equal(source: Database, target: Database, *tables: Mapping[str, Any]) -> None:
    """Asserts that raw tables hold exactly the source's rows."""
    for table in tables:
        found = difference(source, target, table)
        assert found.is_equal, f"{table['source']}: {found}"


def loaded_at(target: Database, table: str, key: str = "id") -> dict[Any, Any]:
    """Returns each row's `_loaded_at` by key."""
    return dict(target.execute(f'SELECT "{key}", _loaded_at FROM {table}'))


def _raw_name(source: str) -> str:
    return f'raw_data."digitalocean_{parse_table_name(source).table}"'


def session_on(database: Database, side: Any) -> Session:
    """Returns a session of the engine on one of the test databases."""
    fields = {
        "host": database.host,
        "port": database.port,
        "schema": database.name,
        "login": database.user,
        "password": database.password,
    }
    return Session(connection_from_airflow(database.name, fields), side)


def _columns(database: Database, table: TableName) -> list[str]:
    rows = database.execute(
        "SELECT column_name FROM information_schema.columns "
        "WHERE table_schema = %s AND table_name = %s ORDER BY ordinal_position",
        table.parts,
    )
    return [name for (name,) in rows]


def _byte_columns(database: Database, table: TableName) -> dict[str, str]:
    """Columns compared by their bytes, with their types."""
    rows = database.execute(
        "SELECT attname, format_type(atttypid, NULL) FROM pg_attribute "
        "WHERE attrelid = %s::regclass AND atttypid IN ('bytea'::regtype, '\"char\"'::regtype)",
        (table.regclass,),
    )
    return dict(rows)


def _key(database: Database, table: TableName) -> list[str]:
    rows = database.execute(
        "SELECT a.attname FROM pg_index i JOIN pg_attribute a "
        "ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey) "
        "JOIN pg_class c ON c.oid = i.indrelid JOIN pg_namespace n ON n.oid = c.relnamespace "
        "WHERE i.indisprimary AND n.nspname = %s AND c.relname = %s",
        table.parts,
    )
    return [name for (name,) in rows]
