"""The end of the reading: what else the snapshot says of a table whose rows are loaded."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context

from extract_load.chunk_loading import LandingCounts
from extract_load.connection import Session
from extract_load.deletes import SourceFacts, gather
from extract_load.errors import SchemaMismatch, SnapshotLost
from extract_load.extract import count_rows
from extract_load.fingerprint import fingerprint_of, is_altered
from extract_load.load import Load
from extract_load.predicate_judge import require_same_calls
from extract_load.snapshot import SourceSnapshot
from extract_load.stream_watch import CopyStats
from extract_load.table_plan import TablePlan


@contextmanager
def counting_ahead(source: SourceSnapshot, plan: TablePlan) -> Iterator[None]:
    """Counts the source's rows beside the block, in which the target builds its key.

    The snapshot remembers what it was asked. Where the count fails, `close_reading` asks again,
    and that error counts.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="count") as pool:
        if plan.counts_source:
            pool.submit(copy_context().run, count_rows, source, plan)
        yield


def close_reading(
    session: Session,
    source: SourceSnapshot,
    load: Load,
    counts: LandingCounts,
    *,
    by_keys: bool = False,
) -> SourceFacts:
    """Returns counts and keys, read in the snapshot the rows were read in.

    Args:
        session: To the target.
        source: The snapshot.
        load: The table.
        counts: What is added to by what is read.
        by_keys: Whether counts did not prove that nothing is gone.

    Raises:
        SnapshotLost: If the table, or a function behind its predicate, was altered meanwhile.
    """
    plan = load.plan
    rows = count_rows(source, plan, anew=by_keys) if plan.counts_source else None
    with source.governor.memory.turn():
        evidence = gather(session, source, load, rows or 0, by_keys=by_keys)
    counts.add(CopyStats(evidence.missing_rows, evidence.bytes))
    _require_same_source(source, plan)
    require_same_calls(source, plan.settings, plan.source)
    source.wait_flushed()
    return SourceFacts(rows, evidence)


def _require_same_source(source: SourceSnapshot, plan: TablePlan) -> None:
    """Refuses what was read while columns or enum labels were renamed under it.

    Such DDL rewrites nothing, so chunks before and after it would be mixed in silence.
    """
    if source.is_unaltered(plan.source):
        return
    now = source.table_now(plan.settings.source)
    try:
        is_same = not is_altered(plan.fingerprint, fingerprint_of(plan.settings, now, plan.servers))
    except SchemaMismatch:  # a column the settings name is gone
        is_same = False
    if not is_same:
        raise SnapshotLost(
            f"{plan.settings.source.said} was altered during the run",
            "Its columns or types are not those the first chunk was read with. "
            "Nothing was published.",
            "Run again: it takes a new snapshot.",
        )
