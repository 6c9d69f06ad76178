"""Refusals that protect a raw table: guards, leases, tables of somebody else."""

from typing import Any

import pytest

from extract_load import lease, ledger
from extract_load.connection import Session
from extract_load.errors import LeaseHeld
from extract_load.identifiers import TableName
from extract_load.report import RunReport
from extract_load.sql import queries
from tests.support.landing import assert_equal, land, land_one, session_on
from tests.support.servers import Database
from tests.support.tables import FULL, MODES, RAW, XMIN, create_items, leftovers

EVERY_MODE = pytest.mark.parametrize("table", MODES.values(), ids=MODES)


@pytest.fixture
def items(source: Database) -> Database:
    create_items(source, 1_000)
    return source


def failure(report: RunReport) -> tuple[str, str]:
    """The class and primary line of a report's only failure."""
    (result,) = report.failed
    assert result.error is not None
    return type(result.error).__name__, result.error.primary


@EVERY_MODE
def test_an_emptied_source_publishes_nothing_until_allowed(
    items: Database, target: Database, table: dict[str, Any]
) -> None:
    land_one(items, target, table)
    items.execute("TRUNCATE public.items")

    report = land(items, target, table)

    assert failure(report) == (
        "GuardTripped",
        f'"public.items" is empty, {RAW_WRITTEN} in target "postgres_default" is not',
    )
    assert target.execute(f"SELECT count(*) FROM {RAW}") == [(1000,)]
    allowed = land_one(items, target, table, allow_deletes=True)
    assert allowed.rows_deleted == 1000
    assert_equal(items, target, table)


RAW_WRITTEN = 'raw_data."digitalocean_items"'


@EVERY_MODE
def test_too_many_deletes_publish_nothing_until_allowed(
    items: Database, target: Database, table: dict[str, Any]
) -> None:
    land_one(items, target, table)
    items.execute("DELETE FROM public.items WHERE id <= 310")

    report = land(items, target, table)

    assert failure(report) == (
        "GuardTripped",
        '31% of "public.items" would be deleted in target "postgres_default"',
    )
    assert target.execute(f"SELECT count(*) FROM {RAW}") == [(1000,)]
    assert land_one(items, target, {**table, "max_delete_ratio": 0.32}).rows_deleted == 310
    assert_equal(items, target, table)


def test_a_small_table_may_lose_most_of_its_rows(source: Database, target: Database) -> None:
    create_items(source, 25)
    land_one(source, target, FULL)
    source.execute("DELETE FROM public.items WHERE id <= 20")

    assert land_one(source, target, FULL).rows_deleted == 20


@EVERY_MODE
def test_an_empty_table_is_landed_empty(
    source: Database, target: Database, table: dict[str, Any]
) -> None:
    create_items(source, 0)

    assert land_one(source, target, table).rows_inserted == 0
    assert land_one(source, target, table).rows_deleted == 0
    assert_equal(source, target, table)
    source.execute("INSERT INTO public.items VALUES (1, 'first', 1)")
    assert land_one(source, target, table).rows_inserted == 1


def test_a_table_of_somebody_else_is_left_alone(items: Database, target: Database) -> None:
    target.execute(f"CREATE SCHEMA raw_data; CREATE TABLE {RAW} (id int)")

    report = land(items, target, FULL)

    assert failure(report)[0] == "TargetError"
    assert "is somebody else's" in failure(report)[1]
    assert target.execute(f"SELECT count(*) FROM {RAW}") == [(0,)]


@pytest.mark.parametrize(
    ("ddl", "told"),
    [
        ("ADD COLUMN extra int", 'The raw table has no column "extra" (integer).'),
        ("DROP COLUMN amount", 'The source has no column "amount" any more.'),
        (
            "ALTER COLUMN amount TYPE numeric(14, 4)",
            'Column "amount" is numeric(14,4) now, numeric(12,2) in the raw table.',
        ),
        ("ALTER COLUMN body DROP NOT NULL", 'Column "body" may be NULL now'),
    ],
    ids=["added", "dropped", "retyped", "nullable"],
)
def test_a_changed_table_is_refused_by_name_with_its_views(
    items: Database, target: Database, ddl: str, told: str
) -> None:
    table = {**XMIN, "schema_change": "fail"}
    land_one(items, target, table)
    target.execute(f"CREATE VIEW public.seen AS SELECT id FROM {RAW}")
    items.execute(f"ALTER TABLE public.items {ddl}")

    report = land(items, target, table)

    error = report.failed[0].error
    assert error is not None
    assert type(error).__name__ == "SchemaMismatch"
    assert told in error.detail
    assert "public.seen" in error.detail


def test_a_refresh_keeps_oid_grants_views_comments_and_indexes(
    items: Database, target: Database
) -> None:
    land_one(items, target, FULL)
    target.execute(
        f"CREATE VIEW public.seen AS SELECT * FROM {RAW};"
        f"COMMENT ON TABLE {RAW} IS 'mine'; CREATE INDEX mine ON {RAW} (body);"
        f"GRANT SELECT ON {RAW} TO public"
    )
    facts = (
        "SELECT oid, relacl::text, obj_description(oid), "
        "ARRAY(SELECT indexrelid::regclass::text FROM pg_index WHERE indrelid = c.oid ORDER BY 1) "
        f"FROM pg_class c WHERE oid = '{RAW}'::regclass"
    )
    before = target.execute(facts)
    items.execute("UPDATE public.items SET amount = amount + 1")

    land_one(items, target, FULL, full_refresh=True)

    assert target.execute(facts) == before
    assert target.execute("SELECT count(*), sum(amount) FROM public.seen") == items.execute(
        "SELECT count(*), sum(amount) FROM public.items"
    )


