"""Which rows left the source: counts first, then sums of keys by bucket, then keys; guards.

Buckets are filled by the text of keys, so equal keys of other texts (1.0 and 1.00) make two of
them differ. Keys of those buckets are compared by their own equality: a bucket can only say too
often that something differs.
"""

from dataclasses import dataclass, field, replace

from psycopg2 import sql

from extract_load import lease, log
from extract_load.checkpoints import MISSING_ROWS_CHUNK, NO_PART
from extract_load.comparison import raw_values, source_values
from extract_load.config import Deletes
from extract_load.connection import NOT_DURABLE, READ_CONSISTENT, Session
from extract_load.difference import count_not_live, is_live, list_new, same_key
from extract_load.digests import Buckets, key_digest
from extract_load.equality import EVERY_ROW, Sums, add_sums, at_once, differing_buckets
from extract_load.errors import GuardTripped, VerificationFailed
from extract_load.extract import copy_keys_query, copy_rows_query, from_leaf
from extract_load.identifiers import TableName
from extract_load.load import Load, build_key, copy_in_keys, copy_in_query, copy_into, create_keys
from extract_load.snapshot import SourceSnapshot
from extract_load.stream_watch import NOTHING_COPIED, CopyStats
from extract_load.table_plan import Publish, TablePlan

FEW_ROWS = 20
"""Up to this many deletes the ratio is not asked: five of ten rows are no accident."""

_KEYS_PER_QUERY = 5000

logger = log.get_logger(__name__)


class KeysNeeded(Exception):
    """Counts do not prove that nothing is gone: keys have to be read. Nothing was changed yet."""


@dataclass(frozen=True)
class Counted:
    """What a publish counted before it changed a row."""

    landed: int
    """Rows in scratch."""
    live: int | None = None
    """Rows of the raw table that are not soft-deleted; None where nobody asked."""
    new: int | None = None
    """Landed rows whose key none of them has; None likewise. Listed, if there are no tombstones."""


@dataclass(frozen=True)
class Evidence:
    """What tells which rows are gone."""

    keys: TableName | None
    """A table of keys in the snapshot; None when nothing is gone, or nobody asks."""
    missing_rows: int = 0
    """Rows the raw table lacked although no window held them; they are landed."""
    bytes: int = 0
    """What they took on the wire."""
    among: sql.Composable = field(default_factory=lambda: EVERY_ROW)
    """The condition for a raw row `t` to be gone when its key is not in `keys`."""
    is_by_count: bool = False
    """Whether counts, which the publish takes, have to prove that nothing is gone."""


@dataclass(frozen=True)
class SourceFacts:
    """What was learnt of the source in the snapshot."""

    rows: int | None
    """Rows of the table; None when nobody asked."""
    evidence: Evidence


def gather(
    session: Session,
    source: SourceSnapshot,
    load: Load,
    source_rows: int,
    *,
    by_keys: bool = False,
) -> Evidence:
    """Returns what tells which rows are gone, reading no key where counts can prove it.

    Args:
        session: To the target.
        source: The snapshot the delta was read in.
        load: The table.
        source_rows: How many rows the snapshot has.
        by_keys: Whether counts were asked, and do not prove it.
    """
    plan = load.plan
    if plan.publish is Publish.REPLACE:
        return Evidence(plan.scratch)
    if plan.is_baseline:
        return Evidence(None)
    if plan.deletes is Deletes.IGNORE and plan.is_key_proved:
        return Evidence(None)
    if plan.proves_equality_by_count and not by_keys:
        return Evidence(None, is_by_count=True)
    if not plan.is_key_proved:  # by reading every key
        _land_keys(session, source, load, EVERY_ROW)
        is_asked = plan.deletes is not Deletes.IGNORE
        return _land_missing(session, source, load) if is_asked else Evidence(None)
    return _gather_by_bucket(session, source, load, source_rows)


def _gather_by_bucket(
    session: Session, source: SourceSnapshot, load: Load, source_rows: int
) -> Evidence:
    """Moves the keys of those buckets only in which something is gone or missing."""
    plan = load.plan
    differing = _differing_buckets(session, source, plan, source_rows)
    if not differing.chosen:
        return Evidence(None)
    in_source = differing.holds(key_digest(source_values(plan, plan.key)))
    _land_keys(session, source, load, in_source)
    in_raw = differing.holds(key_digest(raw_values(plan, plan.key, "t")))
    among = sql.SQL("{} AND {}").format(in_raw, _not_in_scratch(plan))
    return replace(_land_missing(session, source, load), among=among)


