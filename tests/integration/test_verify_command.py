"""`extract-load verify` as a process: what it prints, its JSON, its exit status."""

import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.command import PROGRAM, Outcome, clean_environment, extract_load, write_settings
from tests.support.landing import environment, land_one
from tests.support.servers import Database
from tests.support.tables import FULL, RAW, create_items

SOON_SECONDS = 3
"""A signal is obeyed within one second, mostly a tenth of it; the rest is a busy machine's."""


@pytest.fixture
def path(source: Database, target: Database, tmp_path: Path) -> Path:
    create_items(source, 1_000)
    land_one(source, target, FULL)
    return write_settings(tmp_path / "tables.yml", {**FULL, "target": RAW})


def verify(source: Database, target: Database, path: Path, *options: str) -> Outcome:
    return extract_load(
        *("verify", "--config", str(path), *options), environment=environment(source, target)
    )


def test_json_is_one_object(source: Database, target: Database, path: Path) -> None:
    done = verify(source, target, path, "--output", "json")

    assert (done.status, done.json) == (
        0,
        {
            "status": "equal",
            "tables": [
                {
                    "source": "public.items",
                    "target": RAW,
                    "target_connection": "postgres_default",
                    "status": "equal",
                    "source_rows": 1000,
                    "target_rows": 1000,
                    "pending_count": 0,
                    "missing_count": 0,
                    "extra_count": 0,
                    "different_count": 0,
                    "missing": [],
                    "extra": [],
                    "different": [],
                    "error": None,
                }
            ],
        },
    ), done.stderr


def test_a_difference_exits_1_and_names_its_keys(
    source: Database, target: Database, path: Path
) -> None:
    target.execute(f"UPDATE {RAW} SET amount = 0 WHERE id <= 12; DELETE FROM {RAW} WHERE id = 13")

    done = verify(source, target, path)

    assert done.status == 1
    lines = done.stdout.splitlines()
    assert lines[0].split() == [
        *("table", "target", "source", "rows", "target", "rows", "missing", "extra"),
        *("different", "pending", "status"),
    ]
    assert lines[1].split() == [
        *("public.items", "postgres_default", "1,000", "999", "1", "0", "12", "0", "different")
    ]
    assert "public.items in postgres_default, missing: 13" in lines
    assert any("different: " in line and line.endswith("; ... 2 more") for line in lines)
    assert lines[-1].endswith("· 1 of 1 different")


def test_it_creates_nothing_and_settle_lands(
    source: Database, target: Database, path: Path
) -> None:
    everything = "SELECT count(*) FROM pg_class UNION ALL SELECT count(*) FROM extract_load.runs"
    before = target.execute(everything), source.execute("SELECT count(*) FROM pg_class")
    source.execute("UPDATE public.items SET body = 'new' WHERE id = 1")

    looked = verify(source, target, path)
    after = target.execute(everything), source.execute("SELECT count(*) FROM pg_class")
    settled = verify(source, target, path, "--settle", "--output", "json")

    assert (looked.status, before) == (0, after)
    assert 'Pending rows may have changed since the last publish; "verify --settle" tells.' in (
        looked.stdout
    )
    assert (settled.status, settled.json["status"]) == (0, "equal")
    assert target.execute(f"SELECT body FROM {RAW} WHERE id = 1") == [("new",)]


def test_a_table_that_cannot_be_compared_fails_alone(
    source: Database, target: Database, path: Path
) -> None:
    source.execute("CREATE TABLE public.other (id int PRIMARY KEY)")
    other = {"source": "public.other", "target": "raw_data.other"}
    path = write_settings(path, {**FULL, "target": RAW}, other)

    done = verify(source, target, path, "--output", "json")

    assert (done.status, done.json["status"]) == (1, "failed")
    assert [table["status"] for table in done.json["tables"]] == ["equal", "failed"]
    assert done.json["tables"][1]["error"]["class"] == "TargetError"
    chosen = verify(source, target, path, "--select", "public.items", "--output", "json")
    assert (chosen.status, len(chosen.json["tables"])) == (0, 1)
    text = verify(source, target, path)
    assert 'error: there is no raw table "raw_data.other"' in text.stdout


@pytest.fixture
def _interruptible() -> Iterator[None]:
    """A shell's background job ignores SIGINT, and so would what it starts: be no such job."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_interruptible")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_with_its_status(
    source: Database, target: Database, path: Path, number: signal.Signals, status: int
) -> None:
    source.execute(
        "CREATE FUNCTION public.slow(int) RETURNS boolean LANGUAGE sql STABLE "
        "AS 'SELECT pg_sleep(0.1) IS NOT NULL'"
    )
    path = write_settings(path, {**FULL, "target": RAW, "custom_where": "public.slow(id)"})
    process = subprocess.Popen(
        [str(PROGRAM), "verify", "--config", str(path)],
        env=clean_environment(environment(source, target)),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    busy = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
    deadline = time.monotonic() + 30
    while source.execute(busy) == [(0,)]:
        assert process.poll() is None, process.stderr
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(number)
    assert process.wait(timeout=SOON_SECONDS) == status
