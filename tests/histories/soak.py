"""`make soak`: random histories for hours, or as many as are wanted."""

import argparse
import logging
import random
import time

from hypothesis import given, seed, settings

from tests.histories.drawn import histories
from tests.histories.steps import History
from tests.histories.test_histories import HISTORIES, new_world
from tests.support.servers import guarded_directory, running_servers

_BATCH = 50
"""Histories for one seed: a failure names a seed that finds it again within minutes."""


def main() -> None:
    """Runs batches of histories until the time, or the number, is reached."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3600.0)
    parser.add_argument("--count", type=int, default=0, help="histories; 0: until time is up")
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    arguments = parser.parse_args()
    logging.disable(logging.ERROR)
    deadline = time.monotonic() + arguments.seconds
    done, number = 0, arguments.seed
    while (done < arguments.count) if arguments.count else (time.monotonic() < deadline):
        examples = min(_BATCH, arguments.count - done or _BATCH) if arguments.count else _BATCH
        print(f"seed {number}: {examples} histories", flush=True)  # noqa: T201 - for a terminal
        _happen(number, examples)
        done, number = done + examples, number + 1
    print(f"{done} histories, each ended equal")  # noqa: T201


def _happen(number: int, examples: int) -> None:
    """Fresh servers a batch: what one leaves behind changes nothing for the next."""
    with (
        guarded_directory() as directory,
        running_servers(directory) as servers,
        new_world(*servers) as world,
    ):

        @seed(number)
        @settings(HISTORIES, max_examples=examples)
        @given(history=histories())
        def happen(history: History) -> None:
            world.happen(history)

        happen()


if __name__ == "__main__":
    main()
