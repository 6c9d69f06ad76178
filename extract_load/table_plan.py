"""What a run does with one table on one target, as a value.

Pure: holds what the planner decided. No connection, no clock.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from psycopg2 import sql

from extract_load.catalog import ServerCut, TableSchema
from extract_load.chunking import Chunk
from extract_load.config import Deletes, SyncMode, TableSettings, Verify
from extract_load.ddl import NO_CHANGE, SchemaChange
from extract_load.identifiers import TableName
from extract_load.kept_types import ServerPair
from extract_load.modes import MODES
from extract_load.raw_table import NO_FACTS, RawTableFacts
from extract_load.target_types import OLDEST, TargetTypes
from extract_load.type_contract import DELETED_AT, TypeContract
from extract_load.watermark import Watermark, Window


class Publish(StrEnum):
    """How the rows become visible."""

    FIRST_LOAD = "first load"
    """The chunks make a new table, which gets the raw table's name."""
    REPLACE = "replace"
    """The difference to a whole snapshot is applied."""
    MERGE = "merge"
    """A delta is applied."""


@dataclass(frozen=True)
class PlanOptions:
    """What a user may ask of one run that its plan depends on."""

    full_refresh: bool = False
    """Read the whole table."""
    since: str | None = None
    """The low bound to begin at, in the source's own text form."""
    allow_rewrite: bool = False
    """Alter the raw table also where its readers wait for it."""
    distrusted: str | None = None
    """What shows that somebody wrote into the raw table since its last publish."""


NOTHING_ASKED = PlanOptions()


@dataclass(frozen=True)
class TargetState:
    """What stands in the target before a run."""

    raw: TableSchema | None
    watermark: Watermark | None
    facts: RawTableFacts = NO_FACTS
    """Of the raw table."""
    types: TargetTypes = OLDEST

    @property
    def dependent_views(self) -> tuple[str, ...]:
        """Views and materialized views on the raw table, and those on them."""
        return self.facts.views


@dataclass(frozen=True)
class TablePlan:
    """What a run does with one table on one target."""

    settings: TableSettings
    source: TableSchema
    cut: ServerCut
    contract: TypeContract
    key: tuple[str, ...]
    is_key_proved: bool
    """By the source's own unique index; otherwise the scratch table's key proves it."""
    publish: Publish
    baseline_reason: str | None
    """Why the whole table is read; None for a delta."""
    window: Window
    predicate: sql.Composable
    """Window and custom_where together; what belongs to a chunk comes on top."""
    chunks: tuple[Chunk, ...]
    fingerprint: dict[str, Any]
    target: TargetState
    scratch: TableName
    checkpoints: TableName
    """The table of checkpoints that stands and falls with the scratch table."""
    schema_change: SchemaChange = NO_CHANGE
    """What the raw table is altered by."""
    warnings: tuple[str, ...] = ()
    since_note: str | None = None
    """What became of the low bound a user asked for; None where nobody did."""
    keeps_mark: bool = False
    """Whether the next run may read what changed only, if nobody wrote into the raw table."""

    @property
    def servers(self) -> ServerPair:
        """What both sides are, as far as types go."""
        return servers_of(self.cut, self.target)

    @property
    def is_baseline(self) -> bool:
        """Whether the whole table is read."""
        return self.baseline_reason is not None

    @property
    def belongs(self) -> sql.Composable:
        """The condition for a row to belong to the table at all: custom_where."""
        return predicate_of(self.settings)

    @property
    def deletes(self) -> Deletes:
        """What becomes of rows that left the source."""
        return self.settings.follows_deletes

    @property
    def has_tombstones(self) -> bool:
        """Whether the raw table has, or gets, a `_deleted_at`."""
        raw = self.target.raw
        has_column = raw is not None and raw.column(DELETED_AT) is not None
        return self.deletes is Deletes.SOFT or has_column

    @property
    def has_ambiguous_rows(self) -> bool:
        """Whether several raw rows may have one key, or none: no index of theirs holds it."""
        raw = self.target.raw
        has_proof = raw is None or not self.key or raw.is_proved_key(self.key)
        return self.is_baseline and not has_proof

    @property
    def verifies_counts(self) -> bool:
        """Whether counts are compared before COMMIT."""
        return self.settings.verify is not Verify.OFF

    @property
    def counts_source(self) -> bool:
        """Whether the number of the source's rows is asked for."""
        follows_deletes = self.deletes is not Deletes.IGNORE
        return follows_deletes or (self.is_baseline and self.verifies_counts)

    @property
    def relies_on_mark(self) -> bool:
        """Whether the rows that are not read are right only if nobody wrote into the raw table."""
        return self.settings.sync_mode is SyncMode.FULL_SYNC and not self.is_baseline

    @property
    def proves_equality_by_count(self) -> bool:
        """Whether equal counts prove that no row was deleted."""
        mode = MODES[self.settings.sync_mode]
        return mode.proves_equality_by_count and self.is_key_proved and not self.is_baseline


def servers_of(cut: ServerCut, target: TargetState) -> ServerPair:
    """Returns what both sides are, as far as types go."""
    return ServerPair(cut.version, target.types, cut.encoding, cut.mask_salt_digest)


def predicate_of(settings: TableSettings) -> sql.Composable:
    """Returns custom_where in parentheses, or true."""
    where = settings.custom_where
    return sql.SQL("true") if where is None else sql.SQL(where.sql)
