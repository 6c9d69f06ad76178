"""`verify`: what differs is found and named; what may only be late is never called wrong."""

import threading
from typing import Any

import pytest

from extract_load.selection import resolve_all
from extract_load.verdict import TableVerdict
from extract_load.verification import Verification
from tests.support.landing import environment, land_one, settings
from tests.support.servers import Database
from tests.support.tables import FULL, INCREMENTAL, MODES, RAW, XMIN, create_items

EVERY_MODE = pytest.mark.parametrize("table", MODES.values(), ids=MODES)
COUNTS = ("missing_count", "extra_count", "different_count", "pending_count")


@pytest.fixture
def items(source: Database) -> Database:
    create_items(source, 1_000)
    return source


def verify(
    source: Database, target: Database, table: dict[str, Any], *, settle: bool = False
) -> TableVerdict:
    """The verdict on one table."""
    chosen = settings(table)
    connections = resolve_all(chosen.tables, environment(source, target), None)
    verification = Verification(chosen, chosen.tables, connections)
    report = verification.settle(10) if settle else verification.look()
    (verdict,) = report.tables
    assert verdict.error is None or verdict.found is None
    return verdict


def counts(verdict: TableVerdict) -> tuple[int, ...]:
    """Missing, extra, different, pending."""
    assert verdict.found is not None, verdict.error
    return tuple(getattr(verdict.found, name) for name in COUNTS)


def move_on(source: Database) -> None:
    """Lets a transaction pass that touches no table of ours."""
    source.execute("SELECT pg_current_xact_id()")


@EVERY_MODE
@pytest.mark.parametrize("is_moving", [False, True], ids=["quiet", "moving"])
def test_what_was_just_landed_is_equal(
    items: Database, target: Database, table: dict[str, Any], is_moving: bool
) -> None:
    land_one(items, target, table)
    if is_moving:
        move_on(items)

    verdict = verify(items, target, table)

    assert (verdict.status, counts(verdict)) == ("equal", (0, 0, 0, 0))
    assert verdict.found is not None
    assert (verdict.found.source_rows, verdict.found.target_rows) == (1000, 1000)


@EVERY_MODE
def test_a_changed_byte_is_found_also_where_the_source_moves(
    items: Database, target: Database, table: dict[str, Any]
) -> None:
    """The source's row was not written since the publish: nothing else can have changed it."""
    land_one(items, target, table)
    target.execute(f"UPDATE {RAW} SET body = overlay(body PLACING 'X' FROM 3) WHERE id = 77")
    target.execute(f"DELETE FROM {RAW} WHERE id = 78")
    items.execute("UPDATE public.items SET body = 'later', updated_at = now() WHERE id = 5")

    verdict = verify(items, target, table)

    assert verdict.status == "different"
    assert counts(verdict) == (1, 0, 1, 1)
    assert verdict.found is not None
    assert (verdict.found.missing, verdict.found.different) == ((("78",),), (("77",),))


def next_transaction(source: Database) -> int:
    query = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint"
    return int(source.execute(query)[0][0])


@EVERY_MODE
def test_a_key_only_the_target_has_is_extra_where_nothing_happened_since(
    items: Database, target: Database, table: dict[str, Any]
) -> None:
    land_one(items, target, table)
    target.execute(
        f"INSERT INTO {RAW} SELECT -id, body, amount, updated_at, _loaded_at "
        f"FROM {RAW} WHERE id = 9"
    )
    for _ in range(5):
        # What nudges the source's WAL writer before a publish costs a transaction id.
        items.execute("CHECKPOINT")
        high = next_transaction(items)
        target.execute(f"UPDATE extract_load.watermarks SET snapshot_xid = {high}")
        found = counts(verify(items, target, table))
        if next_transaction(items) == high:
            break  # else autovacuum took one, and something may have happened
    assert found == (0, 1, 0, 0)
    move_on(items)
    assert counts(verify(items, target, table)) == (0, 0, 0, 1)


@EVERY_MODE
def test_what_changed_since_the_publish_is_pending(
    items: Database, target: Database, table: dict[str, Any]
) -> None:
    land_one(items, target, table)
    items.execute("UPDATE public.items SET body = 'x', updated_at = now() WHERE id <= 3")
    items.execute("INSERT INTO public.items SELECT -i, 'new', i FROM generate_series(1, 4) AS i")
    items.execute("DELETE FROM public.items WHERE id IN (10, 11)")
    items.execute("UPDATE public.items SET id = 5000 WHERE id = 12")

    verdict = verify(items, target, table)

    assert (verdict.status, counts(verdict)) == ("pending", (0, 0, 0, 3 + 4 + 2 + 2))


