"""What a run goes on from, and what it reads, together cover a table exactly once."""

from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from extract_load.checkpoints import Checkpoint, Part, SnapshotMark
from extract_load.chunking import BlockRange, Chunk, split_blocks
from extract_load.resume import remaining
from tests.unit.test_planner import LEAF

OTHER_LEAF = replace(LEAF, oid=2)
MARK = SnapshotMark("one", 100, "0/1")


def chunks_of(blocks: int, per_chunk: int) -> tuple[Chunk, ...]:
    parts = [
        (leaf, part) for leaf in (LEAF, OTHER_LEAF) for part in split_blocks(blocks, per_chunk)
    ]
    return tuple(Chunk(number, leaf, part) for number, (leaf, part) in enumerate(parts))


def checkpoint_of(chunk: Chunk) -> Checkpoint:
    part = Part(chunk.leaf.oid, 11, chunk.range.start, chunk.range.stop, "")
    return Checkpoint(chunk.number, "run", part, MARK, rows=1, bytes=1, loaded_xid=1)


def blocks_of(parts: list[Any], end: int) -> list[int]:
    covered: list[int] = []
    for part in parts:
        covered += range(part.start, end if part.stop is None else part.stop)
    return sorted(covered)


@given(
    blocks=st.integers(0, 300),
    per_chunk=st.integers(1, 80),
    grown=st.integers(0, 300),
    per_chunk_now=st.integers(1, 80),
    data=st.data(),
)
def test_every_block_is_kept_or_read_once(
    blocks: int, per_chunk: int, grown: int, per_chunk_now: int, data: st.DataObject
) -> None:
    """Also where the heap grew since, and is cut otherwise."""
    planned = chunks_of(blocks, per_chunk)
    done = data.draw(st.sets(st.sampled_from(planned)))
    kept = [checkpoint_of(chunk) for chunk in sorted(done, key=lambda chunk: chunk.number)]

    left = remaining(chunks_of(blocks + grown, per_chunk_now), kept)

    end = blocks + grown + 1000
    for leaf in (LEAF, OTHER_LEAF):
        old = [each.part for each in kept if each.part.leaf == leaf.oid]
        new = [chunk.range for chunk in left if chunk.leaf.oid == leaf.oid]
        assert blocks_of([*old, *new], end) == list(range(end))
    numbers = [each.chunk for each in kept] + [chunk.number for chunk in left]
    assert len(set(numbers)) == len(numbers)


@given(blocks=st.integers(0, 300), per_chunk=st.integers(1, 80))
def test_without_checkpoints_the_plan_stays(blocks: int, per_chunk: int) -> None:
    planned = chunks_of(blocks, per_chunk)
    assert remaining(planned, []) == planned


def test_many_chunks_are_compared_in_no_time() -> None:
    """100 000 chunks, every other one kept, cut at other blocks since."""
    planned = chunks_of(50_000, 1)
    kept = [checkpoint_of(chunk) for chunk in planned[::2]]
    left = remaining(chunks_of(60_000, 3), kept)
    assert {type(chunk.range) for chunk in left} == {BlockRange}