def require_nothing_gone(
    session: Session, plan: TablePlan, source_rows: int | None, counted: Counted
) -> Counted:
    """Returns the counts that prove that the raw table holds no row which left the source.

    They prove it where the delta holds every change and the source's key is unique: then the
    snapshot is the live rows, plus the new ones, less the gone ones.

    Args:
        session: In the publishing transaction, before it changes a row.
        plan: The table's.
        source_rows: How many rows the snapshot has.
        counted: What is counted by now.

    Raises:
        KeysNeeded: If something is gone, or somebody wrote into the raw table.
    """
    live = count_live(session, plan) if counted.live is None else counted.live
    new = _count_new(session, plan, counted.landed)
    if live + new != source_rows:
        raise KeysNeeded
    return replace(counted, live=live, new=new)


def _differing_buckets(
    session: Session, source: SourceSnapshot, plan: TablePlan, source_rows: int
) -> Buckets:
    """The buckets in which the source's keys are not those the raw table will have."""
    buckets = Buckets.for_rows(source_rows)
    doing = f"compare the keys of {plan.settings.source.said}"

    def of_source() -> Sums:
        digest = key_digest(source_values(plan, plan.key))
        sums: Sums = {}
        for leaf in plan.source.leaves:
            rows = sql.SQL("{} WHERE {}").format(from_leaf(plan, leaf), plan.belongs)
            with source.reading(leaf) as reader:
                add_sums(reader.execute(buckets.sums(rows, digest), doing=doing), sums)
        return sums

    def of_target() -> Sums:
        sums: Sums = {}
        landed = sql.SQL("{} AS s").format(plan.scratch.sql)
        kept = sql.SQL("{} AS t WHERE {} AND {}").format(
            plan.settings.target.sql, is_live(plan, "t"), _not_in_scratch(plan)
        )
        comparing = f"compare the keys of {plan.settings.target.said}"
        with session.transaction(READ_CONSISTENT):
            for alias, rows in (("s", landed), ("t", kept)):
                digest = key_digest(raw_values(plan, plan.key, alias))
                add_sums(session.execute(buckets.sums(rows, digest), doing=comparing), sums)
        return sums

    return replace(buckets, chosen=differing_buckets(*at_once(of_source, of_target)))


def _not_in_scratch(plan: TablePlan) -> sql.Composable:
    """The condition for a raw row not to be replaced by a landed one."""
    return sql.SQL("NOT EXISTS (SELECT FROM {} AS s WHERE {})").format(
        plan.scratch.sql, same_key(plan, "t", "s")
    )


def _land_keys(session: Session, source: SourceSnapshot, load: Load, among: sql.Composable) -> None:
    """Reads keys of the snapshot; one that stands twice is an error."""
    plan = load.plan
    doing = f"compare the keys of {plan.settings.source.said}"
    with session.transaction(settings=NOT_DURABLE, doing="commit the keys"):
        lease.hold(session, load.lease)
        create_keys(session, load)
        for leaf in plan.source.leaves:
            query = copy_keys_query(plan, leaf, among)
            moved = copy_into(session, source, leaf, query, copy_in_keys(load), doing)
            facts = {"leaf": leaf.name.written, "keys": moved.rows, "bytes": moved.bytes}
            logger.debug("keys read", extra=facts)
        if not plan.is_key_proved:
            build_key(session, plan, load.keys)
        session.execute(sql.SQL("ANALYZE {}").format(load.keys.sql))


def count_live(session: Session, plan: TablePlan) -> int:
    """Returns how many rows of the raw table are not soft-deleted."""
    raw = plan.settings.target
    query = sql.SQL("SELECT count(*) FROM {} AS t WHERE {}").format(raw.sql, is_live(plan, "t"))
    return int(session.execute(query, doing=f"count the rows of {raw.said}")[0][0])


