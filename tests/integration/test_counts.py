"""Counts prove that nothing is gone, in the publish itself and before it changes a row."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from demo.embedded_server import EmbeddedServer
from extract_load import closing, landing
from extract_load.deletes import Evidence, SourceFacts
from extract_load.errors import TargetUnavailable
from extract_load.publish import publish
from tests.support.landing import assert_equal, difference, land, land_one
from tests.support.servers import Database

XMIN: dict[str, Any] = {"source": "public.items", "sync_mode": "xmin_incremental"}
FULL: dict[str, Any] = {**XMIN, "sync_mode": "full_sync"}
RAW = "raw_data.digitalocean_items"
EVERY = pytest.mark.parametrize("table", [XMIN, FULL], ids=["xmin", "full"])
SOFT = pytest.mark.parametrize("deletes", ["hard", "soft"])
COUNT = f'SELECT count(*) FROM "raw_data"."{RAW.split(".")[1]}" AS t'
CHANGE = (
    "UPDATE public.items SET body = 'changed' WHERE id % 10 = 0;"
    "INSERT INTO public.items SELECT i, 'new' FROM generate_series(1001, 1020) AS i"
)


@pytest.fixture
def items(source: Database) -> Database:
    source.execute(
        "CREATE TABLE public.items (id int PRIMARY KEY, body text);"
        "INSERT INTO public.items SELECT i, 'body' FROM generate_series(1, 1000) AS i;"
        "ANALYZE public.items"
    )
    return source


def evidence_of(monkeypatch: pytest.MonkeyPatch, then: Callable[[], object]) -> list[Evidence]:
    """Returns, as a run goes on, what each of its publishes is told of what is gone.

    `then` is done between the first gathering of it and the publish.
    """
    told: list[Evidence] = []
    close_reading = closing.close_reading

    def closed(*args: Any, **options: Any) -> SourceFacts:
        facts = close_reading(*args, **options)
        told.append(facts.evidence)
        if len(told) == 1:
            then()
        return facts

    monkeypatch.setattr(landing, "close_reading", closed)
    return told


def test_the_raw_table_is_counted_once(
    items: Database, target: Database, target_server: EmbeddedServer
) -> None:
    land_one(items, target, XMIN)
    items.execute(CHANGE)
    target.execute(f"ALTER DATABASE \"{target.name}\" SET log_statement = 'all'")
    log = Path(target_server.data_dir) / "server.log"
    before = log.stat().st_size

    result = land_one(items, target, XMIN)

    assert (result.rows_inserted, result.rows_updated) == (20, 100)
    assert log.read_bytes()[before:].decode().count(COUNT) == 1
    assert_equal(items, target, XMIN)


@EVERY
def test_no_key_is_read_where_counts_prove_it(
    items: Database, target: Database, table: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    land_one(items, target, table)
    items.execute(CHANGE)
    told = evidence_of(monkeypatch, lambda: None)

    land_one(items, target, table)

    assert [each.is_by_count for each in told] == [True]
    assert_equal(items, target, table)


@EVERY
@SOFT
def test_what_is_gone_is_found_by_keys(
    items: Database,
    target: Database,
    table: dict[str, Any],
    deletes: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    table = {**table, "deletes": deletes}
    land_one(items, target, table)
    items.execute(f"{CHANGE}; DELETE FROM public.items WHERE id < 1000 AND id % 100 = 7")
    told = evidence_of(monkeypatch, lambda: None)

    result = land_one(items, target, table)

    assert [each.is_by_count for each in told] == [True, False]
    assert (result.rows_inserted, result.rows_updated, result.rows_deleted) == (20, 100, 10)
    assert_equal(items, target, table)


@EVERY
@SOFT
def test_a_row_that_comes_back_is_counted_once(
    items: Database, target: Database, table: dict[str, Any], deletes: str
) -> None:
    """As many as are gone: under `soft` a tombstone comes to life, which is no insert."""
    table = {**table, "deletes": deletes}
    land_one(items, target, table)
    items.execute("DELETE FROM public.items WHERE id <= 5")
    assert land_one(items, target, table).rows_deleted == 5
    items.execute("INSERT INTO public.items SELECT i, 'again' FROM generate_series(1, 5) AS i")
    land_one(items, target, table)
    assert_equal(items, target, table)

    items.execute("DELETE FROM public.items WHERE id <= 5")
    items.execute("INSERT INTO public.items SELECT i, 'more' FROM generate_series(2001, 2005) AS i")
    assert land_one(items, target, table).rows_deleted == 5
    items.execute("DELETE FROM public.items WHERE id BETWEEN 6 AND 8")
    items.execute("INSERT INTO public.items SELECT i, 'back' FROM generate_series(1, 3) AS i")
    land_one(items, target, table)
    assert_equal(items, target, table)


@pytest.mark.parametrize(
    "write",
    [
        f"DELETE FROM {RAW} WHERE id % 100 = 3",
        f"INSERT INTO {RAW} VALUES (5000, 'foreign', now())",
        f"DELETE FROM {RAW} WHERE id = 3; INSERT INTO {RAW} VALUES (1001, 'early', now())",
        f"TRUNCATE {RAW}",
    ],
    ids=["deletes", "inserts", "both", "truncates"],
)
@EVERY
def test_whoever_writes_into_the_raw_table_before_the_publish_is_undone(
    items: Database,
    target: Database,
    table: dict[str, Any],
    write: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    land_one(items, target, table)
    items.execute(CHANGE)
    evidence_of(monkeypatch, lambda: target.execute(write))

    result = land(items, target, table, allow_deletes=True).tables[0]

    assert result.error is None, str(result.error)
    assert_equal(items, target, table)


@EVERY
def test_rows_that_a_trigger_takes_away_are_missed(
    items: Database, target: Database, table: dict[str, Any]
) -> None:
    """What the server says it inserted is no proof then: the rows are counted again."""
    land_one(items, target, table)
    target.execute(
        "CREATE FUNCTION public.take() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN DELETE FROM {RAW} WHERE id = NEW.id - 1000; RETURN NULL; END $$;"
        f"CREATE TRIGGER take AFTER INSERT ON {RAW} FOR EACH ROW EXECUTE FUNCTION public.take()"
    )
    items.execute(CHANGE)

    result = land(items, target, table).tables[0]

    assert result.error is not None
    assert "would have 1000" in result.error.detail
    assert not difference(items, target, table).is_equal


@EVERY
def test_rows_that_a_trigger_refuses_are_missed(
    items: Database, target: Database, table: dict[str, Any]
) -> None:
    land_one(items, target, table)
    target.execute(
        "CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN IF NEW.id = 1007 THEN RETURN NULL; END IF; RETURN NEW; END $$;"
        f"CREATE TRIGGER refuse BEFORE INSERT ON {RAW} FOR EACH ROW "
        "EXECUTE FUNCTION public.refuse()"
    )
    items.execute(CHANGE)

    result = land(items, target, table).tables[0]

    assert result.error is not None
    assert "would have 1019" in result.error.detail


def test_rows_that_a_trigger_elsewhere_takes_away_are_missed(
    items: Database, target: Database
) -> None:
    """A foreign key follows a changed value into a table whose trigger comes back."""
    items.execute("ALTER TABLE public.items ADD code int; UPDATE public.items SET code = id")
    land_one(items, target, XMIN)
    target.execute(
        f"ALTER TABLE {RAW} ADD UNIQUE (code);"
        f"CREATE TABLE public.notes (code int REFERENCES {RAW} (code) ON UPDATE CASCADE);"
        "INSERT INTO public.notes VALUES (7);"
        "CREATE FUNCTION public.take() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN DELETE FROM {RAW} WHERE id = 8; RETURN NULL; END $$;"
        "CREATE TRIGGER take AFTER UPDATE ON public.notes FOR EACH ROW "
        "EXECUTE FUNCTION public.take()"
    )
    items.execute("UPDATE public.items SET code = 5000 WHERE id = 7")

    (result,) = land(items, target, XMIN).tables

    assert result.error is not None
    assert "would have 999" in result.error.detail


def test_keys_that_were_needed_are_read_at_once_in_the_next_pass(
    items: Database, target: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What counts did not prove they would not prove again."""
    land_one(items, target, XMIN)
    items.execute(f"{CHANGE}; DELETE FROM public.items WHERE id = 7")
    told = evidence_of(monkeypatch, lambda: None)

    failures: list[bool] = []

    def failing(*args: Any, **options: Any) -> Any:
        if len(told) == 2 and not failures:
            failures.append(True)
            raise TargetUnavailable("the target is gone", "It was.", "Wait.")
        return publish(*args, **options)

    monkeypatch.setattr(landing, "publish", failing)
    monkeypatch.setattr(landing, "PUBLISH_ATTEMPTS", 1)

    assert land_one(items, target, XMIN).rows_deleted == 1
    assert [each.is_by_count for each in told] == [True, False, False]
    assert_equal(items, target, XMIN)
