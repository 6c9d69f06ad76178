"""Rows that fit the source and not a page of the target, or not our memory: told by columns."""

from collections.abc import Iterator
from contextlib import contextmanager

from extract_load.chunking import Chunk
from extract_load.errors import MemoryExceeded, SchemaMismatch, TargetError
from extract_load.extract import largest_values
from extract_load.memory import MIB
from extract_load.snapshot import SourceSnapshot
from extract_load.table_plan import TablePlan

_PROGRAM_LIMIT_EXCEEDED = "54000"
_NAMED_COLUMNS = 20
_OFTEN_COMPRESSED = 4
"""What is compressed more than this is left to who looks at the process."""


@contextmanager
def naming_wide_columns(plan: TablePlan) -> Iterator[None]:
    """Turns the target's "row is too big" into an error that names the columns.

    A value of four bytes, as of an enum, takes as many as its text has, or 18 outside of the row.

    Raises:
        SchemaMismatch: Instead of the target's error.
    """
    try:
        yield
    except TargetError as error:
        if error.sqlstate != _PROGRAM_LIMIT_EXCEEDED or "row is too big" not in error.detail:
            raise
        raise _too_wide(plan, error) from error


def _too_wide(plan: TablePlan, error: TargetError) -> SchemaMismatch:
    names, grown = plan.contract.names, plan.contract.cast_names
    told = grown or names
    more = len(told) - _NAMED_COLUMNS
    listed = ", ".join(told[:_NAMED_COLUMNS]) + (f" and {more} more" if more > 0 else "")
    what = "which land as other types than the source's" if grown else "all of them"
    return SchemaMismatch(
        f"a row of {plan.settings.source.said} fits no page of the target "
        f'"{plan.settings.target_connection}"',
        f"Its {len(told)} columns {listed}, {what}, take too many bytes. {error.detail}",
        'Leave some of these columns out with "exclude_columns".',
    )


def require_room(source: SourceSnapshot, plan: TablePlan, chunk: Chunk, *, is_alone: bool) -> None:
    """Proves that a chunk's rows fit into our memory, where its TOAST is large enough to doubt it.

    Most tables have none, and looking for the longest row reads the chunk's heap.

    Args:
        source: The snapshot.
        plan: The table's.
        chunk: What of it.
        is_alone: Whether no other chunk is read meanwhile.

    Raises:
        MemoryExceeded: If one does not; its column and what it needs are named.
        MemoryShort: If it does not beside other chunks.
    """
    memory = source.governor.memory
    streams = 1 if is_alone else plan.settings.parallel_workers
    small_bytes = memory.row_bytes // streams // _OFTEN_COMPRESSED
    if chunk.leaf.toast_bytes < small_bytes:
        return
    found = largest_values(source, plan, chunk, small_bytes)
    if found[0] > memory.row_bytes:
        raise _too_large(source, plan, chunk, found)
    if not is_alone:
        memory.foresee(found[0], streams)


@contextmanager
def naming_large_values(source: SourceSnapshot, plan: TablePlan, chunk: Chunk) -> Iterator[None]:
    """Lets the error of a chunk that took too much memory name the column, and the need.

    Raises:
        MemoryExceeded: The same, in more words.
    """
    try:
        yield
    except MemoryExceeded as error:
        found = largest_values(source, plan, chunk)
        raise _too_large(source, plan, chunk, found) from error


def _too_large(
    source: SourceSnapshot, plan: TablePlan, chunk: Chunk, found: tuple[int, dict[str, int]]
) -> MemoryExceeded:
    row_bytes, sizes = found
    name, size = max(sizes.items(), key=lambda item: item[1])
    memory = source.governor.memory
    return MemoryExceeded(
        f"a row of {plan.settings.source.said} does not fit into memory_limit_mb",
        f'Column "{name}" holds a value of {size // MIB} MiB in {chunk.range}. '
        f"The limit is {memory.limit_bytes // MIB} MiB. The chunk was not loaded.",
        f'Set "memory_limit_mb" to {memory.needed_mib(row_bytes)} or more, or leave the column '
        'out with "exclude_columns".',
    )
