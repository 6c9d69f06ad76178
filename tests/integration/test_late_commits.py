"""Rows that are committed after a newer cursor was published: found, counted, or told of."""

import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from extract_load import catalog, snapshot
from extract_load.connection import Session
from tests.support.command import extract_load, write_settings
from tests.support.landing import assert_equal, environment, land, land_one
from tests.support.servers import Database
from tests.support.tables import INCREMENTAL, RAW, create_items

BY_CURSOR: dict[str, Any] = {**INCREMENTAL, "deletes": "ignore", "lookback": 0}
BY_XMIN = {**BY_CURSOR, "late_rows": "xmin"}


@pytest.fixture
def items(source: Database) -> Database:
    create_items(source, 1_000)
    return source


@contextmanager
def open_transaction(database: Database, *statements: str) -> Iterator[Any]:
    """Yields the cursor of a transaction; whoever leaves the block without COMMIT loses it."""
    session = database.connect()
    try:
        with session.cursor() as cursor:
            cursor.execute("BEGIN")
            for statement in statements:
                cursor.execute(statement)
            yield cursor
    finally:
        session.close()


def insert(number: int, at: str = "now()") -> str:
    return f"INSERT INTO public.items (id, body, updated_at) VALUES ({number}, 'x', {at})"


# ---------------------------------------------------------------- the oldest open transaction


@pytest.mark.parametrize("type_text", ["timestamptz", "timestamp"])
def test_a_transaction_open_in_the_snapshot_is_read_from_its_begin_on(
    items: Database, target: Database, type_text: str
) -> None:
    """Without a lookback: nothing but its age leads back to its row."""
    items.execute(f"ALTER TABLE public.items ALTER updated_at TYPE {type_text}")
    with open_transaction(items, insert(-1)) as slow:
        time.sleep(0.3)
        items.execute(insert(-2))
        land_one(items, target, BY_CURSOR)
        slow.execute("COMMIT")
    items.execute(insert(-3))

    found = land_one(items, target, BY_CURSOR)

    assert (found.rows_inserted, found.rows_late) == (2, 1)
    assert_equal(items, target, BY_CURSOR)
    assert land_one(items, target, BY_CURSOR).rows_read <= 3


def test_a_transaction_stays_remembered_while_it_is_open(items: Database, target: Database) -> None:
    with open_transaction(items, insert(-1)) as slow:
        for number in range(2, 5):
            time.sleep(0.1)
            items.execute(insert(-number))
            land_one(items, target, BY_CURSOR)
        slow.execute("COMMIT")

    assert land_one(items, target, BY_CURSOR).rows_late == 1
    assert_equal(items, target, BY_CURSOR)


