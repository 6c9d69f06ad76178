"""Progress bars on a terminal; elsewhere the log tells."""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from extract_load.landing import LandingCounts, Progress

if TYPE_CHECKING:
    from rich.progress import TaskID

    from extract_load.planner import TablePlan


@contextmanager
def progress_bars(*, enabled: bool) -> Iterator[Progress]:
    """Yields what to tell after each chunk: one bar a table where stderr is a terminal."""
    if not enabled or not sys.stderr.isatty():
        yield lambda _plan, _counts: None
        return
    from rich import progress as bars  # noqa: PLC0415 - 60 ms that a cron job never needs
    from rich.console import Console  # noqa: PLC0415

    tasks: dict[str, TaskID] = {}
    lock = threading.Lock()
    columns = (
        bars.TextColumn("{task.description}"),
        bars.BarColumn(),
        bars.MofNCompleteColumn(),
        bars.TextColumn("{task.fields[rows]:,} rows"),
        bars.TimeElapsedColumn(),
    )
    with bars.Progress(*columns, console=Console(stderr=True), transient=True) as shown:

        def tell(plan: "TablePlan", counts: LandingCounts) -> None:
            name = plan.settings.target.written
            with lock:
                if name not in tasks:
                    tasks[name] = shown.add_task(
                        plan.settings.source.written, total=len(plan.chunks), rows=0
                    )
            shown.update(tasks[name], completed=counts.chunks, rows=counts.rows_read)

        yield tell
