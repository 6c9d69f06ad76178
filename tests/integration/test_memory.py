"""A run keeps within memory_limit_mb, whatever its rows are; the program runs by itself here."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.landing import assert_equal
from tests.support.servers import Database
from tests.support.tables import leftovers

PROGRAM = Path(sys.executable).with_name("extract-load")
RAW = {"source": "public.documents", "target": "raw_data.documents"}


def create_documents(source: Database, rows: int, mib: int) -> None:
    """Fills a table with large values; one row a block, so that each may be a chunk."""
    source.execute(
        "CREATE TABLE public.documents (id bigint PRIMARY KEY, note text, body text);"
        "ALTER TABLE public.documents ALTER note SET STORAGE PLAIN;"
        "INSERT INTO public.documents "
        f"SELECT i, repeat('n', 5000), repeat(md5(i::text), {mib << 15}) "
        f"FROM generate_series(1, {rows}) AS i; ANALYZE public.documents"
    )


def create_hidden(source: Database) -> None:
    """Fills a table with values that are compressed to nothing."""
    create_documents(source, rows=8, mib=1)
    source.execute(
        "ALTER TABLE public.documents ALTER body TYPE jsonb USING to_jsonb(repeat('x', 20 << 20));"
        "ANALYZE public.documents"
    )


def land(
    tmp_path: Path,
    source: Database,
    target: Database,
    *,
    workers: int,
    limit: int,
    of_run: dict[str, Any] | None = None,
    **keys: Any,
) -> tuple[dict[str, Any], str]:
    """Returns the report and the log of a run in a process of its own."""
    table: dict[str, Any] = {"batch_size": 1, "memory_limit_mb": limit, "parallel_workers": workers}
    table |= {"source": RAW["source"], **keys}
    table |= {} if "targets" in keys else {"target": RAW["target"]}
    settings = tmp_path / "tables.json"
    settings.write_text(
        json.dumps(
            {
                "source_connection": "source",
                "target_connection": "target",
                "tables": [table],
                **(of_run or {}),
            }
        )
    )
    addresses = {"AIRFLOW_CONN_SOURCE": source.uri, "AIRFLOW_CONN_TARGET": target.uri}
    done = subprocess.run(
        [PROGRAM, "run", "--config", settings, "--output", "json"],
        env={**os.environ, **addresses},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    report: dict[str, Any] = json.loads(done.stdout)
    return report, done.stderr


def test_large_rows_pass_two_at_a_time(tmp_path: Path, source: Database, target: Database) -> None:
    create_documents(source, rows=12, mib=20)

    report, said = land(tmp_path, source, target, workers=2, limit=256)

    assert report["status"] == "done", report["tables"]
    assert report["peak_rss_mb"] < 256
    assert "memory is short" not in said
    assert_equal(source, target, RAW)


def test_where_memory_is_short_chunks_go_one_at_a_time(
    tmp_path: Path, source: Database, target: Database
) -> None:
    """Before a row is read, as texts tell how long they are; nothing failed, so no retry."""
    create_documents(source, rows=16, mib=20)

    report, said = land(tmp_path, source, target, workers=4, limit=160, max_retries=0)

    assert report["status"] == "done", said
    assert said.count("memory is short: one chunk at a time") == 1
    assert 'why="4 rows of 20 MiB at once"' in said
    assert report["peak_rss_mb"] < 160
    assert_equal(source, target, RAW)
    assert leftovers(target) == []


def test_targets_that_share_a_read_part_where_memory_is_short(
    tmp_path: Path, source: Database, target: Database
) -> None:
    """Nobody waits for who waits for its turn; the limits of a run's tables add up."""
    create_documents(source, rows=20, mib=20)
    names = ("raw_data.one", "raw_data.two")
    into = [{"conn_id": "target", "table": name} for name in names]
    many = {"source_max_connections": 6}

    report, said = land(
        tmp_path, source, target, workers=4, limit=130, of_run=many, targets=into, max_retries=0
    )

    assert report["status"] == "done", said
    assert said.count("memory is short: one chunk at a time") == 1
    assert report["peak_rss_mb"] < 2 * 130
    assert report["seconds"] < 30
    for name in names:
        assert_equal(source, target, {**RAW, "target": name})


def test_rows_that_hid_their_size_are_read_again_one_at_a_time(
    tmp_path: Path, source: Database, target: Database
) -> None:
    """Compressed to nothing, and read slowly: libpq holds their rows, of all streams at once."""
    create_hidden(source)

    report, said = land(
        tmp_path,
        source,
        target,
        workers=4,
        limit=160,
        of_run={"source_max_connections": 6, "throttle_mb_per_second": 100},
        max_retries=0,
        custom_where="id > 0",
    )
    assert report["status"] == "done", said
    assert said.count("memory is short: one chunk at a time") == 1
    assert "The process took " in said
    assert_equal(source, target, RAW)
    assert leftovers(target) == []


def test_below_libpq_they_take_no_memory(
    tmp_path: Path, source: Database, target: Database
) -> None:
    create_hidden(source)
    report, said = land(tmp_path, source, target, workers=4, limit=160, max_retries=0)

    assert report["status"] == "done", said
    assert "memory is short" not in said
    assert report["peak_rss_mb"] < 80
    assert_equal(source, target, RAW)


def test_a_row_that_is_too_large_is_refused_with_what_it_needs(
    tmp_path: Path, source: Database, target: Database
) -> None:
    create_documents(source, rows=3, mib=1)
    source.execute(
        "UPDATE public.documents SET body = repeat(("
        "SELECT string_agg(encode(sha512(i::text::bytea), 'hex'), '') "
        "FROM generate_series(1, 8192) AS i"
        "), 160) WHERE id = 2"
    )

    report, _ = land(tmp_path, source, target, workers=2, limit=256)

    (table,) = report["tables"]
    assert table["status"] == "failed"
    error = table["error"]
    assert error["primary"] == ('a row of "public.documents" does not fit into memory_limit_mb')
    assert 'Column "body" holds a value of 160 MiB' in error["detail"]
    assert report["peak_rss_mb"] < 256
    needed = int(error["hint"].split(" to ")[1].split(" or ")[0])
    assert 500 < needed < 700

    again, said = land(tmp_path, source, target, workers=2, limit=needed)
    assert again["status"] == "done", said
    assert_equal(source, target, RAW)


@pytest.mark.parametrize("workers", [1, 2])
def test_memory_is_flat_over_a_tables_size(
    tmp_path: Path, source: Database, target: Database, workers: int
) -> None:
    peaks = []
    for rows in (20_000, 400_000):
        source.execute(
            "DROP TABLE IF EXISTS public.documents;"
            "CREATE TABLE public.documents (id bigint PRIMARY KEY, body text);"
            "INSERT INTO public.documents SELECT i, repeat(md5(i::text), 4) "
            f"FROM generate_series(1, {rows}) AS i; ANALYZE public.documents"
        )
        report, _ = land(tmp_path, source, target, workers=workers, limit=256, batch_size=10_000)
        assert report["status"] == "done", report["tables"][0]["error"]
        peaks.append(report["peak_rss_mb"])
        target.execute("DROP SCHEMA raw_data, extract_load, extract_load_scratch CASCADE")
    assert peaks[1] < 1.1 * peaks[0]
