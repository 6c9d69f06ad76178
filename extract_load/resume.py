"""What of a dead run's work still counts, and what is left to read.

Pure: takes a plan and the checkpoints of its table, gives chunks. No connection, no clock.

A chunk counts while the leaf it was read from has the same file (VACUUM FULL moves rows and keeps
their xmin) and the same would be read of it now. One that was read in another snapshot counts only
where a repair can bring it to this one: by the xmin of rows that have a key.
"""

import hashlib
import json
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from extract_load.baseline import lsn_number
from extract_load.catalog import Leaf
from extract_load.checkpoints import MISSING_ROWS_CHUNK, REPAIR_CHUNK, Checkpoint, Part
from extract_load.chunking import BlockRange, Chunk
from extract_load.fingerprint import LEAVES
from extract_load.table_plan import TablePlan
from extract_load.watermark import xmin_window

_END = 1 << 63
"""Behind the last block of any heap."""
_STALE = "their part of the table was rewritten, altered or detached"


@dataclass(frozen=True)
class Resumed:
    """What stands beside a raw table when a run begins."""

    kept: tuple[Checkpoint, ...] = ()
    dropped: tuple[Checkpoint, ...] = ()
    why_dropped: str | None = None
    """For people; None where nothing was."""

    def needs_repair(self, snapshot: str) -> bool:
        """Returns whether a chunk shows another snapshot than this one."""
        return any(each.snapshot.id != snapshot for each in self.kept)


class Parts:
    """What the chunks of one plan bring, as their checkpoints say it."""

    def __init__(self, plan: TablePlan) -> None:
        self._plan = plan
        self._readings: dict[tuple[int, bool], str] = {}
        """By leaf, and whether it is read whole: many chunks share one."""

    def of(self, chunk: Chunk) -> Part:
        """Returns what a chunk brings."""
        asked = (chunk.leaf.oid, chunk.is_whole)
        if asked not in self._readings:
            self._readings[asked] = _reading_of(self._plan, chunk.leaf, is_whole=chunk.is_whole)
        return Part(
            leaf=chunk.leaf.oid,
            file_node=file_node_of(chunk.leaf),
            start=chunk.range.start,
            stop=chunk.range.stop,
            reading=self._readings[asked],
        )


def file_node_of(leaf: Leaf) -> int | None:
    """Returns the file of a leaf's own heap; None where its rows have no place of their own."""
    return leaf.heaps[0].file_node if leaf.has_row_versions else None


def _reading_of(plan: TablePlan, leaf: Leaf, *, is_whole: bool) -> str:
    """Returns a digest of all that decides which rows of a leaf are read, and as what.

    The upper bound of a window is not in it: a repair reads what came since.
    """
    watermark = plan.target.watermark
    low = None
    if not (plan.is_baseline or is_whole):
        low = [plan.window.low, plan.settings.late_rows, watermark.xid if watermark else None]
    facts = [
        {name: part for name, part in plan.fingerprint.items() if name != LEAVES},
        plan.fingerprint[LEAVES][str(leaf.oid)],
        [[column.name, column.target_type, column.is_not_null] for column in plan.contract.columns],
        plan.settings.sync_mode if low else None,
        low,
        plan.cut.identity,
        plan.cut.is_standby,
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]


def resume(plan: TablePlan, snapshot: str, found: Sequence[Checkpoint]) -> Resumed:
    """Returns which chunks count.

    Args:
        plan: What this run would do without them.
        snapshot: The id of the snapshot it reads in.
        found: The checkpoints that stand beside the raw table.
    """
    if not found:
        return Resumed()
    why = _why_none(plan, snapshot, found)
    if why is not None:
        return Resumed(dropped=tuple(found), why_dropped=why)
    chunks = [each for each in found if each.chunk not in (MISSING_ROWS_CHUNK, REPAIR_CHUNK)]
    readings = _readings(plan)
    stale = [each for each in chunks if not _stands(each, readings)]
    was_repaired = len(found) > len(chunks)
    if stale and was_repaired:  # whose rows of those leaves cannot be told from the others
        return Resumed(dropped=tuple(found), why_dropped=_STALE)
    missing = [each for each in found if each.chunk == MISSING_ROWS_CHUNK]
    return Resumed(
        kept=tuple(each for each in found if each not in stale and each not in missing),
        dropped=(*stale, *missing),
        why_dropped=_STALE if stale else None,
    )


