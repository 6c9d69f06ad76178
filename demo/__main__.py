"""`python -m demo up|day|docs|down|clean`: the one place of the demo that ends the process."""

import argparse
import fcntl
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg2

from demo.state import make_state_directory, state_directory
from demo.story import COMMANDS
from extract_load.errors import ExtractLoadError


def main() -> int:
    """Runs one command and returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    parser.add_argument("command", choices=COMMANDS)
    name = parser.parse_args().command
    try:
        if name == "up":
            make_state_directory()
        with _alone(state_directory()):
            COMMANDS[name]()
    except KeyboardInterrupt:
        return 130
    except (ExtractLoadError, psycopg2.Error, OSError) as exc:
        if os.environ.get("DEMO_DEBUG"):
            raise
        error = _in_our_form(exc)
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Keeps a second demo command of the same checkout out while this one works."""
    if not directory.exists():
        yield  # nothing stands here that two could quarrel about
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as exc:
        raise ExtractLoadError(
            "another demo command is at work in this checkout",
            f'It holds "{directory}".',
            "Wait until it has ended.",
        ) from exc
    finally:
        os.close(descriptor)


def _in_our_form(exc: Exception) -> ExtractLoadError:
    if isinstance(exc, ExtractLoadError):
        return exc
    what = (
        "a database of the demo refused" if isinstance(exc, psycopg2.Error) else "could not go on"
    )
    return ExtractLoadError(
        what,
        str(exc).strip(),
        'DEMO_DEBUG=1 shows where. "make clean" and "make demo" begin again.',
    )


if __name__ == "__main__":
    sys.exit(main())
