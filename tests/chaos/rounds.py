"""One round: a run that something happens to, runs until one ends well, and the comparison."""

import random
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from demo.embedded_server import EmbeddedServer
from tests.chaos import bank
from tests.chaos.faults import FAULTS, LIMIT_SECONDS, Process, Scene
from tests.support.command import PROGRAM, clean_environment, write_settings
from tests.support.landing import difference, environment, land_one
from tests.support.own_servers import new_server, wait_for
from tests.support.proxy import wire_to
from tests.support.servers import Database, fresh_database
from tests.support.tables import leftovers

MODES: tuple[dict[str, Any], ...] = (
    {"sync_mode": "full_sync"},
    {"sync_mode": "full_sync", "deletes": "soft"},
    {"sync_mode": "incremental_sync", "incremental_field": "updated_at", "deletes": "hard"},
    {"sync_mode": "xmin_incremental"},
    {"sync_mode": "xmin_incremental", "deletes": "soft"},
)
TRIES = 6
"""Runs after the harmed one; one of them must end well."""


@dataclass(frozen=True)
class Outcome:
    """What a round came to."""

    kind: str
    runs: int
    was_hit: bool
    """Whether the harmed run did not end well by itself."""
    resumed: int
    """Chunks that later runs did not read again."""
    rows: int
    looks: int
    recovery_seconds: float
    """From the fault to the end of the first run that ended well."""
    wrong: tuple[str, ...]


class Playground:
    """Two servers, each behind a wire, and the rounds that happen on them."""

    def __init__(self, directory: Path, source: EmbeddedServer, target: EmbeddedServer) -> None:
        self._directory = directory
        self._servers = (source, target)

    def happen(self, kind: str, seed: int) -> Outcome:
        """Returns what a round came to; it is the same for a seed, as far as time allows."""
        chance = random.Random(f"{kind} {seed}")
        source_server, target_server = self._servers
        with (
            fresh_database(source_server, "chaos_source") as source,
            fresh_database(target_server, "chaos_target") as target,
            wire_to(source.port) as source_wire,
            wire_to(target.port) as target_wire,
        ):
            table = {
                **chance.choice(MODES),
                "source": bank.TABLE,
                "target": bank.RAW,
                "batch_size": chance.choice([150, 400]),
                "parallel_workers": chance.choice([1, 1, 3]),
                "max_retries": chance.choice([0, 3]),
            }
            path = self._write(seed, table)
            wired = (replace(source, port=source_wire.port), replace(target, port=target_wire.port))
            scene = Scene(
                source,
                target,
                source_server,
                target_server,
                source_wire,
                target_wire,
                lambda: _start(*wired, path),
                chance,
            )
            bank.create(source)
            if chance.random() < 0.5:  # a refresh, not a first load
                land_one(source, target, table)
            return _round(kind, scene, table, path, seed)

    def _write(self, seed: int, table: dict[str, Any]) -> Path:
        path = self._directory / f"chaos-{seed}.yml"
        return write_settings(path, table, throttle_mb_per_second=0.6, source_max_connections=6)


def _round(kind: str, scene: Scene, table: dict[str, Any], path: Path, seed: int) -> Outcome:
    source, target = scene.source, scene.target
    with bank.readers(target) as seen:
        with bank.writers(source, seed):
            harmed = FAULTS[kind](scene)
            hurt_at = time.monotonic()
            statuses = [process.wait(LIMIT_SECONDS) for process in harmed]
            runs = len(harmed)
            was_hit = any(statuses)
            while any(statuses) or runs == len(harmed):
                assert runs <= TRIES, f"no run ended well: {_last_errors(target)}"
                statuses = [_start(source, target, path).wait(LIMIT_SECONDS)]
                runs += 1
            recovered = time.monotonic() - hurt_at
        land_one(source, target, table, wait_seconds=40)
    found = difference(source, target, table)
    wrong = [*seen.wrong, *([] if found.is_equal else [f"differs: {found}"])]
    wrong += [f"left over: {left}" for left in leftovers(target)]
    wrong += _sessions_left(source, target)
    ((resumed,),) = target.execute("SELECT sum(chunks_resumed)::int FROM extract_load.table_runs")
    return Outcome(
        kind=kind,
        runs=runs + 1,
        was_hit=was_hit,
        resumed=resumed or 0,
        rows=found.source_rows,
        looks=seen.looks,
        recovery_seconds=recovered,
        wrong=tuple(wrong),
    )


def _start(source: Database, target: Database, path: Path) -> Process:
    return subprocess.Popen(
        [str(PROGRAM), "run", "--config", str(path), "--wait", "40"],
        env=clean_environment(environment(source, target)),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def _last_errors(target: Database) -> Any:
    return target.execute(
        "SELECT run_id, status, error FROM extract_load.table_runs ORDER BY started_at DESC LIMIT 5"
    )


def _sessions_left(*sides: Database) -> list[str]:
    """Sessions of ours that are there for longer than a moment after the last run."""
    query = (
        "SELECT count(*)::int FROM pg_stat_activity WHERE datname = current_database()"
        " AND application_name LIKE 'extract-load%'"
    )

    def is_gone() -> bool:
        return all(side.execute(query) == [(0,)] for side in sides)

    try:
        wait_for(is_gone, "sessions of ours")
    except AssertionError as error:
        return [str(error)]
    return []


@contextmanager
def playground(directory: Path) -> Iterator[Playground]:
    """Yields two servers of their own: these are crashed."""
    source, target = new_server(directory / "source"), new_server(directory / "target")
    try:
        yield Playground(directory, source, target)
    finally:
        for server in (source, target):
            server.stop()
