"""`make chaos`: hundreds of rounds of each kind, and what they came to, for docs/reliability.md."""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from tests.chaos.faults import FAULTS
from tests.chaos.rounds import Outcome, playground
from tests.support.servers import guarded_directory

_TABLE = "<!-- make chaos -->"
_PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"
_HEADS = (
    "what happens",
    "rounds",
    "runs",
    "rounds whose run was ended by it",
    "chunks not read again",
    "rows compared",
    "looks of readers",
    "longest recovery (s)",
    "wrong",
)


def main() -> None:
    """Runs the rounds, several kinds at a time; exit status 1 where one went wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=200, help="of each kind")
    parser.add_argument("--seed", type=int, default=1000, help="of the first round of each kind")
    parser.add_argument("--kind", choices=FAULTS, action="append", help="default: all")
    parser.add_argument("--write", action="store_true", help="the table into docs/reliability.md")
    # A round is slowed by its throttle and mostly waits.
    jobs = 3 * (os.cpu_count() or 1)
    parser.add_argument("--jobs", type=int, default=jobs, help="kinds at a time")
    arguments = parser.parse_args()
    seeds = range(arguments.seed, arguments.seed + arguments.rounds)
    rows = []
    with ProcessPoolExecutor(arguments.jobs) as processes:
        for row in processes.map(partial(_row_of, seeds=seeds), arguments.kind or FAULTS):
            rows.append(row)
            print(row, flush=True)  # noqa: T201 - for a terminal
    if arguments.write:
        _write(rows)
    sys.exit(any(not row.endswith("| 0 |") for row in rows))


def _row_of(kind: str, seeds: Sequence[int]) -> str:
    logging.disable(logging.ERROR)
    return _row(kind, _happen(kind, seeds))


def _happen(kind: str, seeds: Sequence[int]) -> list[Outcome]:
    """Fresh servers a kind."""
    outcomes = []
    with guarded_directory() as directory, playground(directory) as ground:
        for seed in seeds:
            outcome = ground.happen(kind, seed)
            outcomes.append(outcome)
            for wrong in outcome.wrong:
                print(f"{kind}, seed {seed}: {wrong}", flush=True)  # noqa: T201
    return outcomes


def _row(kind: str, outcomes: Sequence[Outcome]) -> str:
    cells = (
        kind,
        len(outcomes),
        sum(one.runs for one in outcomes),
        sum(one.was_hit for one in outcomes),
        sum(one.resumed for one in outcomes),
        sum(one.rows for one in outcomes),
        sum(one.looks for one in outcomes),
        f"{max(one.recovery_seconds for one in outcomes):.1f}",
        sum(bool(one.wrong) for one in outcomes),
    )
    return "| " + " | ".join(map(str, cells)) + " |"


def _write(rows: Sequence[str]) -> None:
    text = _PAGE.read_text(encoding="utf-8")
    before, _, after = text.split(_TABLE)  # what stands between the two marks is replaced
    head = "| " + " | ".join(_HEADS) + " |\n" + "| --- " * len(_HEADS) + "|"
    table = "\n".join((_TABLE, head, *rows, _TABLE))
    _PAGE.write_text(before + table + after, encoding="utf-8")


if __name__ == "__main__":
    main()
