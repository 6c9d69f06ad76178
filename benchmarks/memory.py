"""What landing takes of memory: a million narrow rows, twenty million, 200 rows of 20 MB each.

python -m benchmarks.memory --workers 2
"""

import argparse

from benchmarks.stand import Stand, stand
from benchmarks.tables import EVENTS, Table
from benchmarks.ways import by_us, forget_ours, require_equal

LIMIT_MB = 256
LARGE = Table(
    "large",
    "id bigint NOT NULL, body text NOT NULL",
    "i, repeat(md5(i::text), (20 << 20) / 32)",
    rows=200,
)
"""Compressed on disk, whole on the wire: what matters is what a row takes of the client."""


def main() -> None:
    """Prints the peak of a first load of each, from the system (ru_maxrss)."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    with stand() as servers:
        for table, rows in ((EVENTS, 1_000_000), (EVENTS, 20_000_000), (LARGE, LARGE.rows)):
            _print_peak(servers, table, rows, options.workers)


def _print_peak(servers: Stand, table: Table, rows: int, workers: int) -> None:
    drop = f"DROP TABLE IF EXISTS public.{table.name};\n"
    servers.ask(servers.source, f"{drop}{table.create};\n{table.fill(rows)}")
    forget_ours(servers)
    cost = by_us(servers, table, workers=workers, memory_limit_mb=LIMIT_MB)
    require_equal(servers, table, f"raw_data.{table.name}")
    print(
        f"{table.name:8} {rows:>12,} rows  {cost.seconds:6.1f} s"
        f"  peak {cost.peak_mib:4.0f} MiB of {LIMIT_MB}",
        flush=True,
    )


if __name__ == "__main__":
    main()
