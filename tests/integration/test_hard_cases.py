"""Cases in which rows were once lost, doubled or kept although they were gone."""

import threading
from contextlib import ExitStack
from typing import Any

import pytest

from demo.embedded_server import EmbeddedServer
from extract_load import catalog, extract, lease, ledger, snapshot
from extract_load.chunk_copy import load_chunk
from extract_load.connection import WRITE_CONSISTENT, Session
from extract_load.connection_parameters import ConnectionParameters, resolve_connection
from extract_load.deletes import Evidence, SourceFacts, gather
from extract_load.errors import ExtractLoadError, LeaseHeld, VerificationFailed
from extract_load.load import Load, finish_scratch, prepare
from extract_load.look import look_and_plan
from extract_load.publish import publish
from extract_load.reset import forget
from extract_load.runner import Run
from extract_load.snapshot import SourceSnapshot
from extract_load.sql import queries
from tests.support.landing import (
    TARGET_ID,
    assert_equal,
    environment,
    land,
    land_one,
    prepared_run,
    settings,
)
from tests.support.servers import Database
from tests.support.tables import FULL, INCREMENTAL, MODES, RAW, XMIN, create_items

EVERY_MODE = pytest.mark.parametrize("table", MODES.values(), ids=MODES)


@pytest.fixture
def items(source: Database) -> Database:
    create_items(source, 1_000)
    return source


# ---------------------------------------------------------------- settings changed between runs


@EVERY_MODE
def test_deletes_may_change_from_hard_to_soft_and_back(
    items: Database, target: Database, table: dict[str, Any]
) -> None:
    count = f"SELECT count(*), count(_deleted_at) FROM {RAW}"
    land_one(items, target, {**table, "deletes": "hard"})
    items.execute("DELETE FROM public.items WHERE id = 7")
    land_one(items, target, {**table, "deletes": "soft"})
    assert target.execute(count) == [(1000, 1)]

    land_one(items, target, {**table, "deletes": "hard"})

    assert target.execute(count) == [(999, 0)]
    assert_equal(items, target, table)


def test_another_cursor_column_is_another_beginning(source: Database, target: Database) -> None:
    source.execute(
        "CREATE TABLE public.items (id int PRIMARY KEY, version int NOT NULL, v text);"
        "INSERT INTO public.items SELECT i, 1, 'old' FROM generate_series(1, 1000) AS i"
    )
    table = {**INCREMENTAL, "incremental_field": "id"}
    land_one(source, target, table)
    source.execute("UPDATE public.items SET v = 'new', version = 2 WHERE id <= 100")

    result = land_one(source, target, {**table, "incremental_field": "version"})

    assert result.baseline
    assert_equal(source, target, table)


@pytest.mark.parametrize("first", MODES)
@pytest.mark.parametrize("then", MODES)
def test_a_mode_may_change_at_any_time(
    items: Database, target: Database, first: str, then: str
) -> None:
    for name in (first, then, first):
        items.execute(
            "UPDATE public.items SET amount = amount + 1, updated_at = now() WHERE id < 50"
        )
        items.execute("DELETE FROM public.items WHERE id = (SELECT max(id) FROM public.items)")
        land_one(items, target, MODES[name])
        assert_equal(items, target, MODES[name])


def test_a_cursor_of_many_digits_is_not_rounded(source: Database, target: Database) -> None:
    """Rounded up to 28 digits the watermark would hide the rows just above the true one."""
    source.execute(
        "CREATE TABLE public.items (id int PRIMARY KEY, n numeric NOT NULL, v text);"
        "INSERT INTO public.items VALUES (1, 340282366920938463463374607491768210999, 'a')"
    )
    table = {**INCREMENTAL, "incremental_field": "n"}
    land_one(source, target, table)
    source.execute(
        "UPDATE public.items SET v = 'b', n = n + 1;"
        "INSERT INTO public.items VALUES (2, 340282366920938463463374607491768211500, 'new')"
    )

    assert land_one(source, target, table).rows_read == 2
    assert_equal(source, target, table)


# ---------------------------------------------------------------- keys


