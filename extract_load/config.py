"""The settings as frozen values that check themselves.

What a key means, its default and its type stand here once; `settings_file` reads documents
into these values.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from enum import StrEnum
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, ConfigDict, Field

from extract_load.identifiers import TableName, check_name, parse_table_name
from extract_load.predicate import Predicate, parse_predicate


class SyncMode(StrEnum):
    """How a table follows its source."""

    FULL_SYNC = "full_sync"
    """The raw table becomes the snapshot; changes alone are read where row versions allow it."""
    INCREMENTAL_SYNC = "incremental_sync"
    """Rows whose cursor column is at or above the last watermark are merged by key."""
    XMIN_INCREMENTAL = "xmin_incremental"
    """Rows written by transactions since the last snapshot are merged by key."""


class Deletes(StrEnum):
    """What becomes of rows that left the source."""

    IGNORE = "ignore"
    """They stay as they were."""
    HARD = "hard"
    """They are deleted."""
    SOFT = "soft"
    """They stay, with the time of the publish in `_deleted_at`."""


class SchemaPolicy(StrEnum):
    """What becomes of a raw table whose source's columns changed."""

    EVOLVE = "evolve"
    """It follows; nothing is lost, and readers never wait unless `--allow-rewrite` says so."""
    FAIL = "fail"
    """The table fails before its rows are read, naming each difference."""


class Verify(StrEnum):
    """What is proved before a publish commits."""

    COUNT = "count"
    """The counts of source snapshot, scratch and raw table add up."""
    CHECKSUM = "checksum"
    """The counts, and that digests of all rows are the same on both sides."""
    OFF = "off"
    """Nothing beyond what the chunks themselves prove."""


class Mask(StrEnum):
    """What becomes of a value that may not leave the source."""

    SHA256 = "sha256"
    """The hash, in hex, over the connection's `mask_salt` and the value's text."""
    NULL = "null"
    """NULL."""


class CursorType(StrEnum):
    """What a cursor column holds."""

    TIMESTAMP = "timestamp"
    TIMESTAMPTZ = "timestamptz"
    DATE = "date"
    INTEGER = "integer"
    BIGINT = "bigint"
    NUMERIC = "numeric"
    UUID = "uuid"
    """Of version 7: it begins with the time."""
    TEXT = "text"
    """Compared byte by byte."""
    YYYYMMDD = "yyyymmdd"
    """A day in eight digits, as text or as a number."""


class LateRows(StrEnum):
    """How incremental_sync finds rows committed after a newer cursor was published."""

    LOOKBACK = "lookback"
    """By reading again a little below the watermark."""
    XMIN = "xmin"
    """Also by the transactions that wrote them: none is missed, but each run reads the table."""


_DURATION = re.compile(
    r"\s*(?P<amount>\d+(?:\.\d+)?)\s*"
    r"(?P<unit>s|sec|seconds?|m|min|minutes?|h|hours?|d|days?)\s*",
    re.IGNORECASE,
)
_SCHEMA_NAME = re.compile(r'"(?:[^"]|"")+"|[^",\s]+')
_SCHEMA_NAMES = re.compile(
    rf"\s*(?:{_SCHEMA_NAME.pattern})(?:\s*,\s*(?:{_SCHEMA_NAME.pattern}))*\s*"
)
_UNIT_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def parse_duration(value: object) -> timedelta:
    """Returns the duration that a settings file wrote as text or as a number of seconds.

    Raises:
        ValueError: If it is neither.

    Example:
        >>> parse_duration("15m") == parse_duration("15 minutes") == parse_duration(900)
        True
    """
    if isinstance(value, timedelta):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool) and value >= 0:
        return timedelta(seconds=value)
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        msg = f'{value!r} is no duration; write "15m", "15 minutes" or a number of seconds'
        raise ValueError(msg)
    return timedelta(seconds=float(match["amount"]) * _UNIT_SECONDS[match["unit"][0].lower()])


DEFAULT_SEARCH_PATH = ("pg_catalog", "public")
"""Where a custom_where finds its functions, operators and types unless its table says so."""


def _schema_names(value: object) -> tuple[str, ...]:
    """A list, or names joined by commas; as in SQL a name may stand in double quotes."""
    names = _SCHEMA_NAME.findall(value) if isinstance(value, str) else value
    if isinstance(value, str) and _SCHEMA_NAMES.fullmatch(value) is None:
        names = None
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        msg = f"{value!r} is neither a list of schemas nor such names joined by commas"
        raise ValueError(msg)
    if isinstance(value, str):
        names = [name[1:-1].replace('""', '"') if name[0] == '"' else name for name in names]
    if "pg_temp" in names:
        msg = "pg_temp is a session's own schema; every session reads the same"
        raise ValueError(msg)
    return tuple(check_name(name) for name in names)