@EVERY_MODE
def test_settle_runs_and_proves_the_published_snapshot(
    items: Database, target: Database, table: dict[str, Any]
) -> None:
    assert verify(items, target, table, settle=True).status == "equal"
    items.execute("UPDATE public.items SET body = 'x', updated_at = now() WHERE id <= 3")
    items.execute("DELETE FROM public.items WHERE id = 10")
    target.execute(f"UPDATE {RAW} SET body = 'vandal' WHERE id = 50")

    verdict = verify(items, target, table, settle=True)

    if table["sync_mode"] == "full_sync":  # reads and mends all
        assert (verdict.status, counts(verdict)) == ("equal", (0, 0, 0, 0))
    else:
        assert (verdict.status, counts(verdict)) == ("different", (0, 0, 1, 0))


def test_without_a_watermark_a_difference_proves_nothing(items: Database, target: Database) -> None:
    """Also after the source was restored, promoted, or became another server."""
    land_one(items, target, FULL)
    target.execute("UPDATE extract_load.watermarks SET identity = NULL")
    assert verify(items, target, FULL).status == "equal"
    target.execute(f"UPDATE {RAW} SET body = 'x' WHERE id = 1")

    assert counts(verify(items, target, FULL)) == (0, 0, 0, 1)


def test_where_deletes_are_ignored_extra_rows_are_no_failure(
    items: Database, target: Database
) -> None:
    table = {**XMIN, "deletes": "ignore"}
    land_one(items, target, table)
    items.execute("DELETE FROM public.items WHERE id = 7")

    verdict = verify(items, target, table, settle=True)

    assert (verdict.status, counts(verdict)) == ("equal", (0, 1, 0, 0))


def test_soft_deleted_rows_are_not_live(items: Database, target: Database) -> None:
    table = {**XMIN, "deletes": "soft"}
    land_one(items, target, table)
    items.execute("DELETE FROM public.items WHERE id = 7")
    assert verify(items, target, table, settle=True).status == "equal"
    target.execute(f"UPDATE {RAW} SET _deleted_at = NULL WHERE id = 7")

    assert counts(verify(items, target, table, settle=True))[1] in {0, 1}


def test_an_attached_partition_is_pending_although_its_rows_are_old(
    source: Database, target: Database
) -> None:
    source.execute(
        "CREATE TABLE public.items (id int PRIMARY KEY, body text) PARTITION BY RANGE (id);"
        "CREATE TABLE public.p1 PARTITION OF public.items FOR VALUES FROM (0) TO (100);"
        "CREATE TABLE public.p2 (id int PRIMARY KEY, body text);"
        "INSERT INTO public.items SELECT i, 'x' FROM generate_series(1, 50) AS i;"
        "INSERT INTO public.p2 SELECT i, 'x' FROM generate_series(100, 150) AS i;"
    )
    land_one(source, target, FULL)
    source.execute(
        "ALTER TABLE public.items ATTACH PARTITION public.p2 FOR VALUES FROM (100) TO (200)"
    )

    assert counts(verify(source, target, FULL)) == (0, 0, 0, 51)
    assert verify(source, target, FULL, settle=True).status == "equal"


def test_a_view_is_judged_only_when_settled(items: Database, target: Database) -> None:
    items.execute("CREATE VIEW public.v AS SELECT id, body FROM public.items")
    table = {"source": "public.v", "primary_key": ["id"]}
    land_one(items, target, table)
    target.execute("UPDATE raw_data.digitalocean_v SET body = 'x' WHERE id = 1")

    assert counts(verify(items, target, table)) == (0, 0, 0, 1)
    assert verify(items, target, table, settle=True).status == "equal"


def test_rows_without_a_key_are_compared_as_a_multiset(source: Database, target: Database) -> None:
    source.execute(
        "CREATE TABLE public.items (a int, b text);"
        "INSERT INTO public.items SELECT 1, 'twice' FROM generate_series(1, 2);"
        "INSERT INTO public.items SELECT i, NULL FROM generate_series(2, 100) AS i"
    )
    land_one(source, target, FULL)
    assert verify(source, target, FULL).status == "equal"
    target.execute(
        f"DELETE FROM {RAW} WHERE a = 7; DELETE FROM {RAW} WHERE ctid = "
        f"(SELECT min(ctid) FROM {RAW} WHERE a = 1)"
    )

    verdict = verify(source, target, FULL)

    assert counts(verdict) == (2, 0, 0, 0)
    assert verdict.found is not None
    assert sorted(verdict.found.missing, key=repr) == [("1", "twice"), ("7", None)]


def test_a_column_that_came_since_makes_all_rows_pending(items: Database, target: Database) -> None:
    land_one(items, target, FULL)
    items.execute("ALTER TABLE public.items ADD COLUMN more int DEFAULT 5")

    verdict = verify(items, target, FULL)

    assert (verdict.status, counts(verdict)) == ("pending", (0, 0, 0, 1000))


def test_lists_end_at_100_keys_and_counts_do_not(items: Database, target: Database) -> None:
    land_one(items, target, FULL)
    target.execute(f"UPDATE {RAW} SET body = body || ' ' WHERE id <= 400")

    verdict = verify(items, target, FULL)

    assert counts(verdict) == (0, 0, 400, 0)
    assert verdict.found is not None
    assert len(set(verdict.found.different)) == 100


