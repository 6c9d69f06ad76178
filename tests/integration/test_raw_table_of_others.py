"""What analysts do to a raw table, in the very moment it matters or in a way that hides it."""

import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from tests.support.interrupted import BrokenOffError
from tests.support.landing import assert_equal, land, land_one
from tests.support.own_servers import database_of, new_server, skip_transactions
from tests.support.servers import Database
from tests.support.tables import FULL, MODES, RAW, create_items

TABLE = {**FULL, "batch_size": 200}


@pytest.fixture
def items(source: Database) -> Database:
    create_items(source, 2000)
    return source


# ---------------------------------------------------------------- DDL that the publish waits for


@contextmanager
def somebody_at_the_table(target: Database, statements: str) -> Iterator[None]:
    """Another transaction that holds the raw table's lock until our publish waits for it."""
    began = threading.Event()
    waiting = f"SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = '{RAW}'::regclass"

    def act() -> None:
        with target.connect() as session, session.cursor() as cursor:
            cursor.execute("BEGIN; " + statements)
            began.set()
            deadline = time.monotonic() + 20
            while time.monotonic() < deadline and target.execute(waiting) == [(0,)]:
                time.sleep(0.05)
            time.sleep(0.2)
            cursor.execute("COMMIT")

    thread = threading.Thread(target=act)
    thread.start()
    began.wait(10)
    yield
    thread.join(30)


@pytest.mark.parametrize("has_key", [True, False], ids=["with a key", "without a key"])
@pytest.mark.parametrize(
    "statements",
    [
        f"ALTER TABLE {RAW} ADD COLUMN note uuid DEFAULT gen_random_uuid()",
        f"CREATE TEMP TABLE kept AS TABLE {RAW}; TRUNCATE {RAW}; INSERT INTO {RAW} TABLE kept",
    ],
    ids=["rewritten", "emptied and filled"],
)
def test_a_table_that_is_rewritten_while_the_publish_waits_is_doubled_by_nobody(
    statements: str, has_key: bool, items: Database, target: Database
) -> None:
    """A snapshot from before the rewrite shows an empty table: all rows would be inserted again."""
    if not has_key:
        items.execute("ALTER TABLE public.items DROP CONSTRAINT items_pkey")
    table = {**MODES["incremental"], "batch_size": 200} if has_key else TABLE
    land_one(items, target, table)
    items.execute("UPDATE public.items SET body = 'x', updated_at = now() WHERE id = 9")
    held: list[AbstractContextManager[None]] = []

    def hold(_: int) -> None:
        if not held:
            held.append(somebody_at_the_table(target, statements))
            held[0].__enter__()

    result = land(items, target, table, after_chunk=hold).tables[0]
    held[0].__exit__(None, None, None)

    assert result.error is None
    assert target.execute(f"SELECT count(*) FROM {RAW}") == [(2000,)]
    assert_equal(items, target, table)


# ---------------------------------------------------------------- what hides from the mark


def test_a_statement_trigger_writes_with_our_own_transaction(
    items: Database, target: Database
) -> None:
    land_one(items, target, TABLE)
    target.execute(
        "CREATE FUNCTION public.tidy() RETURNS trigger LANGUAGE plpgsql AS"
        f" 'BEGIN IF pg_trigger_depth() < 2 THEN UPDATE {RAW} SET amount = 0 WHERE amount = 5;"
        " END IF; RETURN NULL; END';"
        f"CREATE TRIGGER tidy AFTER INSERT OR UPDATE ON {RAW}"
        " FOR EACH STATEMENT EXECUTE FUNCTION public.tidy()"
    )
    items.execute("UPDATE public.items SET body = 'x' WHERE id = 9")
    land_one(items, target, TABLE)
    target.execute(f"DROP TRIGGER tidy ON {RAW}")

    land_one(items, target, TABLE)

    assert_equal(items, target, TABLE)


def test_a_trigger_comes_after_the_plan(items: Database, target: Database) -> None:
    land_one(items, target, TABLE)
    items.execute("UPDATE public.items SET amount = 5 WHERE id = 9")

    def make(chunks: int) -> None:
        if chunks == 1:
            target.execute(
                "CREATE FUNCTION public.zero() RETURNS trigger LANGUAGE plpgsql AS"
                " 'BEGIN NEW.amount = 0; RETURN NEW; END';"
                f"CREATE TRIGGER zero BEFORE UPDATE ON {RAW}"
                " FOR EACH ROW EXECUTE FUNCTION public.zero()"
            )

    land_one(items, target, TABLE, after_chunk=make)
    target.execute(f"DROP TRIGGER zero ON {RAW}")

    land_one(items, target, TABLE)

    assert_equal(items, target, TABLE)


