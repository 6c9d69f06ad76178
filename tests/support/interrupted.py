"""Runs that break off in the middle, as a killed one does, without a process to kill."""

from collections.abc import Callable, Mapping
from typing import Any

from tests.support.landing import land
from tests.support.servers import Database


class BrokenOffError(Exception):
    """Ends a run; nobody in it knows this error."""


def broken_off(
    source: Database,
    target: Database,
    table: Mapping[str, Any],
    after: int,
    before_end: Callable[[], None] = lambda: None,
) -> int:
    """Returns how many chunks stand in scratch after a run that ended before its last one.

    Args:
        source: The source.
        target: The target.
        table: Its keys.
        after: How many chunks it loads at least.
        before_end: Done while it still runs.
    """

    def end(chunks: int) -> None:
        if chunks == after:
            before_end()
            raise BrokenOffError

    result = land(source, target, table, after_chunk=end).tables[0]
    assert result.error is not None
    assert result.error.primary == "unexpected BrokenOffError"
    ((chunks,),) = target.execute(
        "SELECT (SELECT count(*) FROM extract_load.chunks)::int"
        " + (SELECT count(*) FROM extract_load_scratch.chunks)::int"
    )
    assert chunks >= after
    return int(chunks)
