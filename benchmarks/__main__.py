"""Speed as ratios against psql, interleaved in one run, on two servers of its own.

    python -m benchmarks --scale 0.2 --pairs 5 [--only users] [--write]

Both ways of a case end in the same rows on the same servers (fsync on), and that is checked after
each pair. Ours has every guarantee on: snapshot, checkpoints, counts, ledger.
"""

import argparse
import itertools
import os
import platform
from datetime import UTC, datetime
from pathlib import Path

import psutil

from benchmarks.cases import CASES, PEER_CASES, QUICK, THREE
from benchmarks.figures import (
    Figures,
    as_chart,
    as_markdown,
    as_rows,
    figures_in,
    rows_in,
    with_figures,
)
from benchmarks.stand import Stand, major_of, stand
from benchmarks.tables import EVENTS, SMALL_TABLES, USERS, WIDE, small

PAGE = Path(__file__).resolve().parent.parent / "docs" / "performance.md"


def main() -> None:
    """Runs the cases and prints, or writes, their figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--scale", type=float, default=float(os.environ.get("BENCH_SCALE", "1")))
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--only", action="append", help="part of a case's name; repeatable")
    parser.add_argument("--quick", action="store_true", help="only what matters most")
    parser.add_argument("--peers", action="store_true", help="other tools too")
    parser.add_argument("--peer-scale", type=float, help="for them; a tenth of --scale if not said")
    parser.add_argument(
        "--write", action="store_true", help="put the figures into docs/performance.md"
    )
    parser.add_argument(
        "--programs",
        type=lambda text: Path(text).absolute(),
        help="of other servers: /usr/lib/postgresql/15/bin",
    )
    options = parser.parse_args()
    try:
        major = major_of(options.programs)
        if options.write:
            figures_in(PAGE.read_text(encoding="utf-8"), major)
    except (ValueError, LookupError) as exc:
        parser.error(str(exc))
    cases = QUICK if options.quick else (*CASES, *PEER_CASES) if options.peers else CASES
    only = options.only or [""]
    chosen = [case for case in cases if any(part in case.name for part in only)]
    peer_scale = options.scale / 10 if options.peer_scale is None else options.peer_scale
    with stand(options.programs) as servers:
        for case in chosen:
            scale = peer_scale if case in PEER_CASES else options.scale
            _make_tables(servers, scale, case.name)
            pairs = list(itertools.islice(case.run(servers), options.pairs + 1))
            figures = Figures(case.name, case.reference, case.limit, tuple(pairs[1:]))
            print(figures.as_line(), flush=True)
            if options.write:
                _write(as_rows([figures], _measured(options.pairs, scale)), major)


def _measured(pairs: int, scale: float) -> str:
    """When and with what; a Python's build is a third of the client's CPU."""
    now, version = datetime.now(UTC), platform.python_version()
    return f"{now:%Y-%m-%d}, {pairs} pairs, scale {scale:g}, Python {version}"


def _write(new: dict[str, str], major: int) -> None:
    """Puts rows of cases in the place of their old ones; the others stay."""
    page = PAGE.read_text(encoding="utf-8")
    known = rows_in(figures_in(page, major)) | new
    rows = {case.name: known[case.name] for case in (*CASES, *PEER_CASES) if case.name in known}
    text = f"\n{_machine(major)}\n\n{as_markdown(rows)}\n{as_chart(rows)}\n"
    PAGE.write_text(with_figures(page, major, text), encoding="utf-8")


def _make_tables(servers: Stand, scale: float, case: str) -> None:
    """Makes the tables a case reads anew: the one before it may have changed them."""
    wanted = [EVENTS] if "events" in case else [WIDE] if "wide" in case else [USERS]
    if "all three" in case:
        wanted = list(THREE)
    if "small" in case:
        wanted = [small(number) for number in range(SMALL_TABLES)]
    for table in wanted:
        rows = table.rows if "small" in case else round(table.rows * scale)
        drop = f"DROP TABLE IF EXISTS public.{table.name};\n"
        servers.ask(servers.source, f"{drop}{table.create};\n{table.fill(rows)}")
    if "cursor" in case:
        servers.ask(servers.source, "CREATE INDEX ON public.users (updated_at)")


def _machine(major: int) -> str:
    memory = psutil.virtual_memory().total / 2**30
    versions = f"PostgreSQL {major} to {major}"
    return f"{os.cpu_count()} cores, {memory:.0f} GiB, {platform.system()}, {versions}."


if __name__ == "__main__":
    main()
