"""How many rows of a table a snapshot has: asked once, or told by reads that passed them all."""

import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from psycopg2 import sql

from extract_load.chunking import TID_RANGE_VERSION, BlockRange, Range
from extract_load.connection import Session

_PARALLEL_RANGES_VERSION = 190000
"""From 19 on a range of ctid may be read by parallel workers, whose rows the reader is not told."""

_PASSED = (
    "SELECT pg_catalog.pg_stat_get_xact_numscans(oid), "
    "pg_catalog.pg_stat_get_xact_tuples_returned(oid) FROM pg_catalog.pg_class "
    "WHERE oid = {oid} AND relam = 2 AND pg_catalog.current_setting('track_counts')::bool"
)
"""2 is the OID of `heap`: other access methods count as they like."""


class SourceCounts:
    """What is known of the numbers of rows in one snapshot; nothing changes them while it stands.

    A read of a range of ctid has PostgreSQL count the live rows it passes, those a window leaves
    out too (manual, 27.2, pg_stat_xact_all_tables). These numbers stay in the backend until its
    transaction ends. So the reads of a delta, which pass every row, have counted the table.
    """

    def __init__(self) -> None:
        """Knows nothing yet."""
        self._answers: dict[str, int] = {}
        self._asking: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._passed: dict[tuple[int, BlockRange], int] = {}

    def answer(self, question: str, ask: Callable[[], int]) -> int:
        """Returns the answer to a question, asked once however many threads want it."""
        with self._asking[question]:
            if question not in self._answers:
                self._answers[question] = ask()
            return self._answers[question]

    @contextmanager
    def noting(self, reader: Session, oid: int, range_: Range, version: int) -> Iterator[None]:
        """Notes how many live rows the block's read of one range passes, where that is certain.

        A number that is too large could hide a deleted row. So nothing else may have been counted:
        a range that the planner has read by scanning all of the table is not noted.

        Args:
            reader: In the snapshot.
            oid: The leaf that is read.
            range_: Which of its blocks.
            version: The source's.
        """
        is_told = TID_RANGE_VERSION <= version < _PARALLEL_RANGES_VERSION
        if not is_told or not isinstance(range_, BlockRange):
            yield
            return
        before = _passed_by(reader, oid)
        yield
        after = _passed_by(reader, oid)
        if before is not None and after is not None and before[0] == after[0]:
            self._passed[oid, range_] = after[1] - before[1]

    def passed(self, oid: int, ranges: Iterable[Range]) -> int | None:
        """Returns the live rows of ranges that were all read, or None where one is not known."""
        known = [self._passed.get((oid, r)) if isinstance(r, BlockRange) else None for r in ranges]
        rows = [number for number in known if number is not None]
        return sum(rows) if rows and len(rows) == len(known) else None


def _passed_by(reader: Session, oid: int) -> tuple[int, int] | None:
    """Scans of the whole leaf that this transaction began, and rows they and ranges returned."""
    query = sql.SQL(_PASSED).format(oid=sql.Literal(oid))
    found = reader.execute(query, doing="ask how many rows were read")
    return (int(found[0][0]), int(found[0][1])) if found else None
