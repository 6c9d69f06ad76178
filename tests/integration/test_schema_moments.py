"""Raw tables are altered in moments: killed, disturbed, with readers, and judged by PostgreSQL."""

import threading
import time
from contextlib import closing
from typing import Any

import pytest
from psycopg2.errors import LockNotAvailable

from extract_load import evolution
from extract_load.retyping import keeps_rows
from tests.support.landing import assert_equal, land_one
from tests.support.schema_change import failure, killed_after_ddl, raw_columns, raw_key
from tests.support.servers import Database
from tests.support.tables import FULL, MODES, RAW, create_items

EVERY_MODE = pytest.mark.parametrize("table", MODES.values(), ids=MODES)


@pytest.fixture
def items(source: Database) -> Database:
    create_items(source, 500)
    return source


# ---------------------------------------------------------------- killed, disturbed, watched


@EVERY_MODE
def test_a_run_that_ends_after_the_ddl_is_gone_on_with(
    items: Database, target: Database, table: dict[str, Any]
) -> None:
    land_one(items, target, table)
    items.execute(
        "ALTER TABLE public.items ADD COLUMN extra int DEFAULT 7;"
        "ALTER TABLE public.items ALTER amount TYPE bigint;"
        "ALTER TABLE public.items DROP CONSTRAINT items_pkey, ADD PRIMARY KEY (id, body)"
    )
    with killed_after_ddl():
        failure(items, target, table, allow_rewrite=True)
    assert raw_key(target) == []

    assert land_one(items, target, table).baseline

    assert_equal(items, target, table)
    assert raw_key(target) == []
    land_one(items, target, table, allow_rewrite=True)
    assert raw_key(target) == ["id", "body"]
    assert_equal(items, target, table)


