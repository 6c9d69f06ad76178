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

_MAY_ASK = (
    "SELECT pg_catalog.has_function_privilege('pg_catalog.' || name || '(oid)', 'EXECUTE') FROM "
    "(VALUES ('pg_stat_get_xact_numscans'), ('pg_stat_get_xact_tuples_returned')) AS f (name)"
)
_BY_RANGES = (
    "SET LOCAL max_parallel_workers_per_gather = 0; SET LOCAL enable_seqscan = off; {passed}"
)
"""What the planner may do instead, for a range that is most of its table, would not count."""
_PASSED = (
    "SELECT pg_catalog.pg_stat_get_xact_numscans(oid), "
    "pg_catalog.pg_stat_get_xact_tuples_returned(oid) FROM pg_catalog.pg_class "
    "WHERE oid OPERATOR(pg_catalog.=) {oid}::pg_catalog.oid "
    "AND relam OPERATOR(pg_catalog.=) 2::pg_catalog.oid "
    "AND pg_catalog.current_setting('track_counts')::pg_catalog.bool"
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
        self._passed: dict[tuple[int, BlockRange], int | None] = {}
        self._may_ask: bool | None = None

    def answer(self, question: str, ask: Callable[[], int]) -> int:
        """Returns the answer to a question, asked once however many threads want it."""
        with self._asking[question]:
            if question not in self._answers:
                self._answers[question] = ask()
            return self._answers[question]

    @contextmanager
    def noting(self, reader: Session, oid: int, range_: Range, version: int) -> Iterator[None]:
        """Notes how many live rows the block's read of one range passes, where that is told.

        The read must have no condition that an index serves: rows found by one are not counted.

        Args:
            reader: In the snapshot, in a savepoint that is rolled back after the block.
            oid: The leaf that is read.
            range_: Which of its blocks.
            version: The source's.
        """
        is_told = TID_RANGE_VERSION <= version < _PARALLEL_RANGES_VERSION
        if not is_told or not isinstance(range_, BlockRange) or not self._is_allowed(reader):
            yield
            return
        before = _passed_by(reader, oid, sql.SQL(_BY_RANGES))
        yield
        after = _passed_by(reader, oid, sql.SQL("{passed}"))
        if before is None or after is None or before[0] != after[0]:
            return  # a scan of the whole leaf counts more than the range
        rows = after[1] - before[1]
        is_same = self._passed.setdefault((oid, range_), rows) == rows
        self._passed[oid, range_] = rows if is_same else None

    def passed(self, oid: int, ranges: Iterable[Range]) -> int | None:
        """Returns the live rows of ranges that were all read, or None where one is not known."""
        known = [self._passed.get((oid, r)) if isinstance(r, BlockRange) else None for r in ranges]
        rows = [number for number in known if number is not None]
        return sum(rows) if rows and len(rows) == len(known) else None

    def _is_allowed(self, reader: Session) -> bool:
        """Whether the role may ask; PUBLIC may, unless somebody took it away."""
        if self._may_ask is None:
            self._may_ask = all(may for (may,) in reader.execute(_MAY_ASK, doing="ask for rights"))
        return self._may_ask


def _passed_by(reader: Session, oid: int, statements: sql.SQL) -> tuple[int, int] | None:
    """Scans of the whole leaf that this transaction began, and rows they and ranges returned."""
    query = statements.format(passed=sql.SQL(_PASSED).format(oid=sql.Literal(oid)))
    found = reader.execute(query, doing="ask how many rows were read")
    return (int(found[0][0]), int(found[0][1])) if found else None