def _why_none(plan: TablePlan, snapshot: str, found: Sequence[Checkpoint]) -> str | None:
    """Why none of the chunks counts; None where some may."""
    if not plan.settings.enable_checkpoint:
        return "enable_checkpoint is false"
    others = [each.snapshot for each in found if each.snapshot.id != snapshot]
    if not others:
        return None
    unfit = why_not_repaired(plan)
    if unfit is not None:
        return unfit
    if any(lsn_number(plan.cut.earlier_lsn) < lsn_number(other.lsn) for other in others):
        return "they were read later than this run's snapshot"
    if xmin_window(min(other.xmin for other in others), plan.cut.xmax) is None:
        return "their transaction ids are too old"
    return None


def why_not_repaired(plan: TablePlan) -> str | None:
    """Returns why chunks of another snapshot cannot be brought to this one; None where they can."""
    where = plan.settings.custom_where
    if not plan.key:
        return "without a key the rows of another snapshot cannot be repaired"
    if not plan.is_key_proved:
        return "no unique index proves the key: rows of another snapshot cannot be repaired"
    if any(not leaf.shows_xmin for leaf in plan.source.leaves):
        return "rows without an xmin cannot be repaired"
    if plan.source.shows_a_catalog:
        return "values that name objects of the catalog change without a new xmin"
    if where is not None and where.may_move_alone:
        return "rows may enter custom_where without a new xmin"
    return None


def _readings(plan: TablePlan) -> dict[int, tuple[int | None, str]]:
    """By leaf: its file, and what is read of it now."""
    first = {chunk.leaf.oid: chunk for chunk in plan.chunks}
    parts = map(Parts(plan).of, first.values())
    return {part.leaf: (part.file_node, part.reading) for part in parts}


def _stands(checkpoint: Checkpoint, readings: dict[int, tuple[int | None, str]]) -> bool:
    part = checkpoint.part
    return readings.get(part.leaf) == (part.file_node, part.reading)


def remaining(chunks: Sequence[Chunk], kept: Sequence[Checkpoint]) -> tuple[Chunk, ...]:
    """Returns what of the planned chunks no kept one covers, numbered after them.

    The heap may have grown since, and been cut otherwise; what an open-ended chunk did not find
    yet has a newer xmin and is the repair's.
    """
    first = 1 + max((each.chunk for each in kept), default=-1)
    covered = _by_leaf(kept)
    parts: list[Chunk] = []
    for oid, of_leaf in groupby(chunks, key=lambda chunk: chunk.leaf.oid):
        gaps = _gaps(covered.get(oid, []))
        parts += [part for chunk in of_leaf for part in _within(chunk, gaps)]
    return tuple(replace(part, number=first + n) for n, part in enumerate(parts))


def _by_leaf(kept: Sequence[Checkpoint]) -> dict[int, list[Part]]:
    """What chunks brought of each leaf, in the order of its blocks."""
    found: defaultdict[int, list[Part]] = defaultdict(list)
    for each in sorted(kept, key=lambda each: each.part.start):
        if each.chunk >= 0:
            found[each.part.leaf].append(each.part)
    return found


def _gaps(covered: Sequence[Part]) -> list[tuple[int, int]]:
    """The blocks that no part covers, as ranges from a block to before another."""
    starts = [0, *(_END if part.stop is None else part.stop for part in covered)]
    stops = [*(part.start for part in covered), _END]
    return [(start, stop) for start, stop in zip(starts, stops, strict=True) if start < stop]


def _within(chunk: Chunk, gaps: Sequence[tuple[int, int]]) -> Iterator[Chunk]:
    """A chunk, cut down to the gaps it lies in."""
    own = (chunk.range.start, _END if chunk.range.stop is None else chunk.range.stop)
    for gap in gaps[bisect_right(gaps, own[0], key=lambda gap: gap[1]) :]:
        start, stop = max(own[0], gap[0]), min(own[1], gap[1])
        if start >= stop:
            return
        cut = BlockRange(start, None if stop == _END else stop)
        yield chunk if (start, stop) == own else replace(chunk, range=cut)


def uncovered_leaves(plan: TablePlan, found: Sequence[Checkpoint]) -> list[Leaf]:
    """Returns the leaves that the chunks do not cover: each block once, and to the end."""
    readings = _readings(plan)
    covered = _by_leaf([each for each in found if _stands(each, readings)])
    return [leaf for leaf in plan.source.leaves if not _is_covered(covered.get(leaf.oid, []))]


def _is_covered(parts: Sequence[Part]) -> bool:
    following = [part.start for part in parts[1:]]
    return (
        bool(parts)
        and parts[0].start == 0
        and parts[-1].stop is None
        and [part.stop for part in parts[:-1]] == following
    )