def test_a_reader_in_one_snapshot_sees_the_old_rows(items: Database, target: Database) -> None:
    land_one(items, target, FULL)
    items.execute("UPDATE public.items SET amount = -1")
    with target.connect() as reader, reader.cursor() as cursor:
        cursor.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        cursor.execute(f"SELECT sum(amount) FROM {RAW}")
        before = cursor.fetchall()

        land_one(items, target, FULL)

        cursor.execute(f"SELECT sum(amount) FROM {RAW}")
        assert cursor.fetchall() == before
        cursor.execute("ROLLBACK")
    assert target.execute(f"SELECT sum(amount) FROM {RAW}") == [(-1000,)]


def test_an_unchanged_refresh_touches_no_row(items: Database, target: Database) -> None:
    land_one(items, target, FULL)
    before = target.execute(f"SELECT id, ctid::text, xmin::text FROM {RAW} ORDER BY id")

    land_one(items, target, FULL)

    assert target.execute(f"SELECT id, ctid::text, xmin::text FROM {RAW} ORDER BY id") == before


def test_a_second_run_is_refused_while_the_first_is_alive(
    items: Database, target: Database
) -> None:
    seen: list[tuple[str, str]] = []

    def run_again(chunks: int) -> None:
        if chunks == 1:
            seen.append(failure(land(items, target, FULL, wait_seconds=0)))

    report = land(items, target, {**FULL, "batch_size": 300}, after_chunk=run_again)

    assert report.status == "done"
    assert seen == [("LeaseHeld", f'another run writes {RAW_WRITTEN} in target "postgres_default"')]
    assert leftovers(target) == []


def test_a_silent_run_loses_its_lease_and_publishes_nothing(
    items: Database, target: Database
) -> None:
    """A zombie that wakes up after its lease was taken over must be fenced."""
    seen: list[str] = []

    def fall_silent(chunks: int) -> None:
        if chunks == 2:
            target.execute(
                "UPDATE extract_load.leases SET heartbeat_at = now() - interval '1 minute'"
            )
            items.execute("UPDATE public.items SET amount = 7")
            seen.append(land(items, target, FULL, wait_seconds=0).status)

    report = land(
        items, target, {**FULL, "batch_size": 300, "max_retries": 0}, after_chunk=fall_silent
    )

    assert seen == ["done"]
    assert report.status == "failed"
    assert_equal(items, target, FULL)
    assert leftovers(target) == []


def test_a_lease_asked_for_again_ends_none_of_the_runs_own_sessions(target: Database) -> None:
    """The answer to the COMMIT that took it was lost, and its connection with it."""
    with session_on(target, "target") as maker:
        ledger.migrate(maker)
        parameters = maker.parameters
    name, table = lease.application_name("r1"), TableName("raw_data", "t")
    first = Session(parameters, "target", name)
    of_another_table = Session(parameters, "target", name)
    lease.acquire(first, table, "r1", 0)
    first.close()

    with Session(parameters, "target", name) as again:
        lease.acquire(again, table, "r1", 10)

    assert of_another_table.is_alive()
    of_another_table.close()


def test_a_run_does_not_wait_for_its_own_lease(target: Database) -> None:
    """The answer to the COMMIT that took it was lost; the server does not know yet."""
    with session_on(target, "target") as maker:
        ledger.migrate(maker)
        parameters = maker.parameters
    table = TableName("raw_data", "t")
    first = Session(parameters, "target")
    held = lease.acquire(first, table, "r1", 0)

    with Session(parameters, "target") as again:
        with pytest.raises(LeaseHeld):  # another landing of the run, by another connection id
            lease.acquire(again, table, "r1", 0)
        assert first.is_alive()
        lease.acquire(again, table, "r1", 0, held.token)

    assert not first.is_alive()


def test_a_client_that_stops_in_the_middle_of_a_beat_loses_its_lease(
    target: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    with session_on(target, "target") as maker:
        ledger.migrate(maker)
        parameters = maker.parameters
    table = TableName("raw_data", "t")
    monkeypatch.setattr(lease, "EXPIRY_SECONDS", 0.0)
    stopped = Session(parameters, "target", lease.application_name("r1"))
    lease.acquire(stopped, table, "r1", 0)
    stopped.begin(settings={**lease.BEAT_LIMITS, "idle_in_transaction_session_timeout": "1s"})
    stopped.execute(queries("ledger")["beat"], {"run_id": "r1"})

    with Session(parameters, "target", lease.application_name("r2")) as other:
        lease.acquire(other, table, "r2", 0)

    assert lease.BEAT_LIMITS["idle_in_transaction_session_timeout"] == "5s"
    assert not stopped.is_alive()


def test_a_taken_token_fences_the_next_chunk(items: Database, target: Database) -> None:
    def steal(chunks: int) -> None:
        if chunks == 2:
            target.execute("UPDATE extract_load.leases SET token = gen_random_uuid()")

    report = land(items, target, {**FULL, "batch_size": 300}, after_chunk=steal)

    assert failure(report) == (
        "LeaseHeld",
        f"the lease of {RAW_WRITTEN} was taken over by another run",
    )
