"""Three targets of one table: one well, one throttled to a tenth, one killed in the middle.

    python -m benchmarks.fan_out --scale 0.2 --pairs 3

What the healthy target takes is printed beside what it takes alone, in turn; and how many rows
the source read (pg_stat_user_tables), beside what the report says. Then the killed target is
started again, and a second run completes what is missing.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import psutil

from benchmarks.stand import Stand, new_server, stand, uri_of
from benchmarks.tables import USERS
from benchmarks.ways import PROGRAM, require_equal
from demo.embedded_server import EmbeddedServer

KILLED_AFTER_SECONDS = 2.0
AWAKE_SECONDS, ASLEEP_SECONDS = 0.01, 0.09
LIMIT_SECONDS = 600
TARGETS = ("healthy", "throttled", "killed")


def main() -> None:
    """Prints a line for each pair, and their medians."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--scale", type=float, default=0.2)
    parser.add_argument("--pairs", type=int, default=3)
    options = parser.parse_args()
    with stand() as servers:
        others = [new_server(servers.directory, name) for name in TARGETS[1:]]
        try:
            rows = round(USERS.rows * options.scale)
            servers.ask(servers.source, f"{USERS.create};\n{USERS.fill(rows)}")
            targets = dict(zip(TARGETS, [servers.target, *others], strict=True))
            ratios = [_pair(servers, targets, rows) for _ in range(options.pairs)]
        finally:
            for server in others:
                server.stop()
    print(f"healthy, with the others / alone: {statistics.median(ratios):.2f}")


def _pair(servers: Stand, targets: dict[str, EmbeddedServer], rows: int) -> float:
    _forget(servers, targets)
    alone = _seconds(_run(servers, {"healthy": targets["healthy"]}), "healthy")

    _forget(servers, targets)
    before = _rows_read(servers)
    with _throttled(targets["throttled"]), _killed(targets["killed"]):
        report = _run(servers, targets)
    read = _rows_read(servers) - before
    beside = _seconds(report, "healthy")
    print(
        f"healthy {alone:.1f} s alone, {beside:.1f} s beside the others; "
        f"throttled {_seconds(report, 'throttled'):.1f} s; "
        f"the source read {read / rows:.2f} times its rows; "
        + ", ".join(_fate(one) for one in report["tables"])
    )
    again = _run(servers, targets)
    print("  again: " + ", ".join(_fate(one) for one in again["tables"]), flush=True)
    for server in targets.values():
        require_equal(servers, USERS, "raw_data.users", server)
    return beside / alone


def _fate(table: dict[str, Any]) -> str:
    return f"{table['target_connection']} {table['status']}, {table['rows_read']} rows read"


def _run(servers: Stand, targets: dict[str, EmbeddedServer]) -> dict[str, Any]:
    """Returns the report of one run with two workers."""
    table = {
        "source": "public.users",
        "parallel_workers": 2,
        "targets": [{"conn_id": name, "table": "raw_data.users"} for name in targets],
    }
    settings = servers.directory / "fan_out.json"
    settings.write_text(json.dumps({"source_connection": "source", "tables": [table]}))
    addresses = {f"AIRFLOW_CONN_{name.upper()}": uri_of(one) for name, one in targets.items()}
    with servers.settled():
        done = subprocess.run(
            [PROGRAM, "run", "--config", str(settings), "--output", "json"],
            env={**os.environ, "AIRFLOW_CONN_SOURCE": servers.source_uri, **addresses},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=LIMIT_SECONDS,
            check=False,
        )
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def _seconds(report: dict[str, Any], target: str) -> float:
    return next(
        float(one["seconds"]) for one in report["tables"] if one["target_connection"] == target
    )


def _forget(servers: Stand, targets: dict[str, EmbeddedServer]) -> None:
    for server in targets.values():
        for schema in ("raw_data", "extract_load", "extract_load_scratch"):
            servers.ask(server, f"DROP SCHEMA IF EXISTS {schema} CASCADE")


def _rows_read(servers: Stand) -> int:
    """How many rows of the table were read; sessions that ended have told theirs after a while."""
    time.sleep(2)
    query = (
        "SELECT seq_tup_read + coalesce(idx_tup_fetch, 0) FROM pg_stat_user_tables"
        " WHERE relname = 'users'"
    )
    return int(servers.ask(servers.source, query)[0][0])


@contextmanager
def _throttled(server: EmbeddedServer) -> Iterator[None]:
    """Lets a server's processes run a tenth of the time."""
    ended = threading.Event()

    def blink() -> None:
        while not ended.is_set():
            stopped = _signal(server, signal.SIGSTOP)
            time.sleep(ASLEEP_SECONDS)
            _send(stopped, signal.SIGCONT)
            time.sleep(AWAKE_SECONDS)

    blinking = threading.Thread(target=blink)
    blinking.start()
    try:
        yield
    finally:
        ended.set()
        blinking.join(LIMIT_SECONDS)


def _signal(server: EmbeddedServer, number: int) -> Sequence[psutil.Process]:
    processes = psutil.Process(server.pid).children(recursive=True)
    _send(processes, number)
    return processes


def _send(processes: Sequence[psutil.Process], number: int) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)


@contextmanager
def _killed(server: EmbeddedServer) -> Iterator[None]:
    """Kills a server while the block runs, and starts it again behind it."""

    def kill() -> None:
        if server.pid is not None:
            os.kill(server.pid, signal.SIGQUIT)  # an immediate shutdown: no checkpoint

    timer = threading.Timer(KILLED_AFTER_SECONDS, kill)
    timer.start()
    try:
        yield
    finally:
        timer.join()
        server.start()


if __name__ == "__main__":
    main()
