"""Readers never notice a refresh; and a refresh without changes writes nothing."""

import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from tests.support.landing import assert_equal, land_one
from tests.support.servers import Database

pytestmark = [pytest.mark.slow, pytest.mark.alone, pytest.mark.timeout(1500)]

ROWS = 1_000_000
REFRESHES = 20
READERS = 10
CALM_SECONDS = 10.0
PAUSE_SECONDS = 0.5
"""Between the looks of one reader: ten of them share two cores with the refresh."""
TABLE = {"source": "public.t", "batch_size": 200_000}
RAW = "raw_data.digitalocean_t"
CREATE = f"""
CREATE TABLE public.t (id int PRIMARY KEY, version int NOT NULL, body text NOT NULL);
INSERT INTO public.t SELECT i, 0, md5(i::text) FROM generate_series(1, {ROWS}) AS i;
VACUUM ANALYZE public.t
"""
# Every tenth row changes; a thousand rows go and as many come.
CHANGE = """
UPDATE public.t SET version = {n} WHERE id % 10 = 0;
DELETE FROM public.t WHERE id % 10 = 1 AND id BETWEEN {first} AND {last};
INSERT INTO public.t SELECT {fresh} + i * 10 + 1, {n}, 'fresh' FROM generate_series(1, 1000) AS i
"""
LOOK = (
    "SELECT count(*), count(DISTINCT version) FILTER (WHERE id % 10 = 0),"
    " max(version), max(version) FILTER (WHERE id % 10 = 0) FROM {}"
)
Seen = tuple[int, int, int, int]


@pytest.fixture
def tables(source: Database, target: Database) -> tuple[Database, Database]:
    """The table, landed once, and a view on the raw table."""
    for statement in CREATE.split(";"):
        source.execute(statement)
    land_one(source, target, TABLE)
    target.execute(f"CREATE VIEW public.on_it AS SELECT * FROM {RAW}")
    target.execute(f"VACUUM ANALYZE {RAW}")
    return source, target


class Readers:
    """Ten sessions that look at the table and the view until they are told to stop."""

    def __init__(self, target: Database) -> None:
        self._target = target
        self._stop = threading.Event()
        self.longest_seconds = 0.0
        self.looks = 0
        self._lock = threading.Lock()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Runs them during the block; what one of them found wrong is raised at its end."""
        with ThreadPoolExecutor(READERS) as pool:
            futures: list[Future[None]] = [
                pool.submit(self._read, number) for number in range(READERS)
            ]
            try:
                yield
            finally:
                self._stop.set()
        for future in futures:
            future.result()

    def _read(self, number: int) -> None:
        relation = "public.on_it" if number % 4 < 2 else RAW
        session = self._target.connect()
        session.autocommit = False
        session.set_session(
            isolation_level="REPEATABLE READ" if number % 2 else "READ COMMITTED", readonly=True
        )
        last = 0
        while not self._stop.is_set():
            seen = [self._look(session.cursor(), relation) for _ in range(3)]
            session.rollback()
            assert number % 2 == 0 or len(set(seen)) == 1, f"one snapshot shows {seen}"
            for rows, versions, newest, newest_changed in seen:
                assert rows == ROWS, f"{rows} rows"
                assert versions == 1, "rows of two refreshes together"
                assert newest == newest_changed, "updates without their inserts"
                assert newest >= last, "back in time"
                last = newest
            time.sleep(PAUSE_SECONDS)
        session.close()

    def _look(self, cursor: "object", relation: str) -> Seen:
        started = time.monotonic()
        cursor.execute(LOOK.format(relation))  # type: ignore[attr-defined]
        (seen,) = cursor.fetchall()  # type: ignore[attr-defined]
        with self._lock:
            self.looks += 1
            self.longest_seconds = max(self.longest_seconds, time.monotonic() - started)
        return tuple(seen)


def test_ten_readers_never_see_a_refresh_halfway(
    tables: tuple[Database, Database], capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = tables
    calm = Readers(target)
    with calm.running():
        time.sleep(CALM_SECONDS)

    busy = Readers(target)
    with busy.running():
        for n in range(1, REFRESHES + 1):
            source.execute(
                CHANGE.format(n=n, first=n * 10_000, last=n * 10_000 + 9_999, fresh=n * ROWS)
            )
            result = land_one(source, target, TABLE)
            assert (result.rows_inserted, result.rows_deleted) == (1000, 1000)

    told = (
        f"{REFRESHES} refreshes of {ROWS:,} rows under {READERS} readers, {busy.looks} looks: "
        f"the longest {busy.longest_seconds:.2f} s; {calm.longest_seconds:.2f} s in a calm run"
    )
    with capsys.disabled():
        sys.stdout.write(f"\n{told}\n")
    assert busy.looks > READERS
    assert_equal(source, target, TABLE)


def test_an_unchanged_table_costs_neither_dead_rows_nor_wal(
    tables: tuple[Database, Database], capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = tables
    before = target.execute("SELECT pg_current_wal_insert_lsn()")[0][0]
    result = land_one(source, target, TABLE)
    wal = _wal_since(target, before)
    before = target.execute("SELECT pg_current_wal_insert_lsn()")[0][0]
    land_one(source, target, {**TABLE, "target": "raw_data.reload"})
    reload_ = _wal_since(target, before)
    target.execute("SELECT pg_stat_force_next_flush()")
    dead = target.execute(
        "SELECT n_dead_tup FROM pg_stat_user_tables WHERE relid = %s::regclass", (RAW,)
    )

    with capsys.disabled():
        sys.stdout.write(f"\nan unchanged full_sync: {wal:,} bytes of WAL, a reload {reload_:,}\n")
    assert (result.rows_read, result.rows_inserted, result.rows_updated) == (0, 0, 0)
    assert dead == [(0,)]
    assert wal < reload_ / 100


def _wal_since(target: Database, lsn: str) -> int:
    query = "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), %s::pg_lsn)::bigint"
    return int(target.execute(query, (lsn,))[0][0])