def test_a_transaction_that_ends_while_the_snapshot_is_taken_is_not_passed_by(
    items: Database, target: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It commits after the snapshot, before its facts are read: asked for then, it were gone."""
    read = catalog.read_server_cut
    with open_transaction(items, insert(-1)) as slow:
        time.sleep(0.2)
        items.execute(insert(-2))

        def ending(session: Session, earlier_lsn: str) -> Any:
            slow.execute("COMMIT")
            return read(session, earlier_lsn)

        monkeypatch.setattr(snapshot, "read_server_cut", ending)
        land_one(items, target, BY_CURSOR)
        monkeypatch.undo()

    assert land_one(items, target, BY_CURSOR).rows_late == 1
    assert_equal(items, target, BY_CURSOR)


def test_a_transaction_that_begins_while_the_snapshot_is_taken_is_not_passed_by(
    items: Database, target: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is among the open ones of no reading; that of the reading itself stands for it."""
    read = catalog.read_lsn
    slow = items.connect()

    def beginning(session: Session) -> str:
        if session.side == "source":
            with slow.cursor() as cursor:
                cursor.execute("BEGIN")
                cursor.execute(insert(-1))
            time.sleep(0.2)
            items.execute(insert(-2))
        monkeypatch.undo()
        return read(session)

    monkeypatch.setattr(snapshot, "read_lsn", beginning)
    land_one(items, target, BY_CURSOR)
    with slow.cursor() as cursor:
        cursor.execute("COMMIT")
    slow.close()

    assert land_one(items, target, BY_CURSOR).rows_late == 1
    assert_equal(items, target, BY_CURSOR)


def test_a_transaction_prepared_while_they_are_asked_for_is_not_passed_by(
    items: Database, target: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Among the running ones before, among the prepared ones after: in one answer at least."""
    execute = Session.execute
    asked: list[str] = []
    with open_transaction(items, insert(-1)) as slow:
        time.sleep(0.2)
        items.execute(insert(-2))

        def preparing(session: Session, query: Any, *args: Any, **named: Any) -> Any:
            rows = execute(session, query, *args, **named)
            if named.get("doing") == "look for open transactions":
                asked.append(query)
                if len(asked) == 1:
                    slow.execute("PREPARE TRANSACTION 'between'")
            return rows

        monkeypatch.setattr(Session, "execute", preparing)
        land_one(items, target, BY_CURSOR)
        monkeypatch.undo()
    items.execute("COMMIT PREPARED 'between'")

    assert len(asked) == 2
    assert land_one(items, target, BY_CURSOR).rows_late == 1
    assert_equal(items, target, BY_CURSOR)


def test_a_killed_transaction_costs_nothing(items: Database, target: Database) -> None:
    with open_transaction(items, insert(-1)):
        items.execute(insert(-2))
        land_one(items, target, BY_CURSOR)

    assert land_one(items, target, BY_CURSOR).rows_late == 0
    assert_equal(items, target, BY_CURSOR)


# ---------------------------------------------------------------- which low bound holds


def warnings(items: Database, target: Database, table: dict[str, Any], path: Any) -> str:
    names = environment(items, target)
    config = write_settings(path / "tables.yml", {**table, "target": RAW})
    done = extract_load("plan", "--config", str(config), "--output", "json", environment=names)
    assert done.status == 0, done.stderr
    return "\n".join(done.json["tables"][0]["warnings"])


def test_plan_says_that_open_transactions_are_known(
    items: Database, target: Database, tmp_path: Any
) -> None:
    told = warnings(items, target, {**BY_CURSOR, "lookback": "5m"}, tmp_path)
    assert "low bound: the watermark less a lookback of 5 minutes and less the age of the" in told
    assert "(now" not in told
    with open_transaction(items, insert(-1)) as slow:
        slow.execute("SELECT pg_sleep(1.1)")
        told = warnings(items, target, {**BY_CURSOR, "lookback": "5m"}, tmp_path)
    assert "when it was published (now " in told


def test_plan_says_why_they_are_not(items: Database, target: Database, tmp_path: Any) -> None:
    role = f"reader_{items.name}"
    items.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'r'; GRANT SELECT ON public.items TO {role}")
    reader = Database(items.host, items.port, items.name, role, "r")
    try:
        told = warnings(reader, target, BY_CURSOR, tmp_path)
        items.execute(f"GRANT pg_read_all_stats TO {role}")
        assert "and less the age" in warnings(reader, target, BY_CURSOR, tmp_path)
        with open_transaction(items, insert(-1)) as slow:
            slow.execute("PREPARE TRANSACTION 'late'")
        prepared = warnings(reader, target, BY_CURSOR, tmp_path)
        items.execute("ROLLBACK PREPARED 'late'")
        silent = items.connect()
        with silent.cursor() as cursor:
            cursor.execute("SET track_activities = off; BEGIN; SELECT 1")
            hidden = warnings(reader, target, BY_CURSOR, tmp_path)
        silent.close()
    finally:
        items.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")

    alone = "low bound: the watermark less a lookback of 0 seconds alone, since "
    missed = 'rows that are committed later are missed, unless "late_rows" is xmin'
    why = "the role does not see other sessions' transactions (pg_read_all_stats)"
    assert f"{alone}{why}: {missed}" in told
    why = "prepared transactions do not say when they began (1 of them)"
    assert "and less the age of the oldest transaction" in prepared
    assert f", but {why}: {missed}" in prepared
    why = "sessions do not say what they do (track_activities)"
    assert f"{alone}{why}: {missed}" in hidden


@pytest.mark.parametrize(
    ("change", "table", "told"),
    [
        ("", {}, 'no index begins with "updated_at": each run scans the whole source table'),
        ("", BY_XMIN, "late rows are found by xmin: each run scans the whole source table"),
        (
            "ALTER updated_at DROP NOT NULL",
            {},
            '"updated_at" may be NULL: such rows are read again in every run',
        ),
        (
            "ALTER updated_at TYPE timestamp",
            {},
            '"updated_at" has no time zone: where the source writes local time with daylight '
            'saving, set "lookback" above the hour that is repeated in autumn',
        ),
        (
            "ADD c uuid NOT NULL DEFAULT gen_random_uuid()",
            {"incremental_field": "c"},
            'only version 7 of a uuid holds a time: rows whose "c" is of another version and '
            "below the low bound are not seen",
        ),
        (
            "ADD c text NOT NULL DEFAULT 'x' UNIQUE DEFERRABLE",
            {"incremental_field": "c"},
            'no index keeps "c" under COLLATE "C", in which texts are compared: each run scans',
        ),
        (
            "ADD c int NOT NULL DEFAULT 1",
            {"incremental_field": "c", "lookback": 7},
            "low bound: the watermark less a lookback of 7: rows that are committed later",
        ),
    ],
    ids=["no index", "xmin", "null", "no zone", "uuid", "collation", "number"],
)
def test_plan_says_what_a_cursor_costs_and_misses(
    source: Database,
    target: Database,
    tmp_path: Any,
    change: str,
    table: dict[str, Any],
    told: str,
) -> None:
    create_items(source, 1)
    if change:
        source.execute(f"ALTER TABLE public.items {change}")
    assert told in warnings(source, target, {**BY_CURSOR, **table}, tmp_path)


# ---------------------------------------------------------------- late_rows: xmin


def test_xmin_finds_what_no_lookback_reaches(items: Database, target: Database) -> None:
    """A prepared transaction and a backdated row lie days below the watermark."""
    land_one(items, target, BY_XMIN)
    with open_transaction(items, insert(-1, "now() - interval '3 days'")) as slow:
        slow.execute("PREPARE TRANSACTION 'three days'")
    items.execute(insert(-2))
    land_one(items, target, BY_XMIN)
    items.execute("COMMIT PREPARED 'three days'")
    items.execute(insert(-3, "'2020-01-01'"))
    items.execute("UPDATE public.items SET body = 'silently' WHERE id = 5")

    found = land_one(items, target, BY_XMIN)

    assert (found.baseline, found.rows_inserted, found.rows_updated) == (False, 2, 1)
    assert found.rows_late == 3
    assert_equal(items, target, BY_XMIN)
    idle = land_one(items, target, BY_XMIN)
    assert (idle.rows_read, idle.rows_late) == (1, 0), "the row at the watermark"


def test_the_same_rows_are_missed_without_it(items: Database, target: Database) -> None:
    land_one(items, target, BY_CURSOR)
    items.execute(insert(-3, "'2020-01-01'"))
    assert land_one(items, target, BY_CURSOR).rows_inserted == 0


def test_it_goes_on_only_from_a_snapshot_it_has_read_up_to(
    items: Database, target: Database
) -> None:
    """What a run by the cursor alone passed by, a window from its snapshot on would too."""
    land_one(items, target, BY_XMIN)
    items.execute("UPDATE public.items SET body = 'silently' WHERE id = 5")
    land_one(items, target, BY_CURSOR)

    found = land_one(items, target, BY_XMIN)

    assert found.baseline
    assert_equal(items, target, BY_XMIN)
    assert not land_one(items, target, BY_XMIN).baseline


def test_a_window_of_two_epochs_is_a_baseline(items: Database, target: Database) -> None:
    land_one(items, target, BY_XMIN)
    xid = "SELECT pg_current_xact_id()::text::bigint"
    (now,) = items.execute(xid)[0]
    target.execute(f"UPDATE extract_load.watermarks SET xid = {now} - 4294967296")
    assert land_one(items, target, BY_XMIN).baseline


def test_rows_without_an_xmin_are_refused_by_name(items: Database, target: Database) -> None:
    items.execute("CREATE VIEW public.seen AS SELECT * FROM public.items")
    table = {**BY_XMIN, "source": "public.seen", "primary_key": "id"}
    (failed,) = land(items, target, table).tables
    assert failed.error is not None
    assert failed.error.primary == ('"public.seen" cannot be read by xmin: "public.seen" is a view')
    assert failed.error.hint == 'Set "late_rows" to lookback, or "sync_mode" to full_sync.'


def test_twenty_writers_with_open_transactions_lose_nothing(
    items: Database, target: Database
) -> None:
    """For half a minute: stamps of the begin, commits seconds later, some killed, some prepared."""
    ends_at = time.monotonic() + 30
    failures: list[BaseException] = []

    def write(number: int) -> None:
        chance = random.Random(number)
        try:
            while time.monotonic() < ends_at:
                _one_transaction(items, chance, number)
        except BaseException as exc:
            failures.append(exc)
            raise

    threads = [threading.Thread(target=write, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    runs = late = 0
    while any(thread.is_alive() for thread in threads):
        result = land_one(items, target, BY_XMIN)
        runs, late = runs + 1, late + result.rows_late
    for thread in threads:
        thread.join(30)

    land_one(items, target, BY_XMIN)
    assert not failures
    assert runs > 3
    assert late > 0, "or nothing was tried"
    assert_equal(items, target, BY_XMIN)
    assert items.execute("SELECT count(*) FROM pg_prepared_xacts") == [(0,)]


def _one_transaction(items: Database, chance: random.Random, number: int) -> None:
    """A few rows of this writer's own, written at once and committed later, or never."""
    with open_transaction(items) as cursor:
        for _ in range(chance.randint(1, 4)):
            row = number * 50 + chance.randint(1, 50)
            stamp = chance.choice(
                ["now()", "now() - interval '1 day'", "clock_timestamp()", "NULL"]
            )
            with_null = "updated_at" if stamp == "NULL" else stamp
            cursor.execute(
                f"UPDATE public.items SET body = md5(random()::text), updated_at = {with_null}"
                f" WHERE id = {row}"
            )
            cursor.execute(
                "INSERT INTO public.items (id, body) VALUES (%s, 'new') ON CONFLICT DO NOTHING",
                (10_000 * (number + 1) + chance.randint(1, 5_000),),
            )
        time.sleep(chance.choice([0, 0.05, 0.5, 2]))
        end = chance.random()
        if end < 0.1:
            return
        if end < 0.2 and number < 8:
            name = f"writer {number}"
            cursor.execute(f"PREPARE TRANSACTION '{name}'")
            time.sleep(0.5)
            cursor.execute(f"COMMIT PREPARED '{name}'")
            return
        cursor.execute("COMMIT")
