"""Which reads pass below libpq, and that the others arrive as well."""

import os
from pathlib import Path
from typing import Any

import pytest

from demo.embedded_server import EmbeddedServer
from tests.support.landing import assert_equal, land, land_one
from tests.support.servers import Database

ITEMS: dict[str, Any] = {"source": "public.items", "sync_mode": "full_sync", "batch_size": 1000}
CREATE = (
    "CREATE TABLE public.items (id int PRIMARY KEY, body text NOT NULL);"
    "INSERT INTO public.items SELECT i, md5(i::text) FROM generate_series(1, 5000) AS i;"
    "ANALYZE public.items"
)
LOUD = (
    "CREATE FUNCTION public.loud(id int) RETURNS boolean STABLE LANGUAGE plpgsql AS "
    "'BEGIN RAISE INFO ''row %'', id; RAISE WARNING ''row %'', id; RETURN true; END'"
)


def copies(server: EmbeddedServer, before: int) -> list[str]:
    """The COPY TO statements that a source was sent since."""
    said = (Path(server.data_dir) / "server.log").read_bytes()[before:].decode()
    statements = said.split("LOG:  statement: ")[1:]
    return [text for text in statements if text.startswith("COPY (")]


@pytest.fixture
def log_start(source: Database, source_server: EmbeddedServer) -> int:
    source.execute(f"ALTER DATABASE \"{source.name}\" SET log_statement = 'all'")
    source.execute(CREATE)
    return (Path(source_server.data_dir) / "server.log").stat().st_size


def test_chunks_of_a_table_pass_below(
    source: Database, target: Database, source_server: EmbeddedServer, log_start: int
) -> None:
    result = land_one(source, target, ITEMS)

    assert_equal(source, target, ITEMS)
    found = copies(source_server, log_start)
    assert len(found) == result.chunks >= 5
    assert all("; SELECT '" in line for line in found), "a word follows the COPY"


LOUD_READS = {
    "custom_where": {**ITEMS, "custom_where": "public.loud(id)"},
    "view": {**ITEMS, "source": "public.loud_items", "primary_key": ["id"]},
}


@pytest.mark.parametrize("table", LOUD_READS.values(), ids=LOUD_READS)
def test_what_may_send_messages_between_rows_goes_by_libpq(
    source: Database,
    target: Database,
    source_server: EmbeddedServer,
    log_start: int,
    table: dict[str, Any],
) -> None:
    source.execute(LOUD)
    source.execute("CREATE VIEW public.loud_items AS SELECT * FROM public.items WHERE loud(id)")

    land_one(source, target, table)

    assert_equal(source, target, table)
    found = copies(source_server, log_start)
    assert found
    assert not any("; SELECT '" in line for line in found)


def test_texts_pass_below_too(
    source: Database, target: Database, source_server: EmbeddedServer, log_start: int
) -> None:
    """A type without a binary form that counts is copied as text."""
    source.execute(
        "CREATE TYPE public.mood AS ENUM ('good', 'bad');"
        "ALTER TABLE public.items ADD mood public.mood DEFAULT 'good';"
        "ALTER TABLE public.items ADD line text DEFAULT E'a\\tb\\n\\\\.'"
    )
    result = land_one(source, target, ITEMS)

    assert_equal(source, target, ITEMS)
    assert result.rows_read == 5000
    assert all("; SELECT '" in line for line in copies(source_server, log_start))


def test_a_table_whose_casts_send_messages_goes_by_libpq_in_the_end(
    source: Database, target: Database, log_start: int
) -> None:
    """Nobody can know before; the target refuses what is no row, and the chunk is read again."""
    assert log_start
    source.execute(
        "CREATE TYPE public.pair AS (a int, b int);"
        "CREATE FUNCTION public.told(public.pair) RETURNS text STABLE LANGUAGE plpgsql AS "
        "'BEGIN RAISE INFO ''a pair''; RETURN ($1).a; END';"
        "CREATE CAST (public.pair AS text) WITH FUNCTION public.told(public.pair);"
        "ALTER TABLE public.items ADD pair public.pair DEFAULT (1, 2)"
    )
    result = land_one(source, target, ITEMS)

    assert result.rows_read == 5000
    assert 1 <= result.retries <= 2, "once for each chunk that had begun"
    assert target.execute("SELECT DISTINCT pair FROM raw_data.digitalocean_items") == [("1",)]


def test_the_threads_of_chunks_interrupt_nobody_and_the_caller_stays(
    source: Database, target: Database, log_start: int
) -> None:
    assert log_start
    policies: set[int] = set()

    land(source, target, ITEMS, after_chunk=lambda _: policies.add(os.sched_getscheduler(0)))

    assert policies == {os.SCHED_BATCH}
    assert os.sched_getscheduler(0) == os.SCHED_OTHER
