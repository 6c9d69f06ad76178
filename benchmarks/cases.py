"""What is compared with what: each case runs its reference and ours in turn, A B A B."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from benchmarks.stand import Cost, Stand
from benchmarks.tables import EVENTS, SMALL_TABLES, USERS, WIDE, Table, small
from benchmarks.ways import by_hand, by_psql, by_us, forget_ours, require_equal

Way = Callable[[], Cost]


@dataclass(frozen=True)
class Case:
    """Two ways to one end state."""

    name: str
    reference: str
    limit: float | None
    """The ratio to reach: ours / reference; None: shown only."""
    run: Callable[[Stand], Iterator[tuple[Cost, Cost]]]
    """Yields reference and ours, pair by pair, for as long as it is asked."""


def _first_loads(table: Table, workers: int) -> Callable[[Stand], Iterator[tuple[Cost, Cost]]]:
    def run(stand: Stand) -> Iterator[tuple[Cost, Cost]]:
        while True:
            theirs = by_psql(stand, table)
            forget_ours(stand)
            ours = by_us(stand, table, workers=workers)
            require_equal(stand, table, f"public.{table.name}")
            require_equal(stand, table, f"raw_data.{table.name}")
            yield theirs, ours

    return run


def _refreshes(change: str) -> Callable[[Stand], Iterator[tuple[Cost, Cost]]]:
    """Against a whole copy: what a refresh without any knowledge costs."""

    def run(stand: Stand) -> Iterator[tuple[Cost, Cost]]:
        forget_ours(stand)
        by_us(stand, USERS)
        number = 0
        while True:
            number += 1
            _change(stand, change, number)
            theirs = by_psql(stand, USERS)
            ours = by_us(stand, USERS)
            require_equal(stand, USERS, "raw_data.users")
            yield theirs, ours

    return run


def _deltas(**keys: Any) -> Callable[[Stand], Iterator[tuple[Cost, Cost]]]:
    """Against the ideal delta."""

    def run(stand: Stand) -> Iterator[tuple[Cost, Cost]]:
        forget_ours(stand)
        by_us(stand, USERS, **keys)
        by_psql(stand, USERS)
        number = 0
        while True:
            number += 1
            since = _change(stand, ONE_PERCENT_AND_NEW, number)
            theirs = by_hand(stand, USERS, since)
            ours = by_us(stand, USERS, **keys)
            require_equal(stand, USERS, "public.users")
            require_equal(stand, USERS, "raw_data.users")
            yield theirs, ours

    return run


ONE_PERCENT = "UPDATE public.users SET balance = balance + 1, updated_at = now() WHERE {one}"
ONE_PERCENT_AND_NEW = (
    f"{ONE_PERCENT};\n"
    "INSERT INTO public.users SELECT (SELECT max(id) FROM public.users) + row_number() OVER (),"
    " gen_random_uuid(), email, full_name, balance, is_active, tags, profile, created_at, now()"
    " FROM public.users WHERE {one}"
)
EVERY_ROW = "UPDATE public.users SET balance = balance + 1, updated_at = now()"


def _change(stand: Stand, statements: str, number: int) -> str:
    """Changes the source; returns a time just before."""
    ((now,),) = stand.ask(stand.source, "SELECT clock_timestamp()::text")
    if statements:
        stand.ask(stand.source, statements.format(one=f"id % 100 = {number % 100}"))
    stand.ask(stand.source, "VACUUM ANALYZE public.users")
    stand.ask(stand.target, "VACUUM ANALYZE raw_data.users")
    return str(now)


def _many_tables(stand: Stand) -> Iterator[tuple[Cost, Cost]]:
    """Against as many pairs of psql would be unfair to them: one pair, times the tables."""
    tables = [small(number) for number in range(SMALL_TABLES)]
    while True:
        theirs = by_psql(stand, tables[0])
        forget_ours(stand)
        ours = by_us(stand, *tables)
        for table in tables[:: SMALL_TABLES // 5]:
            require_equal(stand, table, f"raw_data.{table.name}")
        yield theirs, ours


COPY, DELTA = "psql | psql", "delta by hand"
CASES = (
    Case("first load, users, 2 workers", COPY, 0.85, _first_loads(USERS, 2)),
    Case("first load, users, 1 worker", COPY, 1.0, _first_loads(USERS, 1)),
    Case("first load, events, 2 workers", COPY, 1.0, _first_loads(EVENTS, 2)),
    Case("first load, wide, 2 workers", COPY, None, _first_loads(WIDE, 2)),
    Case("full_sync, nothing changed", COPY, 0.6, _refreshes("")),
    Case("full_sync, 1 % changed", COPY, 0.7, _refreshes(ONE_PERCENT)),
    Case("full_sync, every row changed", COPY, 2.5, _refreshes(EVERY_ROW)),
    Case("xmin, 1 % changed, 1 % new", DELTA, 1.3, _deltas(sync_mode="xmin_incremental")),
    Case(
        "cursor, 1 % changed, 1 % new",
        DELTA,
        1.2,
        _deltas(
            sync_mode="incremental_sync",
            incremental_field="updated_at",
            deletes="ignore",
            lookback="0s",
        ),
    ),
    Case(f"{SMALL_TABLES} small tables", "one psql | psql", None, _many_tables),
)
