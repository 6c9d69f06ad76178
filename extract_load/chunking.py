"""How a table is cut into chunks.

Pure: takes numbers, gives ranges. No connection, no clock, no randomness.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from psycopg2 import sql

from extract_load.catalog import Leaf

CHUNK_BYTES = 64 << 20
"""A chunk's aim in bytes on the source's disk, whatever `batch_size` says: TOAST counts."""

TID_RANGE_VERSION = 140000
"""From 14 on a range of ctid is read without a scan of the whole table."""


@dataclass(frozen=True)
class BlockRange:
    """Heap blocks from `start` to before `stop`; `stop` None is open-ended."""

    start: int
    stop: int | None

    @property
    def predicate(self) -> sql.Composable:
        """The range as a condition on ctid. Only sound within one snapshot."""
        low = sql.SQL("ctid OPERATOR(pg_catalog.>=) {}::pg_catalog.tid").format(
            sql.Literal(f"({self.start},0)")
        )
        if self.stop is None:
            return low
        high = sql.SQL("ctid OPERATOR(pg_catalog.<) {}::pg_catalog.tid").format(
            sql.Literal(f"({self.stop},0)")
        )
        return sql.SQL("{} AND {}").format(low, high)

    def __str__(self) -> str:
        return f"blocks {self.start} to {'the end' if self.stop is None else self.stop - 1}"


@dataclass(frozen=True)
class WholeTable:
    """Everything in one pass."""

    start = 0
    stop = None

    @property
    def predicate(self) -> sql.Composable:
        """No condition."""
        return sql.SQL("true")

    def __str__(self) -> str:
        return "the whole window"


Range = BlockRange | WholeTable


@dataclass(frozen=True)
class Chunk:
    """The part of a table that one COPY moves."""

    number: int
    leaf: Leaf
    range: Range
    is_whole: bool = False
    """Whether the leaf's rows are read whatever the window says."""

    def __str__(self) -> str:
        return f"{self.range} of {self.leaf.name}"


def blocks_per_chunk(blocks: int, rows: int, table_bytes: int, batch_size: int) -> int:
    """Returns how many heap blocks hold about `batch_size` rows, or 64 MiB if that is less.

    Args:
        blocks: Heap blocks of the table.
        rows: Estimated rows; -1 where nobody knows.
        table_bytes: Heap and TOAST.
        batch_size: Rows a chunk aims at.

    Example:
        >>> blocks_per_chunk(blocks=1000, rows=100_000, table_bytes=8_192_000, batch_size=10_000)
        100
        >>> blocks_per_chunk(blocks=1000, rows=100_000, table_bytes=64 << 30, batch_size=10_000)
        1
    """
    if blocks < 1:
        return 1
    by_bytes = blocks * CHUNK_BYTES // max(table_bytes, 1)
    by_rows = blocks * batch_size // rows if rows > 0 else by_bytes
    return max(1, min(by_rows, by_bytes))


def split_blocks(blocks: int, per_chunk: int) -> Iterator[BlockRange]:
    """Yields ranges that together cover a heap, without overlap.

    Args:
        blocks: Heap blocks when the plan was made. Blocks added later belong to the last range,
            which is open-ended.
        per_chunk: Blocks a range, at least 1.

    Yields:
        Ranges in order, at least one.

    Example:
        >>> [str(range_) for range_ in split_blocks(5, 2)]
        ['blocks 0 to 1', 'blocks 2 to 3', 'blocks 4 to the end']
    """
    for start in range(0, max(blocks, 1), per_chunk):
        stop = start + per_chunk
        yield BlockRange(start, stop if stop < blocks else None)
