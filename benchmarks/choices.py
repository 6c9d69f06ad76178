"""What each choice of the stream is worth: the bare stream, without guarantees, varied.

    python -m benchmarks.choices --scale 0.2 --rounds 5

Every way lands `users` anew, one after the other in each round; the medians say which choice
gains what (docs/decisions/0013).
"""

import argparse
import statistics
import threading
import time
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import psycopg2

from benchmarks.stand import Stand, stand
from benchmarks.tables import USERS
from benchmarks.ways import by_psql
from extract_load.batch_thread import be_batch
from extract_load.connection import COPY_READ_BYTES
from extract_load.copy_frames import FramesIn, FramesOut
from extract_load.stream import move_by_libpq
from extract_load.stream_watch import CopyStats, require_equal
from extract_load.wire import wire_of

Cursor = psycopg2.extensions.cursor

COPY_IN = "COPY public.users FROM STDIN (FORMAT {format})"
KEY = "ALTER TABLE public.users ADD PRIMARY KEY (id)"
CHUNK_ROWS = 50_000
PSQL = "psql | psql, key after"


@dataclass(frozen=True)
class Choices:
    """One way to stream."""

    workers: int = 2
    chunk_rows: int = CHUNK_ROWS
    is_by_libpq: bool = False
    """Whether each row goes through libpq, and a pipe between two threads."""
    format: str = "binary"
    is_durable: bool = False
    """Whether each chunk's commit waits for the disk."""
    is_key_first: bool = False
    is_in_processes: bool = False
    is_woken_at_once: bool = False
    """Whether what reads from the source interrupts others; Linux."""


WAYS = {
    "as built": Choices(),
    "1 worker": Choices(workers=1),
    "2 processes": Choices(is_in_processes=True),
    "1 worker, one chunk": Choices(workers=1, chunk_rows=1 << 40),
    "chunks of 10k rows": Choices(chunk_rows=10_000),
    "by libpq": Choices(is_by_libpq=True),
    "text": Choices(format="text"),
    "woken at once": Choices(is_woken_at_once=True),
    "each commit flushed": Choices(is_durable=True),
    "key before": Choices(is_key_first=True),
}


def main() -> None:
    """Prints the median seconds of each way, and how it compares with psql."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--scale", type=float, default=0.2)
    parser.add_argument("--rounds", type=int, default=5)
    known = "; ".join(WAYS)
    parser.add_argument("--only", action="append", choices=WAYS, metavar="WAY", help=known)
    options = parser.parse_args()
    ways = {name: WAYS[name] for name in options.only or WAYS}
    seconds: defaultdict[str, list[float]] = defaultdict(list)
    with stand() as servers:
        rows = round(USERS.rows * options.scale)
        servers.ask(servers.source, f"{USERS.create};\n{USERS.fill(rows)}")
        for _ in range(options.rounds):
            seconds[PSQL].append(by_psql(servers, USERS).seconds)
            for name, choices in ways.items():
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
    pool_of = ProcessPoolExecutor if choices.is_in_processes else ThreadPoolExecutor
    uris = servers.source_uri, servers.target_uri
    with servers.settled():
        started = time.perf_counter()
        with pool_of(choices.workers, initializer=_connect, initargs=(*uris, choices)) as pool:
            list(pool.map(_copy, [(at, at + step) for at in range(0, blocks, step)]))
        if not choices.is_key_first:
            servers.ask(servers.target, KEY)
        return time.perf_counter() - started


_worker = threading.local()
"""A worker's two cursors, and its choices; a connection is closed when its thread ends."""


def _connect(source_uri: str, target_uri: str, choices: Choices) -> None:
    _worker.choices = choices
    if not choices.is_woken_at_once:
        be_batch()
    _worker.source, _worker.target = _cursor(source_uri), _cursor(target_uri)
    if not choices.is_durable:
        _worker.target.execute("SET synchronous_commit = off")


def _cursor(uri: str) -> Cursor:
    connection = psycopg2.connect(uri)
    connection.autocommit = True
    return connection.cursor()


def _copy(blocks: tuple[int, int]) -> CopyStats:
    """Copies a range of blocks in the worker that is free."""
    choices, source, target = _worker.choices, _worker.source, _worker.target
    start, stop = blocks[0], min(blocks[1], (1 << 32) - 2)
    query = (
        f"COPY (SELECT * FROM public.users WHERE ctid >= '({start},0)' AND ctid < '({stop},0)')"
        f" TO STDOUT (FORMAT {choices.format})"
    )

    into = COPY_IN.format(format=choices.format)
    copy = _copy_by_libpq if choices.is_by_libpq else _copy_below_libpq
    return copy(source, query, target, into)


def _copy_below_libpq(source: Cursor, query: str, target: Cursor, into: str) -> CopyStats:
    source.execute("BEGIN")
    with wire_of(source.connection) as reader, wire_of(target.connection) as writer:
        frames = FramesOut(reader, query.encode())
        taken = FramesIn(writer, frames.pass_on).take(target, into.encode())
    source.execute("COMMIT")
    require_equal(frames.rows, taken)
    return CopyStats(frames.rows, frames.bytes)


def _copy_by_libpq(source: Cursor, query: str, target: Cursor, into: str) -> CopyStats:
    def copy_out(stream: Any) -> int:
        source.copy_expert(query, stream)
        stream.flush()
        return int(source.rowcount)

    def copy_in(stream: Any) -> int:
        target.copy_expert(into, stream, COPY_READ_BYTES)
        return int(target.rowcount)

    return move_by_libpq(copy_out, copy_in)


if __name__ == "__main__":
    main()
