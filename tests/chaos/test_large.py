"""Large tables: what a kill costs, and what a run of minutes does to its source."""

import json
import subprocess
import threading
import time
from pathlib import Path

import pytest

from tests.chaos import bank
from tests.integration.test_crash import kill_when, loaded_chunks, start
from tests.integration.test_governor import sampled
from tests.support.command import PROGRAM, clean_environment, write_settings
from tests.support.landing import difference, environment
from tests.support.servers import Database
from tests.support.tables import leftovers

pytestmark = [pytest.mark.slow, pytest.mark.alone]

TABLE = {
    "source": bank.TABLE,
    "target": bank.RAW,
    "sync_mode": "xmin_incremental",
    "parallel_workers": 2,
}


def create(source: Database, rows: int) -> None:
    bank.create(source)
    source.execute(
        f"INSERT INTO {bank.TABLE} (balance) SELECT 0 FROM generate_series(1, {rows});"
        f"ANALYZE {bank.TABLE}"
    )


@pytest.mark.timeout(600)
def test_a_kill_at_half_of_two_million_rows_costs_the_chunks_in_flight(
    source: Database, target: Database, tmp_path: Path
) -> None:
    create(source, 2_000_000)
    path = write_settings(tmp_path / "t.yml", TABLE)
    with bank.writers(source, seed=7):
        kill_when(start(source, target, path), lambda: loaded_chunks(target) >= 20)
        kept = loaded_chunks(target)
        done = subprocess.run(
            [str(PROGRAM), "run", "--config", str(path), "--output", "json"],
            env=clean_environment(environment(source, target)),
            capture_output=True,
            timeout=300,
            check=True,
        )
    (result,) = json.loads(done.stdout)["tables"]

    assert result["chunks_resumed"] == kept
    assert result["rows_read"] < 1_300_000
    subprocess.run(
        [str(PROGRAM), "run", "--config", str(path)],
        env=clean_environment(environment(source, target)),
        timeout=300,
        check=True,
    )
    found = difference(source, target, TABLE)
    assert found.is_equal, found
    assert leftovers(target) == []


@pytest.mark.timeout(900)
def test_five_minutes_with_snapshots_of_half_a_minute(
    source: Database, target: Database, tmp_path: Path
) -> None:
    """No snapshot of ours gets older, and an ALTER TABLE in the middle hardly waits.

    What changed since the first chunk is read at the end under one snapshot, at the same pace: it
    has to fit, so a single writer.
    """
    create(source, 900_000)
    path = write_settings(
        tmp_path / "t.yml",
        {**TABLE, "batch_size": 5000},
        snapshot_max_age="30s",
        throttle_mb_per_second=0.4,
    )
    waits: list[float] = []

    def alter() -> None:
        time.sleep(150)
        for what in ("ALTER note SET STATISTICS 50", "ADD CHECK (balance > -1000000000) NOT VALID"):
            began = time.monotonic()
            source.execute(f"ALTER TABLE {bank.TABLE} {what}")
            waits.append(time.monotonic() - began)

    altering = threading.Thread(target=alter)
    with bank.writers(source, seed=9, count=1), sampled(source) as ages:
        altering.start()
        began = time.monotonic()
        process = start(source, target, path)
        assert process.wait(800) == 0
        seconds = time.monotonic() - began
        altering.join(10)

    assert seconds > 240
    assert 10 < max(ages) < 30.5
    assert len(waits) == 2
    assert max(waits) < 3
    throttled = path.read_text().replace("throttle_mb_per_second: 0.4\n", "")
    path.write_text(throttled)
    assert start(source, target, path).wait(300) == 0
    found = difference(source, target, TABLE)
    assert found.is_equal, found
