"""When two tables on two servers hold the same rows: the one definition of it.

Per column the text under pinned settings (a session's own, see `connection`), in UTF-8 and hashed;
bytea and "char" by their bytes. Both servers sum digests by bucket; only the rows of buckets that
differ send their keys and digests, in one order, so that memory does not grow with the table.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from enum import StrEnum
from heapq import merge
from itertools import groupby
from typing import TypeVar

from psycopg2 import sql

from extract_load.connection import Session
from extract_load.digests import Buckets, Value, key_digest, row_digest

Key = tuple[str | None, ...]
Sums = dict[int, tuple[int, int]]
"""Count and sum of digests, by bucket."""
Result = TypeVar("Result")

NO_ROW, EVERY_ROW = sql.SQL("false"), sql.SQL("true")
LISTED_KEYS = 100
"""Where lists of keys end; counts are exact."""

_ROWS_PER_FETCH = 2000
_LISTED_CHARACTERS = 60
"""Of each column, where a row without a key is named."""


class Finding(StrEnum):
    """What is wrong with a key."""

    MISSING = "missing"
    """In the source only."""
    EXTRA = "extra"
    """In the target only."""
    DIFFERENT = "different"
    """In both, with other content."""
    PENDING = "pending"
    """Any of these, in a row that may have changed since the last publish."""


@dataclass(frozen=True)
class Part:
    """Rows of one side that are read from one place."""

    origin: sql.Composable
    """What follows FROM."""
    belongs: sql.Composable
    """The condition for a row to count."""
    is_recent: sql.Composable = field(default_factory=lambda: NO_ROW)
    """The condition for a row to have changed since the moment that is compared."""


@dataclass(frozen=True)
class Side:
    """One side of a comparison. Everything is read in one snapshot."""

    columns: tuple[Value, ...]
    key: tuple[Value, ...]
    """Empty where rows have none: then they are compared as a multiset."""
    parts: tuple[Part, ...]
    reading: Callable[[tuple[int, ...]], AbstractContextManager[Session]]
    """Opens a session that reads the parts of these numbers."""
    rows: int = 0
    """About how many, for the number of buckets."""

    @property
    def digest(self) -> sql.Composable:
        """The digest of a row."""
        return row_digest(self.columns)

    @property
    def key_digest(self) -> sql.Composable:
        """The digest of a key; of the row where there is none."""
        return key_digest(self.key) if self.key else self.digest

    @property
    def names(self) -> list[sql.Composable]:
        """What names a row, for people."""
        if self.key:
            return [value.text for value in self.key]
        cut = sql.SQL("left({}, {})")
        return [cut.format(value.text, sql.Literal(_LISTED_CHARACTERS)) for value in self.columns]


@dataclass
class _Found:
    count: int = 0
    keys: list[Key] = field(default_factory=list)

    def add(self, count: int, key: Key) -> None:
        self.keys += [key] * min(count, LISTED_KEYS - len(self.keys))
        self.count += count


@dataclass(frozen=True)
class TableDifference:
    """How two tables differ: exact counts, and up to 100 keys of each kind."""

    source_rows: int
    target_rows: int
    missing_count: int
    extra_count: int
    different_count: int
    pending_count: int
    missing: tuple[Key, ...]
    extra: tuple[Key, ...]
    different: tuple[Key, ...]

    @classmethod
    def nothing(cls, source_rows: int, target_rows: int) -> "TableDifference":
        """Returns the difference of tables of which nothing is known but their rows."""
        return cls(source_rows, target_rows, 0, 0, 0, 0, (), (), ())

    @property
    def is_equal(self) -> bool:
        """Whether both tables hold the same rows."""
        return not (
            self.missing_count or self.extra_count or self.different_count or self.pending_count
        )


Judge = Callable[[Finding, bool], Finding]
"""What a finding is, given whether the source's row changed since the moment compared."""


def compare(
    source: Side, target: Side, judge: Judge = lambda finding, _: finding
) -> TableDifference:
    """Returns how two tables differ.

    Args:
        source: One side.
        target: The other, with the same columns and key.
        judge: May call a finding pending.
    """
    buckets = Buckets.for_rows(max(source.rows, target.rows))
    ours, theirs = at_once(lambda: _row_sums(source, buckets), lambda: _row_sums(target, buckets))
    found = {kind: _Found() for kind in Finding}
    differing = differing_buckets(ours, theirs)
    if differing:
        chosen = Buckets(buckets.bits, differing)
        for kind, is_recent, count, key in _findings(source, target, chosen):
            found[judge(kind, is_recent)].add(count, key)
    return TableDifference(
        source_rows=sum(count for count, _ in ours.values()),
        target_rows=sum(count for count, _ in theirs.values()),
        missing_count=found[Finding.MISSING].count,
        extra_count=found[Finding.EXTRA].count,
        different_count=found[Finding.DIFFERENT].count,
        pending_count=found[Finding.PENDING].count,
        missing=tuple(found[Finding.MISSING].keys),
        extra=tuple(found[Finding.EXTRA].keys),
        different=tuple(found[Finding.DIFFERENT].keys),
    )