def duration_text(duration: timedelta) -> str:
    """Returns a duration as a settings file may write it.

    Example:
        >>> duration_text(timedelta(minutes=90)), duration_text(timedelta(days=2))
        ('90 minutes', '2 days')
    """
    seconds = duration.total_seconds()
    units = (("day", 86400), ("hour", 3600), ("minute", 60))
    fitting = (unit for unit in units if seconds and seconds % unit[1] == 0)
    name, size = next(fitting, ("second", 1))
    amount = seconds / size
    return f"{amount:g} {name}{'' if amount == 1 else 's'}"


def _table_name(value: object) -> TableName:
    if isinstance(value, TableName):
        return value
    return parse_table_name(value if isinstance(value, str) else repr(value))


def _column_names(value: object) -> tuple[str, ...]:
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        msg = f"{value!r} is neither a column name nor a list of them"
        raise ValueError(msg)
    if len(set(names)) < len(names):
        msg = "a column is named twice"
        raise ValueError(msg)
    return tuple(check_name(name) for name in names)


def _masks(value: object) -> tuple[tuple[str, Mask], ...]:
    if isinstance(value, tuple):
        return value
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        msg = f"{value!r} is no mapping of column names to sha256 or null"
        raise ValueError(msg)
    masks = {name: Mask.NULL if mask is None else mask for name, mask in value.items()}
    for name, mask in masks.items():
        if mask not in list(Mask):
            msg = f'{mask!r} is no mask for "{name}"; known: {", ".join(Mask)}'
            raise ValueError(msg)
    return tuple((check_name(name), Mask(mask)) for name, mask in sorted(masks.items()))


def _lookback(value: object) -> timedelta | float:
    if isinstance(value, int | float) and not isinstance(value, bool) and value >= 0:
        return float(value)
    return parse_duration(value)


def _predicate(value: object) -> Predicate:
    if isinstance(value, Predicate):
        return value
    return parse_predicate(value if isinstance(value, str) else repr(value))


Table = Annotated[TableName, BeforeValidator(_table_name, json_schema_input_type=str)]
Columns = Annotated[
    tuple[str, ...], BeforeValidator(_column_names, json_schema_input_type=str | list[str])
]
Masks = Annotated[
    tuple[tuple[str, Mask], ...],
    BeforeValidator(_masks, json_schema_input_type=dict[str, Mask | None]),
]
Where = Annotated[Predicate, BeforeValidator(_predicate, json_schema_input_type=str)]
Duration = Annotated[timedelta, BeforeValidator(parse_duration, json_schema_input_type=str | float)]
Lookback = Annotated[
    timedelta | float, BeforeValidator(_lookback, json_schema_input_type=str | float)
]
Schemas = Annotated[
    tuple[str, ...], BeforeValidator(_schema_names, json_schema_input_type=str | list[str])
]
ConnectionId = Annotated[str, Field(min_length=1)]
_STRICT_KEYS = ConfigDict(extra="forbid", arbitrary_types_allowed=True)


@dataclass(frozen=True, kw_only=True)
class SizeDefaults:
    """What holds for tables up to a number of rows; what is None is as it was."""

    __pydantic_config__: ClassVar[Any] = _STRICT_KEYS

    max_rows: Annotated[int, Field(ge=0)] | None = None
    """Estimated rows of the largest of these tables; None: no table is larger."""
    chunk_mode: bool | None = None
    """False: the table is one chunk."""
    batch_size: Annotated[int, Field(ge=1)] | None = None
    """Rows a chunk aims at."""
    max_retries: Annotated[int, Field(ge=0)] | None = None
    """How often a chunk is tried again after a fault that may pass."""