def test_a_table_altered_between_plan_and_ddl_is_planned_again(
    items: Database, target: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    land_one(items, target, FULL)
    items.execute("ALTER TABLE public.items ADD COLUMN extra int")
    moment = evolution._in_a_moment

    def disturbed(*arguments: Any) -> None:
        target.execute(f"ALTER TABLE {RAW} ADD COLUMN IF NOT EXISTS extra int")
        moment(*arguments)

    monkeypatch.setattr(evolution, "_in_a_moment", disturbed)
    error = failure(items, target, {**FULL, "max_retries": 0})
    assert error.retryable
    assert "was altered during the run" in error.primary

    target.execute(f"ALTER TABLE {RAW} DROP COLUMN extra")
    result = land_one(items, target, FULL)
    assert result.retries == 1
    assert_equal(items, target, FULL)


def test_altering_is_fenced_by_the_lease(
    items: Database, target: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    land_one(items, target, FULL)
    items.execute("ALTER TABLE public.items ADD COLUMN extra int")
    moment = evolution._in_a_moment

    def too_late(*arguments: Any) -> None:
        target.execute("UPDATE extract_load.leases SET token = gen_random_uuid()")
        moment(*arguments)

    monkeypatch.setattr(evolution, "_in_a_moment", too_late)
    error = failure(items, target, FULL)

    assert type(error).__name__ == "LeaseHeld"
    assert "extra" not in raw_columns(target)


def test_nobody_alters_the_table_while_it_is_looked_at_and_readers_go_on(
    items: Database, target: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    land_one(items, target, FULL)
    items.execute("ALTER TABLE public.items ADD COLUMN extra int")
    check = evolution._require_planned

    def watched(*arguments: Any) -> None:
        check(*arguments)
        assert target.execute(f"SET lock_timeout = 50; SELECT count(*) FROM {RAW}") == [(500,)]
        with pytest.raises(LockNotAvailable):
            target.execute(f"SET lock_timeout = 50; CREATE INDEX ON {RAW} (body)")
        seen.append(True)

    seen: list[bool] = []
    monkeypatch.setattr(evolution, "_require_planned", watched)
    land_one(items, target, FULL)

    assert seen == [True]


def test_a_long_reader_is_waited_for_and_readers_behind_hardly_wait(
    items: Database, target: Database
) -> None:
    """Each attempt is short: whoever queues behind it goes on while the run pauses."""
    land_one(items, target, FULL)
    items.execute("ALTER TABLE public.items ADD COLUMN extra int DEFAULT 7")
    waits: list[float] = []
    ended = threading.Event()

    def read() -> None:
        with closing(target.connect()) as session, session.cursor() as cursor:
            while not ended.is_set():
                began = time.monotonic()
                cursor.execute(f"SELECT count(*) FROM {RAW}")
                waits.append(time.monotonic() - began)

    reader = threading.Thread(target=read)
    with closing(target.connect()) as slow, slow.cursor() as cursor:
        cursor.execute(f"BEGIN; SELECT count(*) FROM {RAW}")
        reader.start()
        try:
            freed = threading.Timer(2, lambda: cursor.execute("COMMIT"))
            freed.start()
            began = time.monotonic()
            land_one(items, target, FULL)
            seconds = time.monotonic() - began
        finally:
            ended.set()
            reader.join()
            freed.join()

    assert seconds > 1.5
    assert max(waits) < 1, "one attempt, and whatever the machine was busy with"
    assert_equal(items, target, FULL)


def test_a_table_that_is_never_free_is_left_alone(
    items: Database, target: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    land_one(items, target, FULL)
    items.execute("ALTER TABLE public.items ADD COLUMN extra int DEFAULT 7")
    monkeypatch.setattr(evolution, "LOCK_LIMIT_SECONDS", 1.0)
    with closing(target.connect()) as slow, slow.cursor() as cursor:
        cursor.execute(f"SET application_name = 'a dashboard'; BEGIN; SELECT 1 FROM {RAW} LIMIT 1")
        error = failure(items, target, FULL)
        cursor.execute("ROLLBACK")

    assert error.retryable
    assert "was never free to be altered" in error.primary
    assert "a dashboard (pid " in error.detail
    assert "AccessShareLock" in error.detail
    assert "extra" not in raw_columns(target)


# ---------------------------------------------------------------- PostgreSQL's own opinion


TYPES = [
    *("varchar(10)", "varchar(20)", "varchar", "text", "char(3)", "char(5)"),
    *("numeric(10,2)", "numeric(12,2)", "numeric(12,4)", "numeric(10,4)", "numeric"),
    *("timestamp", "timestamp(3)", "timestamptz", "timestamptz(3)", "time(3)", "time", "timetz"),
    *("interval", "interval(3)", "bit(4)", "bit varying(4)", "bit varying(8)", "bit varying"),
    *("int2", "int4", "int8", "float4", "float8", "date", "cidr", "inet", "json", "jsonb", "xml"),
    *("varchar(10)[]", "varchar(20)[]", "text[]", "bytea", "uuid", "name", "oid"),
]


def test_postgresql_rewrites_nothing_that_is_said_to_be_kept(target: Database) -> None:
    """Every pair of types with a cast: heap and index files stay, and no row is read."""
    kept = []
    with closing(target.connect()) as session, session.cursor() as cursor:
        cursor.execute("SET timezone = 'UTC'")
        for old in TYPES:
            for new in TYPES:
                cursor.execute(f"CREATE TEMP TABLE t (x {old}, y {new})")
                cursor.execute(
                    "SELECT array_agg(format_type(atttypid, atttypmod) ORDER BY attnum) "
                    "FROM pg_attribute WHERE attrelid = 't'::regclass AND attnum > 0"
                )
                ((before, after),) = cursor.fetchall()[0]
                if before != after and keeps_rows(before, after):
                    kept.append((before, after))
                    cursor.execute("CREATE INDEX i ON t (x)")
                    files = "SELECT pg_relation_filenode('t'), pg_relation_filenode('i')"
                    cursor.execute(files)
                    was = cursor.fetchone()
                    cursor.execute(
                        f"ALTER TABLE t ALTER x TYPE {new} USING CAST(x AS {new}); {files}"
                    )
                    assert cursor.fetchone() == was, (old, new)
                cursor.execute("DROP TABLE t")
    assert len(kept) > 15
