"""What a server says about itself and the role, for `doctor`; every statement by itself."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from extract_load.connection import READ_CONSISTENT, Session
from extract_load.errors import ExtractLoadError
from extract_load.identifiers import TableName
from extract_load.sql import queries

OLDEST_VERSION = 130000
_LOOK_LIMITS = {"statement_timeout": "10s", "lock_timeout": "5s"}


@dataclass(frozen=True)
class ConnectionLimit:
    """One bound on the role's connections."""

    name: str
    """What sets it, for people."""
    allowed: int
    used: int
    """By others, now."""


@dataclass(frozen=True)
class OpenWriter:
    """A transaction that has written and not ended."""

    state: str | None
    """`prepared`, or pg_stat_activity.state."""
    name: str
    """For people."""
    owner: str | None
    database: str | None
    seconds: float | None
    """How long it has been open, or prepared."""
    handle: str
    """What ends it: the pid, or the name it was prepared under."""


@dataclass(frozen=True)
class ServerFacts:
    """A server of a supported version, and what the role is on it."""

    role: str
    is_standby: bool
    is_read_only: bool
    """Transactions are read-only unless they say otherwise."""
    sends_feedback: bool
    """hot_standby_feedback."""
    conflict_delay_ms: int
    """max_standby_streaming_delay; -1: for ever."""
    sees_transactions: bool
    may_create_schemas: bool
    databases_bytes: int
    """Of all databases the role may enter."""
    open_xids: int
    """From the oldest open transaction to the newest one."""
    limits: tuple[ConnectionLimit, ...] = ()
    writers: tuple[OpenWriter, ...] = ()
    is_pooled: bool = False
    """Whether another program stands between."""


@dataclass(frozen=True)
class SchemaRights:
    """A schema of a target, or of a source."""

    name: str
    is_there: bool
    may_use: bool
    may_create: bool


@dataclass(frozen=True)
class WritableTable:
    """A table that a run writes."""

    schema: str
    name: str
    kind: str
    is_owned: bool
    missing: Sequence[str]
    """Privileges the role lacks."""


@contextmanager
def looking(session: Session) -> Iterator[Session]:
    """Yields a session in a short read-only transaction, that changes nothing."""
    with session.transaction(READ_CONSISTENT, _LOOK_LIMITS) as reader:
        yield reader


def refused_transaction(session: Session) -> ExtractLoadError | None:
    """Returns what became of a transaction where it ended the connection; None where it is fine.

    PgBouncer with pool_mode = statement answers BEGIN so, and tells why only to its own log.
    """
    try:
        with looking(session) as reader:
            reader.execute("SELECT 1")  # BEGIN and COMMIT in one message are no transaction to it
    except ExtractLoadError as error:
        if error.sqlstate is None:
            return error
        raise
    return None


def read_version(session: Session) -> int:
    """Returns the version of a server, as old as it may be."""
    return int(session.execute(queries("doctor")["version"], doing="ask for the version")[0][0])


def version_text(version: int) -> str:
    """Returns a version for people.

    Example:
        >>> version_text(160004), version_text(90624)
        ('16.4', '9.6')
    """
    minor = version % 10000 if version >= 100000 else version // 100 % 100
    return f"{version // 10000}.{minor}"


def read_server_facts(session: Session) -> ServerFacts:
    """Returns what a server of a supported version is."""
    catalog, doing = queries("doctor"), "ask the server about itself"
    (facts,) = session.execute(catalog["server"], doing=doing)
    limits = session.execute(catalog["connection_limits"], doing=doing)
    writers = session.execute(catalog["open_writers"], doing=doing)
    server = ServerFacts(*facts)
    return replace(
        server,
        limits=tuple(ConnectionLimit(*limit) for limit in limits),
        writers=tuple(OpenWriter(*writer) for writer in writers),
        is_pooled=session.is_pooled(),
    )


def read_schemas(session: Session, names: Sequence[str]) -> tuple[SchemaRights, ...]:
    """Returns what the role may do in schemas."""
    asked, doing = {"names": sorted(set(names))}, "ask for rights on schemas"
    rows = session.execute(queries("doctor")["schemas"], asked, doing)
    return tuple(SchemaRights(*row) for row in rows)


def read_writable(session: Session, raw_tables: Sequence[TableName]) -> tuple[WritableTable, ...]:
    """Returns what the role may do to the ledger's tables and to raw tables, where they are."""
    asked = {
        "schemas": [name.schema for name in raw_tables],
        "tables": [name.table for name in raw_tables],
    }
    rows = session.execute(queries("doctor")["writable"], asked, "ask for rights on tables")
    return tuple(WritableTable(*row) for row in rows)


def read_row_security(session: Session, oids: Sequence[int]) -> tuple[str, ...]:
    """Returns the relations of which policies hide rows from the role."""
    asked = {"oids": list(oids)}
    rows = session.execute(queries("doctor")["row_security"], asked, "ask for row security")
    return tuple(name for (name,) in rows)