def test_a_table_that_was_never_landed_is_told(items: Database, target: Database) -> None:
    verdict = verify(items, target, FULL)

    assert verdict.status == "failed"
    assert verdict.error is not None
    assert str(verdict.error) == (
        'error: there is no raw table raw_data."digitalocean_items" in target '
        '"postgres_default" yet\ndetail: Nothing was compared.\n'
        "hint: Run \"extract-load run --select 'public.items'\" first."
    )


@EVERY_MODE
def test_no_false_alarm_under_write_load(
    items: Database, target: Database, table: dict[str, Any]
) -> None:
    no_false_alarm(items, target, table, rounds=4)


@pytest.mark.slow
@EVERY_MODE
def test_no_false_alarm_in_50_runs_under_write_load(
    items: Database, target: Database, table: dict[str, Any]
) -> None:
    no_false_alarm(items, target, table, rounds=50)


def no_false_alarm(items: Database, target: Database, table: dict[str, Any], rounds: int) -> None:
    """Verifies, with and without settling, while sessions write all the time."""
    ended = threading.Event()
    written = [0, 0]

    def write(number: int) -> None:
        with items.connect() as session, session.cursor() as cursor:
            while not ended.is_set():
                at = written[number] = written[number] + 1
                own = f"id % 2 = {number}"
                cursor.execute(
                    f"BEGIN; UPDATE public.items SET body = '{at}', updated_at = now()"
                    f" WHERE {own} AND id % 50 = {at % 50};"
                    f"DELETE FROM public.items WHERE {own} AND id % 97 = {at % 97};"
                    f"INSERT INTO public.items SELECT 2 * g + {number}, 'x' FROM"
                    f" generate_series({1000 + at * 5}, {1004 + at * 5}) AS g; COMMIT"
                )

    threads = [threading.Thread(target=write, args=(number,)) for number in range(2)]
    land_one(items, target, table)
    for thread in threads:
        thread.start()
    try:
        for number in range(rounds):
            if number % 3 == 1:
                land_one(items, target, table, allow_deletes=True)
            settle = number % 3 == 2 and table is not INCREMENTAL
            verdict = verify(items, target, {**table, "max_delete_ratio": 1}, settle=settle)
            assert verdict.found is not None, verdict.error
            assert verdict.status in ({"equal"} if settle else {"equal", "pending"}), verdict
    finally:
        ended.set()
        for thread in threads:
            thread.join(timeout=30)
    assert min(written) > rounds


@pytest.mark.parametrize(
    ("type_text", "value"), [("bytea", "'\\x00'"), ('"char"', "'x'"), ("char(3)", "'a'")]
)
def test_bytes_that_a_mask_makes_null_are_compared(
    source: Database, target: Database, type_text: str, value: str
) -> None:
    source.execute(
        f"CREATE TABLE public.items (id int PRIMARY KEY, kept text, gone {type_text});"
        f"INSERT INTO public.items SELECT i, 'kept', {value} FROM generate_series(1, 50) AS i"
    )
    table = {**FULL, "mask": {"gone": None}, "verify": "checksum"}
    land_one(source, target, table)
    assert verify(source, target, table).status == "equal"
    target.execute(f"UPDATE {RAW} SET gone = {value} WHERE id = 3")

    assert counts(verify(source, target, table)) == (0, 0, 1, 0)


@pytest.mark.parametrize("is_moving", [False, True], ids=["quiet", "moving"])
def test_rows_that_a_custom_where_cannot_lose_by_itself_are_missing(
    items: Database, target: Database, is_moving: bool
) -> None:
    table = {**FULL, "custom_where": "id <= 900"}
    land_one(items, target, table)
    if is_moving:
        move_on(items)
    target.execute(f"DELETE FROM {RAW} WHERE id <= 5")

    assert counts(verify(items, target, table)) == (5, 0, 0, 0)


def test_masked_and_mapped_columns_are_compared_as_they_land(
    source: Database, target: Database
) -> None:
    source.execute(
        "CREATE TYPE public.mood AS ENUM ('sad', 'ok');"
        "CREATE TABLE public.items (id int PRIMARY KEY, email text, phone text, mood public.mood,"
        ' bytes bytea, small bpchar, sign "char");'
        "INSERT INTO public.items SELECT i, i || '@example.com', '1', 'ok', '\\x00ff', 'a ', 'x'"
        " FROM generate_series(1, 50) AS i"
    )
    table = {**XMIN, "mask": {"phone": None}}
    land_one(source, target, table)
    assert verify(source, target, table).status == "equal"
    target.execute(f"UPDATE {RAW} SET small = 'a' WHERE id = 3")

    assert counts(verify(source, target, table)) == (0, 0, 1, 0)