def keys_text(keys: tuple[Key, ...], count: int, shown: int) -> str:
    """Returns keys for people.

    Example:
        >>> keys_text((("1",), ("a", None)), 7, 2)
        '1; (a, NULL); ... 5 more'
    """
    texts = [_key_text(key) for key in keys[:shown]]
    more = count - len(texts)
    return "; ".join(texts + ([f"... {more} more"] if more else []))


def _key_text(key: Key) -> str:
    values = ["NULL" if value is None else value for value in key]
    return values[0] if len(values) == 1 else f"({', '.join(values)})"


def at_once(first: Callable[[], Result], second: Callable[[], Result]) -> tuple[Result, Result]:
    """Returns what two functions return that wait for two servers."""
    with ThreadPoolExecutor(1, thread_name_prefix="compare") as pool:
        future = pool.submit(first)
        other = second()
        return future.result(), other


def add_sums(found: Iterable[Sequence[int]], sums: Sums) -> None:
    """Adds the rows of a query of `Buckets.sums` to what was found elsewhere."""
    for bucket, count, total in found:
        known = sums.get(bucket, (0, 0))
        sums[bucket] = (known[0] + count, known[1] + int(total))


def differing_buckets(ours: Sums, theirs: Sums) -> frozenset[int]:
    """Returns the buckets whose counts or sums are not the same."""
    return frozenset(
        bucket for bucket in ours.keys() | theirs.keys() if ours.get(bucket) != theirs.get(bucket)
    )


def _row_sums(side: Side, buckets: Buckets) -> Sums:
    sums: Sums = {}
    for number, part in enumerate(side.parts):
        rows = sql.SQL("{} WHERE {}").format(part.origin, part.belongs)
        query = buckets.sums(rows, side.digest, side.key_digest if side.key else None)
        with side.reading((number,)) as session:
            add_sums(session.execute(query, doing="compare the rows"), sums)
    return sums


_Row = tuple[str, str, bool, Key]
"""Digests of key and row, whether it is recent, its key."""


def _findings(
    source: Side, target: Side, chosen: Buckets
) -> Iterator[tuple[Finding, bool, int, Key]]:
    """Every difference: its kind, whether the source's row is recent, how often, its key."""
    ours = ((row, True) for row in _rows(source, chosen))
    theirs = ((row, False) for row in _rows(target, chosen))
    in_order = merge(ours, theirs, key=lambda one: one[0][0])
    for _, group in groupby(in_order, key=lambda one: one[0][0]):
        yield from _of_one_key(group)


def _of_one_key(
    rows: Iterable[tuple[_Row, bool]],
) -> Iterator[tuple[Finding, bool, int, Key]]:
    """Compares the rows of one key as multisets of digests: equal ones stand for each other."""
    surplus: Counter[str] = Counter()
    is_recent = False
    name: Key = ()
    for (_, digest, is_row_recent, name), is_ours in rows:  # noqa: B007 - the last names it
        surplus[digest] += 1 if is_ours else -1
        is_recent |= is_row_recent
    missing = sum(count for count in surplus.values() if count > 0)
    extra = -sum(count for count in surplus.values() if count < 0)
    different = min(missing, extra)
    counts = {
        Finding.DIFFERENT: different,
        Finding.MISSING: missing - different,
        Finding.EXTRA: extra - different,
    }
    yield from ((kind, is_recent, count, name) for kind, count in counts.items() if count)


def _rows(side: Side, chosen: Buckets) -> Iterator[_Row]:
    """Streams the rows of the chosen buckets in the order of their keys' digests."""
    if not side.parts:
        return
    selects = [
        sql.SQL("SELECT {key}, {digest}, {recent}, {names} FROM {rows}").format(
            key=side.key_digest,
            digest=side.digest,
            recent=part.is_recent,
            names=sql.SQL("ARRAY[{}]::text[]").format(sql.SQL(", ").join(side.names)),
            rows=sql.SQL("{} WHERE {} AND {}").format(
                part.origin, part.belongs, chosen.holds(side.key_digest)
            ),
        )
        for part in side.parts
    ]
    query = sql.SQL(
        "DECLARE differing NO SCROLL CURSOR FOR "
        "SELECT encode(key, 'hex'), encode(digest, 'hex'), recent, names "
        "FROM ({}) AS found (key, digest, recent, names) ORDER BY key"
    ).format(sql.SQL(" UNION ALL ").join(selects))
    fetch = f"FETCH {_ROWS_PER_FETCH} FROM differing"
    doing = "read the keys that differ"
    with side.reading(tuple(range(len(side.parts)))) as session:
        session.execute(query, doing=doing)
        while rows := session.execute(fetch, doing=doing):
            for key, digest, is_recent, names in rows:
                yield key, digest, bool(is_recent), tuple(names)
        session.execute("CLOSE differing")
