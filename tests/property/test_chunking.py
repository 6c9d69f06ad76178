"""Chunks cover a table exactly once."""

from hypothesis import given
from hypothesis import strategies as st

from extract_load.chunking import (
    CHUNK_BYTES,
    blocks_per_chunk,
    split_blocks,
)


@given(blocks=st.integers(0, 5_000), per_chunk=st.integers(1, 700), grown=st.integers(0, 50))
def test_every_block_is_in_exactly_one_chunk(blocks: int, per_chunk: int, grown: int) -> None:
    """No row may be copied twice, and none left out, also in blocks added after the plan."""
    ranges = list(split_blocks(blocks, per_chunk))

    covered: list[int] = []
    for part in ranges:
        covered += range(part.start, blocks + grown if part.stop is None else part.stop)
    assert covered == list(range(blocks + grown)) or (blocks == 0 and grown == 0)
    assert [part.stop for part in ranges].count(None) == 1


@given(
    blocks=st.integers(1, 10**8),
    rows=st.integers(-1, 10**10),
    bytes_a_block=st.integers(100, 10**8),
    batch_size=st.integers(1, 10**7),
)
def test_a_chunk_is_bounded_by_bytes_whatever_the_rows(
    blocks: int, rows: int, bytes_a_block: int, batch_size: int
) -> None:
    """A table of few but huge values must not become one chunk."""
    size = blocks_per_chunk(blocks, rows, blocks * bytes_a_block, batch_size)

    assert size >= 1
    assert size == 1 or size * bytes_a_block <= CHUNK_BYTES
