"""A source that is written to all the time, and what must always be true of its copy.

Money moves between accounts in one transaction, so that the sum over all accounts never changes;
accounts come and go in pairs whose balances add up to nothing.
"""

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field

import psycopg2
from psycopg2.extensions import cursor

from tests.support.servers import Database

ACCOUNTS = 6_000
TOTAL = ACCOUNTS * 100
TABLE = "public.accounts"
RAW = "raw_data.accounts"


def create(source: Database) -> None:
    """Makes the accounts."""
    source.execute(
        f"CREATE TABLE {TABLE} (id bigserial PRIMARY KEY, balance bigint NOT NULL,"
        " note text NOT NULL DEFAULT repeat('n', 100),"
        " updated_at timestamptz NOT NULL DEFAULT clock_timestamp());"
        f"INSERT INTO {TABLE} (balance) SELECT 100 FROM generate_series(1, {ACCOUNTS});"
        f"ANALYZE {TABLE}"
    )


def _move(cursor: cursor, chance: random.Random) -> None:
    """One transaction that leaves the sum as it is."""
    low, amount = chance.randrange(1, ACCOUNTS), chance.randrange(1, 1000)
    width = chance.choice([1, 1, 5, 50])
    now = "updated_at = clock_timestamp()"
    statements = {
        "move": f"UPDATE {TABLE} SET balance = balance - {amount}, {now} WHERE id = ANY"
        f" (SELECT id FROM {TABLE} WHERE id >= {low} ORDER BY id LIMIT {width});"
        f"UPDATE {TABLE} SET balance = balance + {amount}, {now} WHERE id = ANY"
        f" (SELECT id FROM {TABLE} WHERE id >= {low} ORDER BY id LIMIT {width})",
        "swap": f"UPDATE {TABLE} AS one SET balance = other.balance, {now} FROM {TABLE} AS other"
        f" WHERE (one.id, other.id) IN (({low}, {low + 1}), ({low + 1}, {low}))",
        "open": f"INSERT INTO {TABLE} (balance) VALUES ({amount}), (-{amount})",
        "close": f"WITH gone AS (DELETE FROM {TABLE} WHERE id = {low} RETURNING balance)"
        f" UPDATE {TABLE} SET balance = balance + gone.balance, {now} FROM gone WHERE id ="
        f" (SELECT max(id) FROM {TABLE})",
    }
    kinds = ["move", "swap", "open", "open", "close"]
    cursor.execute(f"BEGIN; {statements[chance.choice(kinds)]}; COMMIT")


def _again_and_again(
    database: Database, ended: threading.Event, pause_seconds: float, act: Callable[[cursor], None]
) -> None:
    """Acts in one session until the end; where the server is away, or refuses, in a new one."""
    while not ended.is_set():
        with suppress(psycopg2.Error), closing(database.connect()) as session:
            while not ended.wait(pause_seconds):
                act(session.cursor())
        ended.wait(0.1)


@contextmanager
def writers(source: Database, seed: int, count: int = 2) -> Iterator[None]:
    """Writes from several sessions; a server that restarts is waited for."""
    ended = threading.Event()

    def write(number: int) -> None:
        chance = random.Random(seed + number)
        _again_and_again(source, ended, 0.02, lambda cursor: _move(cursor, chance))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        for thread in threads:
            thread.join(30)


@dataclass
class Readers:
    """What analysts saw while everything broke."""

    looks: int = 0
    wrong: list[str] = field(default_factory=list)

    def saw(self, kind: str, rows: int, total: int | None) -> None:
        """Notes one look at a table that was published before."""
        self.looks += 1
        if rows == 0:
            self.wrong.append(f"{kind}: no rows")
        elif total != TOTAL:
            self.wrong.append(f"{kind}: {rows} rows add up to {total}")


@contextmanager
def readers(target: Database) -> Iterator[Readers]:
    """Reads the raw table all the time, in both isolation levels, once it is there."""
    seen, ended = Readers(), threading.Event()

    def look(cursor: cursor, isolation: str) -> None:
        cursor.execute("SELECT to_regclass(%s)", (RAW,))
        if cursor.fetchone() == (None,):
            return
        cursor.execute(f"BEGIN ISOLATION LEVEL {isolation}")
        for _ in range(2):
            cursor.execute(_SUM.format(live=_live(cursor)))
            seen.saw(isolation, *(cursor.fetchone() or (0, 0)))
        cursor.execute("COMMIT")

    def read(isolation: str) -> None:
        _again_and_again(target, ended, 0.1, lambda cursor: look(cursor, isolation))

    threads = [
        threading.Thread(target=read, args=(isolation,))
        for isolation in ("READ COMMITTED", "REPEATABLE READ")
    ]
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        ended.set()
        for thread in threads:
            thread.join(30)


_SUM = f"SELECT count(*)::int, sum(balance)::bigint FROM {RAW} WHERE {{live}}"


def _live(cursor: cursor) -> str:
    cursor.execute(
        "SELECT count(*) FROM pg_attribute"
        " WHERE attrelid = %s::regclass AND attname = '_deleted_at'",
        (RAW,),
    )
    return "_deleted_at IS NULL" if cursor.fetchone() == (1,) else "true"