def guard(plan: TablePlan, *, source_rows: int, live_rows: int, gone_rows: int) -> None:
    """Refuses a publish that would empty the raw table, or delete too much of it.

    Raises:
        GuardTripped: If the source has no rows while the raw table has, or more than
            `max_delete_ratio` of the live rows, and more than 20, would go.
    """
    if not gone_rows:
        return
    name, conn_id = plan.settings.source, plan.settings.target_connection
    facts = (
        f"The snapshot has {source_rows} rows, the raw table {live_rows}; "
        f"max_delete_ratio is {plan.settings.max_delete_ratio:g}. Nothing was published."
    )
    hint = f"If the source is right, run \"extract-load run --select '{name}' --allow-deletes\"."
    if source_rows == 0:
        said = f'{name.said} is empty, {plan.settings.target.said} in target "{conn_id}" is not'
        raise GuardTripped(said, facts, hint)
    ratio = gone_rows / live_rows
    if gone_rows > FEW_ROWS and ratio > plan.settings.max_delete_ratio:
        raise GuardTripped(
            f'{ratio:.0%} of {name.said} would be deleted in target "{conn_id}"', facts, hint
        )


def list_new_rows(session: Session, plan: TablePlan, landed: int) -> int:
    """Lists landed rows whose key the raw table lacks, and returns how many they are.

    Args:
        session: In the publishing transaction, which drops the list.
        plan: The table's; it has a key.
        landed: Rows in scratch: where there are none, there is no list.
    """
    doing = f"compare with {plan.settings.target.said}"
    return session.change(list_new(plan), doing=doing) if landed else 0


def _count_new(session: Session, plan: TablePlan, landed: int) -> int:
    """Scratch rows whose key no live raw row has; without tombstones they are listed with it."""
    if not plan.has_tombstones:
        return list_new_rows(session, plan, landed)
    doing = f"compare with {plan.settings.target.said}"
    return int(session.execute(count_not_live(plan), doing=doing)[0][0])


def _land_missing(session: Session, source: SourceSnapshot, load: Load) -> Evidence:
    """Reads the rows whose keys neither raw table nor scratch has, in the same snapshot."""
    plan = load.plan
    landed = NOTHING_COPIED
    with session.transaction(settings=NOT_DURABLE, doing="commit the missing rows"):
        lease.hold(session, load.lease)
        while keys := _missing_keys(session, load):
            stats = _land_rows(session, source, plan, keys)
            if not stats.rows:
                raise VerificationFailed(
                    f"{len(keys)} keys of {plan.settings.source.said} have no row in the snapshot",
                    f"The first is {keys[0]}. Nothing was published.",
                    "Run again; if it happens again, please report it.",
                )
            landed += stats
        if landed.rows:
            load.checkpoints.claim(session, MISSING_ROWS_CHUNK, NO_PART, "missing rows")
            load.checkpoints.complete(
                session, MISSING_ROWS_CHUNK, rows=landed.rows, bytes_=landed.bytes
            )
    return Evidence(load.keys, landed.rows, landed.bytes)


def _land_rows(
    session: Session, source: SourceSnapshot, plan: TablePlan, keys: list[tuple[str, ...]]
) -> CopyStats:
    """Reads the rows of some keys, wherever they stand."""
    doing = f"copy missing rows of {plan.settings.source.said}"
    into = copy_in_query(plan, plan.scratch)
    stats = NOTHING_COPIED
    for leaf in plan.source.leaves:
        query = copy_rows_query(plan, leaf, keys)
        stats += copy_into(session, source, leaf, query, into, doing)
    return stats


def _missing_keys(session: Session, load: Load) -> list[tuple[str, ...]]:
    plan = load.plan
    query = sql.SQL(
        "SELECT {texts} FROM {keys} AS k "
        "WHERE NOT EXISTS (SELECT FROM {raw} AS t WHERE {in_raw} AND {live}) "
        "AND NOT EXISTS (SELECT FROM {scratch} AS s WHERE {in_scratch}) LIMIT {limit}"
    ).format(
        texts=sql.SQL(", ").join(
            sql.SQL("{}::text").format(sql.Identifier("k", name)) for name in plan.key
        ),
        keys=load.keys.sql,
        raw=plan.settings.target.sql,
        scratch=plan.scratch.sql,
        in_raw=same_key(plan, "t", "k"),
        in_scratch=same_key(plan, "s", "k"),
        live=is_live(plan, "t"),
        limit=sql.Literal(_KEYS_PER_QUERY),
    )
    return session.execute(query, doing=f"find rows missing in {plan.settings.target.said}")
