"""What would go wrong in a run, before a byte moves: looks at both sides and changes nothing.

A broken connection, or a table that cannot be read, is a finding; the rest is looked at all the
same.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, replace

from extract_load import ledger
from extract_load.catalog import read_table
from extract_load.config import Settings, SyncMode, TableSettings
from extract_load.connection import Session
from extract_load.connection_parameters import ConnectionParameters
from extract_load.errors import ExtractLoadError, TargetError
from extract_load.findings import Code, Finding, Severity, has_error
from extract_load.identifiers import TableName
from extract_load.key_check import check_key
from extract_load.retry import Side
from extract_load.runner import PlannedTable, Run, RunOptions
from extract_load.server_facts import (
    ServerFacts,
    looking,
    read_row_security,
    read_schemas,
    read_server_facts,
    read_version,
    read_writable,
    refused_transaction,
    version_text,
)
from extract_load.server_rules import (
    Needs,
    pooling_finding,
    refusal,
    server_findings,
    tls_findings,
    version_finding,
)
from extract_load.source_table import near_name, read_source_table
from extract_load.table_rules import (
    SourceTableFacts,
    extension_findings,
    key_findings,
    placed,
    raw_table_findings,
    refused_plan,
    source_findings,
)
from extract_load.target_rules import disk_finding, ledger_findings, schema_findings
from extract_load.tls_check import certificate_fault

_ROW_OVERHEAD_BYTES = 28
"""What a row takes on disk beside its values."""
_DENIED = "42501"
_ABOUT_RIGHTS = frozenset({Code.NO_CREATE_IN_SCHEMA, Code.NOT_WRITABLE})


@dataclass(frozen=True)
class Examined:
    """A connection that was looked at."""

    conn_id: str
    sides: str
    """`source`, `target` or `source and target`."""
    address: str
    version: str | None
    """None where the server did not say."""


@dataclass(frozen=True)
class Examination:
    """All that was looked at, and what was found."""

    connections: tuple[Examined, ...]
    tables: tuple[TableSettings, ...]
    findings: tuple[Finding, ...]


def examine(
    settings: Settings,
    tables: tuple[TableSettings, ...],
    connections: Mapping[str, ConnectionParameters],
) -> Examination:
    """Returns what would go wrong in a run of some tables.

    Args:
        settings: All settings.
        tables: The selected tables; those that are not enabled are left out.
        connections: By connection id.
    """
    enabled = tuple(table for table in tables if table.enabled)
    return Doctor(settings, enabled, connections).examine()


class Doctor:
    """One examination: what was found so far, and which servers can be planned with."""

    def __init__(
        self,
        settings: Settings,
        tables: tuple[TableSettings, ...],
        connections: Mapping[str, ConnectionParameters],
    ) -> None:
        self._settings = settings
        self._tables = tables
        self._connections = connections
        self._facts: dict[str, ServerFacts] = {}
        """Of servers that a run could work with."""
        self._of_connection: dict[str, list[Finding]] = defaultdict(list)
        self._of_table: dict[TableSettings, list[Finding]] = defaultdict(list)

    def examine(self) -> Examination:
        """Returns all findings, those about connections first."""
        named = [table.source_connection for table in self._tables]
        named += [table.target_connection for table in self._tables]
        examined = tuple(self._examine_connection(conn_id) for conn_id in dict.fromkeys(named))
        self._examine_plans()
        found = [finding for conn_id in self._of_connection.values() for finding in conn_id]
        found += [finding for table in self._tables for finding in self._of_table[table]]
        return Examination(examined, self._tables, tuple(found))

    # ------------------------------------------------------------ connections

    def _examine_connection(self, conn_id: str) -> Examined:
        parameters, needs = self._connections[conn_id], self._needs(conn_id)
        is_both = needs.is_source and needs.is_target
        sides = "source and target" if is_both else "source" if needs.is_source else "target"
        side: Side = "source" if needs.is_source else "target"
        examined = Examined(conn_id, sides, parameters.address, None)
        is_encrypted: bool | None = None
        try:
            with ExitStack() as stack:
                session = stack.enter_context(self._session(parameters, side))
                is_encrypted = session.is_encrypted
                version = read_version(session)  # an old server knows not all of our settings
                examined = replace(examined, version=version_text(version))
                too_old = version_finding(version)
                if too_old is not None:
                    self._tell(conn_id, [too_old])
                    return examined
                refused = refused_transaction(session)
                if refused is not None:
                    session = stack.enter_context(self._session(parameters, side))
                    if not session.is_pooled():
                        raise refused
                    pooling = pooling_finding(has_transactions=False, needs=needs)
                    self._tell(conn_id, [pooling])
                self._examine_server(session, needs, has_transactions=refused is None)
        except ExtractLoadError as error:
            is_certificate = error.refusal == "certificate"
            fault = certificate_fault(parameters) if is_certificate else None
            self._tell(conn_id, [refusal(error, fault)])
            self._facts.pop(conn_id, None)
        finally:
            self._tell(conn_id, tls_findings(parameters, is_encrypted=is_encrypted))
        return examined

    def _examine_server(self, session: Session, needs: Needs, *, has_transactions: bool) -> None:
        conn_id = session.parameters.conn_id

        def reading() -> AbstractContextManager[Session]:
            return looking(session) if has_transactions else nullcontext(session)

        with reading():
            facts = read_server_facts(session)
        if has_transactions:
            self._facts[conn_id] = facts
            if facts.is_pooled:
                self._tell(conn_id, [pooling_finding(has_transactions=True, needs=needs)])
        self._tell(conn_id, server_findings(facts, needs))
        if needs.is_target:
            with reading():
                self._examine_target(session, facts)
        for table in self._tables:
            if table.source_connection == conn_id:
                self._examine_source_table(table, session, reading())

    def _examine_target(self, session: Session, facts: ServerFacts) -> None:
        conn_id = session.parameters.conn_id
        tables = [table for table in self._tables if table.target_connection == conn_id]
        schemas = [ledger.SCHEMA, ledger.SCRATCH_SCHEMA, *(table.target.schema for table in tables)]
        rights = read_schemas(session, schemas)
        writable = read_writable(session, [table.target for table in tables])
        ledger_tables = [table for table in writable if table.schema == ledger.SCHEMA]
        may_ask = not any(table.missing for table in ledger_tables) and all(
            schema.may_use for schema in rights if schema.name == ledger.SCHEMA
        )
        version = ledger.ledger_version(session) if ledger_tables and may_ask else None
        found = schema_findings(
            rights, facts, session.parameters.database, has_ledger=bool(ledger_tables)
        )
        self._tell(conn_id, found)
        self._tell(conn_id, ledger_findings(writable, facts, version, len(ledger.migrations())))
        for table in tables:
            self._tell_table(table, conn_id, raw_table_findings(table, writable, facts.role))

    def _examine_source_table(
        self, table: TableSettings, session: Session, reading: AbstractContextManager[Session]
    ) -> None:
        conn_id = table.source_connection
        # A table of several targets is told of once.
        first = next(t for t in self._tables if _source_of(t) == _source_of(table))
        try:
            with reading:
                facts = _read_source_facts(session, table)
            found = list(source_findings(table, facts, session.parameters))
        except ExtractLoadError as error:
            found = [refused_plan(error)]
        told = [finding.code for finding in self._of_table[first]] if first is not table else []
        self._tell_table(table, conn_id, [finding for finding in found if finding.code not in told])

    def _needs(self, conn_id: str) -> Needs:
        """What the selected tables need of one server."""
        read = [table for table in self._tables if table.source_connection == conn_id]
        written = [table for table in self._tables if table.target_connection == conn_id]
        allowed = self._settings.run.source_max_connections if read else 0
        return Needs(
            is_source=bool(read),
            is_target=bool(written),
            # The snapshot's holder and the session that looks past it; the run's own session and
            # its heartbeat.
            connections=(min(allowed, 2 + self._in_parallel(read)) if read else 0)
            + (2 + self._in_parallel(written, 1) if written else 0),
            allowed_connections=allowed,
            reads_xmin=any(table.reads_xmin for table in read),
            reads_cursor=any(
                t.sync_mode is SyncMode.INCREMENTAL_SYNC and not t.reads_xmin for t in read
            ),
        )

    def _in_parallel(self, tables: list[TableSettings], beside_workers: int = 0) -> int:
        at_a_time = min(self._settings.run.tables_in_parallel, len(tables))
        workers = sorted((table.parallel_workers for table in tables), reverse=True)
        return sum(count + beside_workers for count in workers[:at_a_time])

    # ------------------------------------------------------------ plans

    def _examine_plans(self) -> None:
        """Plans every table that can be looked at, and tells what the plans show."""
        fit = tuple(table for table in self._tables if self._may_plan(table))
        planned = Run(self._settings, fit, self._connections, RunOptions()).plan_all()
        for one in planned:
            if one.error is not None and not self._is_told(one):
                self._tell_table(one.table, _side_of(one), [refused_plan(one.error)])
            if one.plan is not None:
                self._tell_table(
                    one.table, one.table.target_connection, extension_findings(one.plan)
                )
                self._examine_key(one)
        for conn_id, facts in self._facts.items():
            landing = sum(
                _landing_bytes(p) for p in planned if p.table.target_connection == conn_id
            )
            found = disk_finding(self._connections[conn_id], facts, landing)
            self._tell(conn_id, [found] if found else [])

    def _may_plan(self, table: TableSettings) -> bool:
        is_open = {table.source_connection, table.target_connection} <= set(self._facts)
        about_source = [f for f in self._of_table[table] if f.connection == table.source_connection]
        return is_open and not has_error(about_source)

    def _is_told(self, planned: PlannedTable) -> bool:
        """Whether a plan failed for what was told about a connection."""
        error, table = planned.error, planned.table
        told = (
            self._of_connection[table.source_connection]
            + self._of_connection[table.target_connection]
        )
        codes = {finding.code for finding in told if finding.severity is Severity.ERROR}
        if error is None or error.refusal == "slots":
            return Code.TOO_FEW_CONNECTIONS in codes
        return error.sqlstate == _DENIED and bool(codes & _ABOUT_RIGHTS)

    def _examine_key(self, planned: PlannedTable) -> None:
        plan, table = planned.plan, planned.table
        if plan is None or not plan.key or plan.is_key_proved:
            return
        try:
            parameters = self._connections[table.source_connection]
            with self._session(parameters, "source") as session:
                found = list(key_findings(plan, check_key(session, plan)))
        except ExtractLoadError as error:
            found = [refused_plan(error)]
        self._tell_table(table, table.source_connection, found)

    # ------------------------------------------------------------ shared

    def _session(self, parameters: ConnectionParameters, side: Side) -> Session:
        return Session(parameters, side, "extract-load doctor", attempts=1)

    def _tell(self, conn_id: str, findings: Iterable[Finding]) -> None:
        placed_here = (replace(finding, connection=conn_id) for finding in findings)
        self._of_connection[conn_id].extend(placed_here)

    def _tell_table(self, table: TableSettings, conn_id: str, findings: Iterable[Finding]) -> None:
        self._of_table[table].extend(placed(finding, table, conn_id) for finding in findings)


def _read_source_facts(session: Session, table: TableSettings) -> SourceTableFacts:
    name = table.source
    if read_table(session, name) is None:
        rights = read_schemas(session, [name.schema])
        return SourceTableFacts(None, rights, near_name=near_name(session, name))
    schema = read_source_table(session, name)
    relations = {schema.oid: name, **{leaf.oid: leaf.name for leaf in schema.leaves}}
    return SourceTableFacts(
        schema,
        read_schemas(session, [relation.schema for relation in relations.values()]),
        read_row_security(session, list(relations)),
    )


def _source_of(table: TableSettings) -> tuple[str, TableName]:
    return table.source_connection, table.source


def _side_of(planned: PlannedTable) -> str:
    """The connection that a refused plan is about."""
    is_target = isinstance(planned.error, TargetError)
    return planned.table.target_connection if is_target else planned.table.source_connection


def _landing_bytes(planned: PlannedTable) -> int:
    """What a run would write of a table on the target's disk."""
    plan, estimate = planned.plan, planned.estimate
    if plan is None or estimate is None:
        return 0
    lands_all = plan.is_baseline and plan.settings.custom_where is None
    if lands_all and plan.contract.names == plan.source.column_names:
        return max(plan.source.table_bytes, estimate.bytes_sent)
    return estimate.bytes_sent + _ROW_OVERHEAD_BYTES * estimate.rows
