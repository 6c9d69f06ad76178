"""Progress: bars on a terminal, lines in a log."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from math import inf
from typing import TYPE_CHECKING

from extract_load import log
from extract_load.chunk_loading import LandingCounts, Progress
from extract_load.report import peak_rss_bytes

if TYPE_CHECKING:
    from rich.progress import TaskID

    from extract_load.table_plan import TablePlan


logger = log.get_logger(__name__)


def progress_lines(every_seconds: float = 5.0) -> Progress:
    """Returns what to tell after each chunk: it logs a line a table now and then.

    The first chunk of several is told at once, the last one always, and between them one line in
    so many seconds. A table of one chunk has nothing between "planned" and "published".

    Args:
        every_seconds: At most one line a table in this time.
    """
    told: dict[tuple[str, str], float] = {}
    lock = threading.Lock()

    def tell(plan: "TablePlan", counts: LandingCounts) -> None:
        now, loaded, planned = time.monotonic(), counts.chunks, counts.chunks_planned
        name = _name(plan)
        with lock:
            last = told.get(name, -inf)
            is_soon = now < last + every_seconds and loaded < planned
            if planned == 1 or is_soon or last == inf:
                return
            told[name] = now if loaded < planned else inf
        logger.info(
            "loading",
            extra={
                "chunk": f"{loaded}/{planned}",
                "rows": counts.rows_read,
                "rows_per_second": round(counts.rows_read / max(now - counts.loading_since, 1e-3)),
                "peak_mib": peak_rss_bytes() >> 20,
            },
        )

    return tell


@contextmanager
def progress_bars(*, enabled: bool) -> Iterator[Progress]:
    """Yields what to tell after each chunk: one bar a table on a terminal, lines elsewhere."""
    if not enabled or not sys.stderr.isatty():
        yield progress_lines()
        return
    from rich import progress as bars  # noqa: PLC0415 - 60 ms that a cron job never needs
    from rich.console import Console  # noqa: PLC0415

    tasks: dict[tuple[str, str], TaskID] = {}
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
            name = _name(plan)
            with lock:
                if name not in tasks:
                    tasks[name] = shown.add_task(
                        plan.settings.source.written, total=counts.chunks_planned, rows=0
                    )
            shown.update(
                tasks[name],
                total=counts.chunks_planned,
                completed=counts.chunks,
                rows=counts.rows_read,
            )

        yield tell


def _name(plan: "TablePlan") -> tuple[str, str]:
    """One table on one target."""
    return plan.settings.target_connection, plan.settings.target.written