def test_a_declared_key_may_be_nullable_as_long_as_it_is_not_null(
    source: Database, target: Database
) -> None:
    source.execute(
        "CREATE TABLE public.items (code text UNIQUE, v int);"
        "INSERT INTO public.items SELECT i::text, i FROM generate_series(1, 50) AS i"
    )
    table = {**FULL, "primary_key": ["code"]}
    land_one(source, target, table)
    land_one(source, target, table)
    assert_equal(source, target, table)

    source.execute("INSERT INTO public.items VALUES (NULL, 51)")
    (result,) = land(source, target, table).tables

    assert result.error is not None
    assert "null value" in result.error.detail
    assert target.execute(f"SELECT count(*) FROM {RAW}") == [(50,)]


@pytest.mark.parametrize("mode", ["xmin", "incremental"])
@pytest.mark.parametrize("deletes", ["ignore", "hard"])
def test_a_declared_key_that_stands_twice_is_found_in_a_delta_too(
    source: Database, target: Database, mode: str, deletes: str
) -> None:
    """The delta holds one of the two rows: it would silently overwrite the other."""
    source.execute(
        "CREATE TABLE public.items (code text NOT NULL, v int,"
        " updated_at timestamptz NOT NULL DEFAULT now());"
        "INSERT INTO public.items SELECT i::text, i FROM generate_series(1, 50) AS i"
    )
    table = {**MODES[mode], "primary_key": ["code"], "deletes": deletes, "lookback": "1s"}
    land_one(source, target, table)
    source.execute("INSERT INTO public.items VALUES ('5', 999, now() + interval '1 minute')")

    (result,) = land(source, target, table).tables

    assert result.error is not None
    assert result.error.primary == 'could not build the key (code) of "public.items"'
    assert target.execute(f"SELECT v FROM {RAW} WHERE code = '5'") == [(5,)]


# ---------------------------------------------------------------- what xmin must see


def test_an_update_that_was_open_during_the_run_is_not_lost(
    items: Database, target: Database
) -> None:
    """The counts agree, so only the window can find it: it must begin at the snapshot's xmin."""
    with items.connect() as slow, slow.cursor() as cursor:
        cursor.execute("BEGIN; UPDATE public.items SET body = 'late' WHERE id = 5")
        items.execute("UPDATE public.items SET body = 'early' WHERE id = 6")
        land_one(items, target, XMIN)
        cursor.execute("COMMIT")

    assert land_one(items, target, XMIN).rows_updated == 1
    assert_equal(items, target, XMIN)


def test_prepared_and_sub_transactions_and_vacuum_lose_nothing(
    items: Database, target: Database
) -> None:
    land_one(items, target, XMIN)
    with items.connect() as session, session.cursor() as cursor:
        cursor.execute("BEGIN; UPDATE public.items SET amount = 101 WHERE id = 1; SAVEPOINT a")
        cursor.execute("UPDATE public.items SET amount = 102 WHERE id = 2; PREPARE TRANSACTION 'p'")
    items.execute("UPDATE public.items SET amount = 103 WHERE id = 3")
    land_one(items, target, XMIN)
    items.execute("COMMIT PREPARED 'p'")
    for statement in ("VACUUM FREEZE", "VACUUM FULL", "CLUSTER items_pkey ON"):
        words = statement.split()
        items.execute(
            f"CLUSTER public.items USING {words[1]}"
            if words[0] == "CLUSTER"
            else f"{statement} public.items"
        )

    assert land_one(items, target, XMIN).rows_updated == 2
    assert_equal(items, target, XMIN)


