"""What is compared with what: each case runs its reference and ours in turn, A B A B."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from benchmarks.peers import PEERS, Peer, changes
from benchmarks.stand import Cost, Stand
from benchmarks.tables import EVENTS, SMALL_TABLES, USERS, WIDE, Table, small
from benchmarks.ways import (
    by_hand,
    by_psql,
    by_two_psqls,
    by_us,
    forget_ours,
    require_equal,
)

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
        by_psql(stand, USERS)
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


ONE_PERCENT = (
    "UPDATE public.users SET balance = balance + 1, updated_at = clock_timestamp() WHERE {one}"
)
"""Each row at its own time, as by an application. With one for all, a third of a delta would tie
with the watermark: a cursor has to read those rows again, the delta by hand does not."""
ONE_PERCENT_AND_NEW = (
    f"{ONE_PERCENT};\n"
    "INSERT INTO public.users SELECT (SELECT max(id) FROM public.users) + row_number() OVER (),"
    " gen_random_uuid(), email, full_name, balance, is_active, tags, profile, created_at,"
    " clock_timestamp() FROM public.users WHERE {one}"
)
EVERY_ROW = "UPDATE public.users SET balance = balance + 1, updated_at = now()"


def _change(stand: Stand, statements: str, number: int) -> str:
    """Changes the source; returns a time just before."""
    ((now,),) = stand.ask(stand.source, "SELECT clock_timestamp()::text")
    if statements:
        stand.ask(stand.source, statements.format(one=f"id % 100 = {number % 100}"))
    stand.ask(stand.source, "VACUUM ANALYZE public.users")
    # Both: a table that is not vacuumed finds room for a changed row beside the old one (HOT).
    for table in ("public.users", "raw_data.users"):
        stand.ask(stand.target, f"VACUUM ANALYZE {table}")
    return str(now)


def _against_peer(peer: Peer) -> Callable[[Stand], Iterator[tuple[Cost, Cost]]]:
    """Against another tool; what it lands otherwise than the source is told once."""

    def run(stand: Stand) -> Iterator[tuple[Cost, Cost]]:
        told = None
        while True:
            theirs = peer.cost(stand, USERS)
            forget_ours(stand)
            ours = by_us(stand, USERS)
            require_equal(stand, USERS, "raw_data.users")
            if told is None:
                told = changes(stand, USERS, peer.landed(USERS))
                print(f"{peer.name}: {'; '.join(told) or 'equal'}", flush=True)
            yield theirs, ours

    return run


def _two_settings(
    tables: tuple[Table, ...], one: dict[str, Any], other: dict[str, Any]
) -> Callable[[Stand], Iterator[tuple[Cost, Cost]]]:
    """Ours against ours, one table at a time: the first is the reference."""

    def run(stand: Stand) -> Iterator[tuple[Cost, Cost]]:
        while True:
            costs = []
            for options in (one, other):
                forget_ours(stand)
                costs.append(by_us(stand, *tables, tables_in_parallel=1, **options))
                for table in tables:
                    require_equal(stand, table, f"raw_data.{table.name}")
            yield costs[0], costs[1]

    return run


def _two_streams(table: Table) -> Callable[[Stand], Iterator[tuple[Cost, Cost]]]:
    """Without us: what a second stream gains on these cores."""

    def run(stand: Stand) -> Iterator[tuple[Cost, Cost]]:
        while True:
            one = by_psql(stand, table)
            two = by_two_psqls(stand, table)
            require_equal(stand, table, f"public.{table.name}")
            yield one, two

    return run


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


def _idle(change: str, **keys: Any) -> Callable[[Stand], Iterator[tuple[Cost, Cost]]]:
    """Against a whole copy: a run that finds nothing, or next to nothing."""

    def run(stand: Stand) -> Iterator[tuple[Cost, Cost]]:
        forget_ours(stand)
        by_us(stand, USERS, **keys)
        number = 0
        while True:
            number += 1
            theirs = by_psql(stand, USERS)
            if change:
                stand.ask(stand.source, change.format(number=number))
            ours = by_us(stand, USERS, **keys)
            require_equal(stand, USERS, "raw_data.users")
            yield theirs, ours

    return run


COPY, DELTA = "psql | psql", "delta by hand"
BY_XMIN = {"sync_mode": "xmin_incremental"}
BY_CURSOR = {
    "sync_mode": "incremental_sync",
    "incremental_field": "updated_at",
    "deletes": "ignore",
    "lookback": "0s",
}
ONE_WORKER, FIFTY = "ours, 1 worker", "ours, 50k rows"
ONE, TWO = {"workers": 1}, {"workers": 2}
THREE = (USERS, EVENTS, WIDE)
"""One after the other: two at a time keep both cores busy with one worker each."""
ANOTHER_TABLE = "CREATE TABLE public.other_{number} AS SELECT 1 AS one"
"""So that transactions began since, and the window of xmin is open."""
CASES = (
    Case("first load, users, 2 workers", COPY, 0.85, _first_loads(USERS, 2)),
    Case("first load, users, 1 worker", COPY, 1.0, _first_loads(USERS, 1)),
    Case("first load, events, 2 workers", COPY, 1.0, _first_loads(EVENTS, 2)),
    Case("first load, wide, 2 workers", COPY, None, _first_loads(WIDE, 2)),
    Case("full_sync, nothing changed", COPY, 0.6, _refreshes("")),
    Case("full_sync, 1 % changed", COPY, 0.7, _refreshes(ONE_PERCENT)),
    Case("full_sync, every row changed", COPY, 2.5, _refreshes(EVERY_ROW)),
    Case("xmin, 1 % changed, 1 % new", DELTA, 1.3, _deltas(**BY_XMIN)),
    Case("cursor, 1 % changed, 1 % new", DELTA, 1.2, _deltas(**BY_CURSOR)),
    Case("idle xmin, window open", COPY, 0.25, _idle(ANOTHER_TABLE, **BY_XMIN)),
    Case("idle xmin, nothing began since", COPY, 0.06, _idle("", **BY_XMIN)),
    Case("idle cursor, deletes ignored", COPY, 0.06, _idle("", **BY_CURSOR)),
    Case("2 workers against 1", ONE_WORKER, 0.83, _two_settings((USERS,), ONE, TWO)),
    Case("2 workers against 1, events", ONE_WORKER, 0.83, _two_settings((EVENTS,), ONE, TWO)),
    Case("2 workers against 1, wide", ONE_WORKER, 0.83, _two_settings((WIDE,), ONE, TWO)),
    Case("2 workers against 1, all three", ONE_WORKER, 0.83, _two_settings(THREE, ONE, TWO)),
    Case("2 streams of psql against 1", COPY, None, _two_streams(USERS)),
    Case("2 streams of psql against 1, events", COPY, None, _two_streams(EVENTS)),
    Case("2 streams of psql against 1, wide", COPY, None, _two_streams(WIDE)),
    Case(
        "chunks of 10k rows against 50k",
        *(FIFTY, 1.06, _two_settings((USERS,), {}, {"batch_size": 10_000})),
    ),
    Case(f"{SMALL_TABLES} small tables", "one psql | psql", None, _many_tables),
)
QUICK = tuple(
    case
    for case in CASES
    if case.name
    in {
        "first load, users, 2 workers",
        "first load, events, 2 workers",
        "full_sync, nothing changed",
        "full_sync, 1 % changed",
        "xmin, 1 % changed, 1 % new",
    }
)
PEER_CASES = tuple(
    Case(f"first load, users, {peer.name}", peer.name, limit, _against_peer(peer))
    for peer, limit in zip(PEERS, (0.25, 0.25, 0.05), strict=True)
)
"""Other tools take minutes: unless asked otherwise they run with a tenth of the rows."""