def test_a_raw_table_with_children_is_refused(items: Database, target: Database) -> None:
    """Old rows could come back in a child, and our deletes would reach into it."""
    land_one(items, target, TABLE)
    target.execute(
        f"CREATE TABLE raw_data.archive (LIKE {RAW} INCLUDING ALL);"
        f"INSERT INTO raw_data.archive SELECT * FROM {RAW} WHERE id <= 100"
    )
    items.execute("UPDATE public.items SET body = 'changed' WHERE id <= 100")
    land_one(items, target, TABLE)
    target.execute(
        f"BEGIN; DELETE FROM {RAW} WHERE id <= 100; ALTER TABLE raw_data.archive INHERIT {RAW};"
        "COMMIT"
    )

    error = land(items, target, TABLE).tables[0].error
    assert error is not None
    assert error.primary.endswith('in target "postgres_default" has child tables')
    assert "NO INHERIT" in error.hint

    target.execute(f"ALTER TABLE raw_data.archive NO INHERIT {RAW}")
    land_one(items, target, TABLE)
    assert_equal(items, target, TABLE)


@pytest.mark.parametrize("mode", ["full", "xmin"])
def test_a_foreign_key_of_the_raw_table_to_itself_is_refused_where_it_would_cascade(
    mode: str, source: Database, target: Database
) -> None:
    """What follows the change is a landed row, and written with our own transaction."""
    source.execute(
        "CREATE TABLE public.items (id int PRIMARY KEY, code text NOT NULL, parent text);"
        "INSERT INTO public.items VALUES (1, 'A', NULL), (2, 'C', 'A')"
    )
    land_one(source, target, MODES[mode])
    target.execute(
        f"ALTER TABLE {RAW} ADD UNIQUE (code), ADD FOREIGN KEY (parent) REFERENCES {RAW} (code)"
        " ON UPDATE CASCADE"
    )
    source.execute("UPDATE public.items SET code = 'B' WHERE id = 1")

    error = land(source, target, MODES[mode]).tables[0].error

    assert error is not None
    assert error.primary.endswith("a foreign key would change what refers to them")
    assert error.hint == "Drop the foreign key."


def test_what_our_own_settings_changed_is_laid_on_nobody(items: Database, target: Database) -> None:
    soft, hard = {**TABLE, "deletes": "soft"}, {**TABLE, "deletes": "hard"}
    land_one(items, target, soft)
    items.execute("DELETE FROM public.items WHERE id <= 5")
    land_one(items, target, soft)
    land_one(items, target, hard)

    again = land_one(items, target, hard)
    assert (again.baseline, again.rows_read) == (False, 0)


def test_a_column_of_ours_is_laid_on_nobody(items: Database, target: Database) -> None:
    land_one(items, target, {**TABLE, "deletes": "hard"})

    back = land_one(items, target, {**TABLE, "deletes": "soft"})

    assert (back.baseline, back.retries, back.rows_read) == (True, 0, 2000)


def test_a_killed_run_that_read_every_row_is_gone_on_from(
    items: Database, target: Database, caplog: pytest.LogCaptureFixture
) -> None:
    """What it found out about the raw table is not found out anew by reading half of it again."""
    land_one(items, target, TABLE)
    target.execute(f"UPDATE {RAW} SET amount = 0 WHERE id = 12")
    items.execute("UPDATE public.items SET amount = 1 WHERE id % 3 = 0")

    def end(_: int) -> None:  # how many chunks a pass has moves with the source's estimate
        if "reads every row" in caplog.messages:
            raise BrokenOffError

    assert land(items, target, TABLE, after_chunk=end).tables[0].error is not None

    assert land_one(items, target, TABLE).chunks_resumed > 0
    assert_equal(items, target, TABLE)


def test_a_transaction_of_the_next_epoch_is_not_taken_for_ours(
    items: Database, servers_directory: Path
) -> None:
    """Frozen rows keep the low half of an id that somebody gets again, 2^32 transactions later."""
    server = new_server(servers_directory / "epoch-of-others")
    try:
        target = database_of(server)
        skip_transactions(server, 20_000)
        land_one(items, target, FULL)
        ((writer,),) = target.execute(f"SELECT max(xmin::text::bigint) FROM {RAW}")
        target.execute(f"VACUUM (FREEZE) {RAW}")
        now = "SELECT pg_current_xact_id()::text::bigint"
        ((present,),) = target.execute(now)
        skip_transactions(server, writer + (1 << 32) - 3000 - present)
        items.execute("UPDATE public.items SET body = 'x' WHERE id = 9")
        land_one(items, target, FULL)
        session = target.connect()
        with session.cursor() as cursor:
            while True:
                cursor.execute(now)
                ((present,),) = cursor.fetchall()
                if present % (1 << 32) == writer - 1:
                    break
            cursor.execute(f"UPDATE {RAW} SET amount = 0 WHERE id = 12")
        session.close()

        land_one(items, target, FULL)

        assert_equal(items, target, FULL)
    finally:
        server.stop()