@EVERY_MODE
def test_a_run_that_stalls_while_it_takes_its_snapshot_is_not_taken_for_a_young_one(
    items: Database, target: Database, table: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another run publishes between the snapshot and the reading of its WAL position."""
    land_one(items, target, table)
    read = catalog.read_server_cut
    inner: list[str] = []

    def stalled(session: Session, earlier_lsn: str) -> Any:
        if not inner:
            inner.append("begun")
            items.execute("UPDATE public.items SET amount = -7, updated_at = now() WHERE id = 1")
            items.execute("INSERT INTO public.items VALUES (5000, 'new', 1)")
            land_one(items, target, table)
        return read(session, earlier_lsn)

    monkeypatch.setattr(snapshot, "read_server_cut", stalled)
    report = land(items, target, table)

    assert report.status == "done"
    assert inner
    assert_equal(items, target, table)


def test_the_clauses_of_custom_where_keep_their_parentheses(
    source: Database, target: Database
) -> None:
    source.execute(
        "CREATE TABLE public.items (id int PRIMARY KEY, hidden bool, gone bool, grade text);"
        "INSERT INTO public.items SELECT i, i % 2 = 0, nullif(i % 3, 1) = 0, 'A'"
        " FROM generate_series(1, 60) AS i"
    )
    for number, where in enumerate(
        [
            "(hidden OR gone) IS NOT TRUE",
            "NOT (hidden AND gone) IS NOT NULL",
            "(hidden AND gone) IS FALSE -- not shown",
            "(NOT hidden) IS NOT DISTINCT FROM gone",
            "(id::text || grade) COLLATE \"C\" >= '3'",
        ]
    ):
        table = {**FULL, "custom_where": where, "target": f"raw_data.w{number}"}
        landed = land_one(source, target, table).rows_inserted
        expected = f"SELECT count(*) FROM public.items WHERE {where}\n"
        assert source.execute(expected) == [(landed,)]
        assert_equal(source, target, table)


def test_row_security_fails_the_run_instead_of_filtering_rows(
    items: Database, source_server: EmbeddedServer, target: Database
) -> None:
    items.execute(
        f"CREATE ROLE reader_{items.name} LOGIN PASSWORD 'r';"
        f"GRANT SELECT ON public.items TO reader_{items.name};"
        "ALTER TABLE public.items ENABLE ROW LEVEL SECURITY;"
        f"CREATE POLICY few ON public.items TO reader_{items.name} USING (id < 10)"
    )
    reader = Database(items.host, items.port, items.name, f"reader_{items.name}", "r")
    try:
        (result,) = land(reader, target, FULL).tables
    finally:
        items.execute(f"DROP OWNED BY reader_{items.name}; DROP ROLE reader_{items.name}")

    assert source_server.pid
    assert result.error is not None
    assert "row-level security" in result.error.detail


# ---------------------------------------------------------------- fences and proofs, one by one


class Stages:
    """One table's way, step by step, so that something can happen between two steps."""

    def __init__(self, source: Database, target: Database, table: dict[str, Any]) -> None:
        self.run: Run = prepared_run(source, target, table)
        chosen = settings(table).tables[0]
        self._memory = ExitStack()  # what the table may take
        self._memory.enter_context(self.run._memory.granted(chosen.memory_limit_mb))
        self.source = self.run._source(chosen)
        self.session = Session(self.run._connections[TARGET_ID], "target", "extract-load stages")
        ledger.migrate(self.session)
        held = lease.acquire(self.session, chosen.target, "stages", 0)
        self.plan = look_and_plan(chosen, self.source, self.session)
        self.load = Load(self.plan, held, self.source.mark)

    def prepare(self) -> None:
        prepare(self.session, self.load)

    def load_chunk(self, number: int = 0) -> Any:
        return load_chunk(self.session, self.source, self.load, self.plan.chunks[number])

    def finish_scratch(self) -> None:
        finish_scratch(self.session, self.load)

    def gather(self) -> Evidence:
        return gather(self.session, self.source, self.load, 0)

    def publish(self, rows: int = 1_000) -> None:
        facts = SourceFacts(rows, self.gather())
        with self.session.transaction(WRITE_CONSISTENT):
            publish(self.session, self.load, facts)

    def close(self) -> None:
        self.session.close()
        self.source.close()
        self._memory.close()


STEPS = ["prepare", "load_chunk", "finish_scratch", "gather", "publish"]


@pytest.mark.parametrize("step", STEPS)
def test_every_step_is_fenced_by_the_lease(items: Database, target: Database, step: str) -> None:
    """Whoever lost the lease changes nothing any more, wherever it stands."""
    table = {**INCREMENTAL, "chunk_mode": False}
    if step == "gather":
        land_one(items, target, table)
        items.execute("INSERT INTO public.items VALUES (7001, 'old', 1, '2020-01-01')")
    stages = Stages(items, target, table)
    for earlier in STEPS[: STEPS.index(step)]:
        getattr(stages, earlier)()
    target.execute("UPDATE extract_load.leases SET token = gen_random_uuid()")

    with pytest.raises(LeaseHeld, match="was taken over"):
        getattr(stages, step)()
    stages.close()


def test_a_chunk_is_loaded_once_however_often_it_is_asked_for(
    items: Database, target: Database
) -> None:
    """As when the COMMIT of the first attempt was done but its answer lost."""
    stages = Stages(items, target, {**FULL, "chunk_mode": False})
    stages.prepare()

    assert stages.load_chunk().rows == 1_000
    assert stages.load_chunk() is None

    stages.finish_scratch()
    stages.publish()
    stages.close()
    assert_equal(items, target, FULL)


def test_a_chunk_waits_for_the_attempt_that_may_still_commit(
    items: Database, target: Database
) -> None:
    stages = Stages(items, target, {**FULL, "chunk_mode": False})
    stages.prepare()
    with target.connect() as lost, lost.cursor() as cursor:
        cursor.execute("BEGIN")
        cursor.execute(
            "INSERT INTO extract_load.chunks (run_id, target_schema, target_table, chunk, range) "
            "VALUES ('stages', %s, %s, 0, '')",
            stages.load.target.parts,
        )
        outcome: list[Any] = []
        waiting = threading.Thread(target=lambda: outcome.append(stages.load_chunk()))
        waiting.start()
        waiting.join(0.5)
        assert waiting.is_alive()
        cursor.execute("COMMIT")
    waiting.join(10)

    assert outcome == [None]
    assert len(stages.load.checkpoints.read(stages.session)) == 1
    stages.close()


def test_live_rows_that_do_not_add_up_are_not_published(items: Database, target: Database) -> None:
    land_one(items, target, INCREMENTAL)
    stages = Stages(items, target, {**INCREMENTAL, "chunk_mode": False})
    stages.prepare()
    stages.load_chunk()
    stages.finish_scratch()

    with pytest.raises(VerificationFailed, match="verification") as caught:
        stages.publish(rows=999)
    assert "the source snapshot has 999 rows" in caught.value.detail.lower()
    stages.close()


def test_a_raw_table_replaced_during_the_run_is_not_written(
    items: Database, target: Database
) -> None:
    land_one(items, target, XMIN)
    items.execute("UPDATE public.items SET amount = 0 WHERE id <= 10")

    def replace(chunks: int) -> None:
        if chunks == 1:
            target.execute(
                f"CREATE TABLE raw_data.x (LIKE {RAW} INCLUDING ALL); DROP TABLE {RAW};"
                "ALTER TABLE raw_data.x RENAME TO digitalocean_items"
            )

    (result,) = land(items, target, {**XMIN, "batch_size": 300}, after_chunk=replace).tables

    assert result.error is not None
    assert target.execute(f"SELECT count(*) FROM {RAW}") == [(0,)]
    (again,) = land(items, target, XMIN).tables
    assert again.error is not None
    assert "is somebody else's" in again.error.primary


def test_missing_rows_that_cannot_be_found_end_the_run(
    items: Database, target: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key without a row must be an error, not an endless search."""
    land_one(items, target, INCREMENTAL)
    items.execute("INSERT INTO public.items VALUES (7001, 'old', 1, '2020-01-01')")
    original = extract.copy_rows_query
    monkeypatch.setattr(
        "extract_load.deletes.copy_rows_query",
        lambda plan, leaf, _: original(plan, leaf, [("-1",)]),
    )
    (result,) = land(items, target, INCREMENTAL).tables

    assert isinstance(result.error, VerificationFailed)
    assert "have no row in the snapshot" in result.error.primary


# ---------------------------------------------------------------- leases


def parameters(source: Database, target: Database) -> ConnectionParameters:
    return resolve_connection(TARGET_ID, environment(source, target))


def test_a_lease_that_was_taken_since_is_not_taken_for_ownerless(
    items: Database, target: Database
) -> None:
    """pg_stat_activity is cached for a transaction: a newer owner would look gone."""
    name = settings(FULL).tables[0].target
    facts = {
        "target_schema": name.schema,
        "target_table": name.table,
        "token": "00000000-0000-0000-0000-000000000000",
        "run_id": "c",
        "expiry_seconds": 30,
        "is_pooled": False,
    }
    where = parameters(items, target)
    with Session(where, "target", "extract-load a") as a, Session(where, "target") as c:
        ledger.migrate(a)
        held = lease.acquire(a, name, "a", 0)
        c.begin()
        assert c.execute(queries("ledger")["acquire_lease"], facts) == []
        lease.release(a, held)
        with Session(where, "target", "extract-load b") as b:
            lease.acquire(b, name, "b", 0)
            c.execute("SELECT pg_stat_clear_snapshot()")
            ((run_id, _, is_ownerless, _),) = c.execute(queries("ledger")["read_lease"], facts)
            c.roll_back()
            assert (run_id, is_ownerless) == ("b", False)
            with pytest.raises(LeaseHeld):
                lease.acquire(c, name, "c", 0)


def test_reset_waits_for_a_run_instead_of_being_undone_by_it(
    items: Database, target: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("extract_load.reset.WAIT_SECONDS", 0)
    seen: list[ExtractLoadError] = []

    def reset(chunks: int) -> None:
        if chunks == 1:
            with pytest.raises(LeaseHeld) as caught:
                forget(parameters(items, target), settings(FULL).tables[0].target)
            seen.append(caught.value)

    land(items, target, {**FULL, "batch_size": 300}, after_chunk=reset)

    assert len(seen) == 1


# ---------------------------------------------------------------- small differences


@pytest.mark.parametrize("deletes", ["ignore", "hard"])
def test_a_row_exactly_at_the_low_bound_is_read_again(
    source: Database, target: Database, deletes: str
) -> None:
    """Two rows of one instant, the second committed after the run: a bound of > would lose it."""
    source.execute(
        "CREATE TABLE public.items (id int PRIMARY KEY, version int NOT NULL, v text);"
        "INSERT INTO public.items VALUES (1, 5, 'a'), (2, 5, 'a')"
    )
    table = {**INCREMENTAL, "incremental_field": "version", "deletes": deletes}
    land_one(source, target, table)
    source.execute("UPDATE public.items SET v = 'b' WHERE id = 1")

    assert land_one(source, target, table).rows_updated == 1
    assert_equal(source, target, table)


def test_rows_whose_cursor_says_nothing_are_read_every_time(
    source: Database, target: Database
) -> None:
    """NULL, infinite and future cursors never become a watermark and never hide a row."""
    source.execute(
        "CREATE TABLE public.items (id int PRIMARY KEY, v text, updated_at timestamptz);"
        "INSERT INTO public.items SELECT i, 'a', now() FROM generate_series(1, 50) AS i;"
        "INSERT INTO public.items VALUES (101, 'a', NULL), (102, 'a', 'infinity'),"
        " (103, 'a', now() + interval '5 years')"
    )
    table = {**INCREMENTAL, "deletes": "ignore"}
    land_one(source, target, table)
    source.execute("UPDATE public.items SET v = 'b' WHERE id > 100")
    source.execute("UPDATE public.items SET v = 'c', updated_at = now() WHERE id < 10")

    assert land_one(source, target, table).rows_updated == 12
    assert_equal(source, target, table)
    (watermark,) = target.execute(
        "SELECT cursor_value::timestamptz <= now() FROM extract_load.watermarks"
    )[0]
    assert watermark


def test_nan_never_becomes_a_watermark(source: Database, target: Database) -> None:
    source.execute(
        "CREATE TABLE public.items (id int PRIMARY KEY, v text, n numeric);"
        "INSERT INTO public.items VALUES (1, 'a', 5), (2, 'a', 'NaN'), (3, 'a', 'Infinity')"
    )
    table = {**INCREMENTAL, "incremental_field": "n", "deletes": "ignore"}
    land_one(source, target, table)
    source.execute("INSERT INTO public.items VALUES (9, 'z', 6)")
    land_one(source, target, table)

    assert target.execute("SELECT cursor_value FROM extract_load.watermarks") == [("6",)]
    assert_equal(source, target, table)


def test_an_empty_delta_keeps_the_watermark(source: Database, target: Database) -> None:
    source.execute(
        "CREATE TABLE public.items (id int PRIMARY KEY, updated_at timestamptz NOT NULL);"
        "INSERT INTO public.items VALUES (1, '2026-01-01')"
    )
    table = {**INCREMENTAL, "deletes": "ignore"}
    query = "SELECT cursor_value FROM extract_load.watermarks"
    land_one(source, target, table)
    before = target.execute(query)
    source.execute("DELETE FROM public.items")

    assert land_one(source, target, table).rows_read == 0
    assert target.execute(query) == before


def test_a_change_the_cursor_does_not_see_is_seen_by_the_next_mode(
    items: Database, target: Database
) -> None:
    """A cursor's publish is not complete: xmin must not go on from its snapshot."""
    land_one(items, target, XMIN)
    items.execute("UPDATE public.items SET body = 'unseen' WHERE id = 5")
    land_one(items, target, INCREMENTAL)

    land_one(items, target, XMIN)

    assert_equal(items, target, XMIN)


@EVERY_MODE
def test_a_row_that_comes_back_unchanged_is_alive_again(
    items: Database, target: Database, table: dict[str, Any]
) -> None:
    soft = {**table, "deletes": "soft"}
    land_one(items, target, soft)
    items.execute("CREATE TABLE public.kept AS SELECT * FROM public.items WHERE id = 7")
    items.execute("DELETE FROM public.items WHERE id = 7")
    land_one(items, target, soft)

    items.execute("INSERT INTO public.items SELECT * FROM public.kept")
    land_one(items, target, soft)

    assert target.execute(f"SELECT count(*) FROM {RAW} WHERE _deleted_at IS NOT NULL") == [(0,)]
    assert_equal(items, target, soft)


def test_a_number_that_only_changes_its_scale_arrives(source: Database, target: Database) -> None:
    source.execute(
        "CREATE TABLE public.items (n numeric PRIMARY KEY, v numeric);"
        "INSERT INTO public.items VALUES (1.0, 2.0)"
    )
    land_one(source, target, XMIN)
    source.execute("UPDATE public.items SET n = 1.00, v = 2.000")

    assert land_one(source, target, XMIN).rows_updated == 1
    assert target.execute(f"SELECT n::text, v::text FROM {RAW}") == [("1.00", "2.000")]


@pytest.mark.parametrize("ddl", ["RENAME COLUMN body TO x", "RENAME VALUE 'sad' TO 'blue'"])
@pytest.mark.parametrize("max_retries", [0, 3])
def test_names_changed_during_the_run_are_not_mixed(
    items: Database, target: Database, ddl: str, max_retries: int
) -> None:
    """They rewrite nothing, so only the catalog tells."""
    items.execute(
        "CREATE TYPE public.mood AS ENUM ('sad', 'ok');"
        "ALTER TABLE public.items ADD COLUMN mood public.mood DEFAULT 'sad',"
        " ADD COLUMN other text DEFAULT 'other'"
    )

    def run_ddl(chunks: int) -> None:
        if chunks != 1:
            return
        if "COLUMN" in ddl:
            items.execute(
                "BEGIN; ALTER TABLE public.items RENAME body TO x;"
                "ALTER TABLE public.items RENAME other TO body;"
                "ALTER TABLE public.items RENAME x TO other; COMMIT"
            )
        else:
            items.execute(f"ALTER TYPE public.mood {ddl}")

    table = {**FULL, "batch_size": 300, "max_retries": max_retries}
    (result,) = land(items, target, table, after_chunk=run_ddl).tables

    if not max_retries:
        assert result.error is not None
        assert result.error.primary == '"public.items" was altered during the run'
        result = land_one(items, target, FULL)
    assert result.error is None
    assert_equal(items, target, FULL)


def test_a_fault_of_the_program_is_one_tables_failure(
    items: Database, target: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    items.execute("CREATE TABLE public.other (id int PRIMARY KEY)")
    original = extract.count_rows

    def broken(reading: SourceSnapshot, plan: Any, *, anew: bool) -> int:
        if plan.settings.source.table == "items":
            raise ZeroDivisionError("by zero")
        return original(reading, plan, anew=anew)

    monkeypatch.setattr("extract_load.closing.count_rows", broken)
    failed, done = land(items, target, FULL, {"source": "public.other"}).tables

    assert (failed.status, done.status) == ("failed", "done")
    assert failed.error is not None
    assert failed.error.primary == "unexpected ZeroDivisionError"
    assert target.execute("SELECT count(*) FROM extract_load.leases") == [(0,)]