@dataclass(frozen=True, kw_only=True)
class TableSettings:
    """One source table, the raw table it lands in, and how."""

    __pydantic_config__: ClassVar[Any] = _STRICT_KEYS

    source: Table
    """The table in the source database."""
    target: Table
    """The raw table in the target database."""
    source_connection: ConnectionId
    """Connection id of the source database."""
    target_connection: ConnectionId
    """Connection id of the target database."""
    sync_mode: SyncMode = SyncMode.FULL_SYNC
    """How the table follows its source."""
    primary_key: Columns = ()
    """Column or columns that name a row; default: the source's primary key."""
    incremental_field: Annotated[str, BeforeValidator(check_name)] | None = None
    """The cursor column of incremental_sync."""
    incremental_field_type: CursorType | None = None
    """What the cursor column holds; default: what the catalog says."""
    batch_size: Annotated[int, Field(ge=1)] = 50_000
    """Rows a chunk aims at."""
    chunk_mode: bool = True
    """False: the table is one chunk."""
    enable_checkpoint: bool = True
    """False: a run that broke off is not gone on from; the next one starts the table over."""
    max_retries: Annotated[int, Field(ge=0)] = 3
    """How often a chunk, a pass that keeps nothing new, or a write into the ledger is tried again
    after a fault that may pass."""
    parallel_workers: Annotated[int, Field(ge=1, le=32)] = 1
    """Chunks of this table moved at the same time, each over connections of its own."""
    memory_limit_mb: Annotated[int, Field(ge=16)] = 256
    """MiB the process may take while the table is landed (docs/how-to/land-large-rows.md)."""
    custom_where: Where | None = None
    """Only rows for which this SQL expression is true belong to the table."""
    search_path: Schemas = DEFAULT_SEARCH_PATH
    """Schemas of the source in which custom_where finds its functions, operators and types."""
    columns: Columns = ()
    """Columns to land; default: all. Key and cursor are always landed."""
    exclude_columns: Columns = ()
    """Columns not to land. Key and cursor are always landed."""
    mask: Masks = ()
    """Columns whose values may not leave the source, each with `sha256` or `null`."""
    deletes: Deletes | None = None
    """What becomes of rows that left the source; the default depends on the sync mode."""
    max_delete_ratio: Annotated[float, Field(ge=0, le=1)] = 0.3
    """A publish that would delete more of the live rows than this, and more than 20, fails."""
    lookback: Lookback | None = None
    """How far below the watermark incremental_sync reads again: time, or a number."""
    late_rows: LateRows = LateRows.LOOKBACK
    """How incremental_sync finds rows committed after a newer cursor was published."""
    schema_change: SchemaPolicy = SchemaPolicy.EVOLVE
    """What becomes of the raw table when the source's columns change."""
    verify: Verify = Verify.COUNT
    """What is proved before a publish commits."""
    adopt: bool = False
    """True: a raw table that this project did not create is taken over where that is safe."""
    enabled: bool = True
    """False: the table is skipped."""
    dag: str | None = None
    """The Airflow DAG the table belongs to."""
    description: str = ""
    """For people."""
    source_description: str = ""
    """For people."""
    by_size: tuple[SizeDefaults, ...] = ()
    """Keys by the table's size, smallest first. They win: who fills it leaves out what the
    table sets itself."""

    @property
    def follows_deletes(self) -> Deletes:
        """What becomes of rows that left the source, the mode's default applied."""
        if self.deletes is not None:
            return self.deletes
        if self.sync_mode is SyncMode.INCREMENTAL_SYNC:
            return Deletes.IGNORE
        return Deletes.HARD

    @property
    def reads_xmin(self) -> bool:
        """Whether rows are found by the transactions that wrote them."""
        finds_late_rows = self.late_rows is LateRows.XMIN
        return self.sync_mode is SyncMode.XMIN_INCREMENTAL or (
            self.sync_mode is SyncMode.INCREMENTAL_SYNC and finds_late_rows
        )

    def sized(self, rows: int) -> "TableSettings":
        """Returns the settings of a table of this size.

        Args:
            rows: As the source estimates them; negative where nobody knows.
        """
        fitting = (one for one in self.by_size if one.max_rows is None or rows <= one.max_rows)
        size = next(fitting, None) if rows >= 0 else None
        if size is None:
            return self
        keys = {key: getattr(size, key) for key in ("chunk_mode", "batch_size", "max_retries")}
        return replace(self, **{key: value for key, value in keys.items() if value is not None})


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """What holds for a run as a whole; also the defaults of its tables' connections."""

    __pydantic_config__: ClassVar[Any] = _STRICT_KEYS

    source_connection: ConnectionId | None = None
    """Connection id of the source of tables that name none."""
    target_connection: ConnectionId | None = None
    """Connection id of the target of tables that name none."""
    tables_in_parallel: Annotated[int, Field(ge=1, le=32)] = 2
    """Source tables landed at the same time; all targets of one are."""
    source_max_connections: Annotated[int, Field(ge=3)] = 4
    """Connections a run may hold on one source; two of them read no rows."""
    snapshot_max_age: Duration = timedelta(minutes=15)
    """How old a snapshot of a source may get; what is not read by then is read in another one."""
    stall_timeout: Duration = timedelta(seconds=60)
    """After so long without a byte a stream between two servers is given up."""
    throttle_mb_per_second: Annotated[float, Field(gt=0)] | None = None
    """MiB (2^20 bytes) a second that a run may read from one source."""
    max_replica_lag: Duration | None = None
    """While a standby of a source lags further behind, no chunk is begun."""
    ledger_retention: Duration = timedelta(days=400)
    """How long runs stay in the ledger of each target."""
    max_active_sessions: Annotated[int, Field(ge=0)] | None = None
    """While more sessions of others are active in a source, no chunk is begun."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything a run needs to know, from one document or one dbt project."""

    tables: tuple[TableSettings, ...]
    """In the order they were declared."""
    run: RunSettings = field(default_factory=RunSettings)
    origin: str = "settings"
    """Where they were read, for messages."""
    document: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)
    """What they were read from, as it was written."""


NOT_BUILT_KEYS = frozenset({"distributed"})
"""Keys of a later version: using one is a problem that says so, never silently ignored."""
