"""What each choice of the stream is worth: the bare COPY pipe, without guarantees, varied.

    python -m benchmarks.choices --scale 0.2 --rounds 5

Every way lands `users` anew, one after the other in each round; the medians say which choice
gains what (docs/decisions/0013).
"""

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg2

from benchmarks.stand import Stand, stand
from benchmarks.tables import USERS
from benchmarks.ways import by_psql
from extract_load.stream import CopyStats, move

COPY_IN = "COPY public.users FROM STDIN (FORMAT {format})"
KEY = "ALTER TABLE public.users ADD PRIMARY KEY (id)"
CHUNK_ROWS = 50_000
PSQL = "psql | psql, key after"


@dataclass(frozen=True)
class Choices:
    """One way to stream."""

    workers: int = 2
    chunk_rows: int = CHUNK_ROWS
    read_bytes: int = 1 << 18
    format: str = "binary"
    is_durable: bool = False
    """Whether each chunk's commit waits for the disk."""
    is_key_first: bool = False
    is_in_processes: bool = False


WAYS = {
    "as built": Choices(),
    "1 worker": Choices(workers=1),
    "2 processes": Choices(is_in_processes=True),
    "1 worker, one chunk": Choices(workers=1, chunk_rows=1 << 40),
    "chunks of 10k rows": Choices(chunk_rows=10_000),
    "reads of 8 KiB": Choices(read_bytes=1 << 13),
    "text": Choices(format="text"),
    "each commit flushed": Choices(is_durable=True),
    "key before": Choices(is_key_first=True),
}


def main() -> None:
    """Prints the median seconds of each way, and how it compares with psql."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--scale", type=float, default=0.2)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    seconds: defaultdict[str, list[float]] = defaultdict(list)
    with stand() as servers:
        rows = round(USERS.rows * options.scale)
        servers.ask(servers.source, f"{USERS.create};\n{USERS.fill(rows)}")
        for _ in range(options.rounds):
            seconds[PSQL].append(by_psql(servers, USERS).seconds)
            for name, choices in WAYS.items():
                seconds[name].append(_seconds(servers, choices, rows))
    theirs = statistics.median(seconds[PSQL])
    for name, each in seconds.items():
        median = statistics.median(each)
        print(f"{name:24} {median:7.2f} s  {median / theirs:5.2f}  {min(each):.2f}-{max(each):.2f}")


def _seconds(servers: Stand, choices: Choices, rows: int) -> float:
    servers.ask(servers.target, f"DROP TABLE IF EXISTS public.users;\n{USERS.create}")
    if choices.is_key_first:
        servers.ask(servers.target, KEY)
    ((blocks,),) = servers.ask(
        servers.source,
        "SELECT pg_relation_size('public.users') / current_setting('block_size')::int",
    )
    step = max(1, blocks * choices.chunk_rows // rows)
    ranges = [(start, start + step) for start in range(0, blocks, step)]
    pool_of = ProcessPoolExecutor if choices.is_in_processes else ThreadPoolExecutor
    with servers.settled():
        started = time.perf_counter()
        with pool_of(choices.workers) as pool:
            uris = servers.source_uri, servers.target_uri
            for work in [
                pool.submit(_copy, *uris, choices, ranges[place :: choices.workers])
                for place in range(choices.workers)
            ]:
                work.result()
        if not choices.is_key_first:
            servers.ask(servers.target, KEY)
        return time.perf_counter() - started


def _copy(
    source_uri: str, target_uri: str, choices: Choices, ranges: Sequence[tuple[int, int]]
) -> CopyStats:
    """Copies ranges of blocks, one after the other."""
    copied = CopyStats(0, 0)
    with _cursor(source_uri) as source, _cursor(target_uri) as target:
        if not choices.is_durable:
            target.execute("SET synchronous_commit = off")
        for start, stop in ranges:
            query = (
                f"COPY (SELECT * FROM public.users WHERE ctid >= '({start},0)'"
                f" AND ctid < '({min(stop, (1 << 32) - 2)},0)')"
                f" TO STDOUT (FORMAT {choices.format})"
            )

            def copy_out(stream: Any, query: str = query) -> int:
                source.copy_expert(query, stream)
                return int(source.rowcount)

            def copy_in(stream: Any) -> int:
                into = COPY_IN.format(format=choices.format)
                target.copy_expert(into, stream, choices.read_bytes)
                return int(target.rowcount)

            copied += move(copy_out, copy_in)
    return copied


@contextmanager
def _cursor(uri: str) -> "Iterator[psycopg2.extensions.cursor]":
    with closing(psycopg2.connect(uri)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            yield cursor


if __name__ == "__main__":
    main()
