"""What a run did: the values, their JSON, and the table for a terminal."""

import resource
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from extract_load.errors import ExtractLoadError

Place = tuple[str, str, str]
"""A table: its source, its raw table, and the connection id of its target."""


@dataclass(frozen=True)
class TableResult:
    """How one table fared on one target. Rows are counts, seconds are wall clock."""

    source: str
    target: str
    target_connection: str
    sync_mode: str
    status: str
    """done, failed or skipped."""
    baseline: bool | None = None
    window_low: str | None = None
    window_high: str | None = None
    rows_read: int = 0
    rows_inserted: int = 0
    rows_updated: int = 0
    rows_deleted: int = 0
    rows_unchanged: int = 0
    rows_late: int = 0
    bytes_read: int = 0
    chunks: int = 0
    chunks_resumed: int = 0
    retries: int = 0
    seconds: float = 0.0
    verified: str = "off"
    published_at: str | None = None
    error: ExtractLoadError | None = None

    @property
    def rows_per_second(self) -> float:
        """Rows read in a second of wall clock."""
        return round(self.rows_read / self.seconds, 1) if self.seconds else 0.0

    def as_dict(self) -> dict[str, Any]:
        """Returns the table's part of the JSON of `run`."""
        return {
            "source": self.source,
            "target": self.target,
            "target_connection": self.target_connection,
            "sync_mode": self.sync_mode,
            "status": self.status,
            "baseline": bool(self.baseline),
            "window": {"low": self.window_low, "high": self.window_high},
            "rows_read": self.rows_read,
            "rows_inserted": self.rows_inserted,
            "rows_updated": self.rows_updated,
            "rows_deleted": self.rows_deleted,
            "rows_unchanged": self.rows_unchanged,
            "rows_late": self.rows_late,
            "bytes_read": self.bytes_read,
            "chunks": self.chunks,
            "chunks_resumed": self.chunks_resumed,
            "retries": self.retries,
            "seconds": round(self.seconds, 3),
            "rows_per_second": self.rows_per_second,
            "verified": self.verified,
            "error": self.error.as_dict() if self.error else None,
        }


@dataclass(frozen=True)
class RunReport:
    """How a run fared."""

    run_id: str
    started_at: str
    finished_at: str
    seconds: float
    peak_rss_bytes: int
    tables: tuple[TableResult, ...]

    @property
    def status(self) -> str:
        """`failed` when any table failed, else `done`."""
        return "failed" if self.failed else "done"

    @property
    def failed(self) -> tuple[TableResult, ...]:
        """The tables that failed."""
        return tuple(table for table in self.tables if table.status == "failed")

    def as_dict(self) -> dict[str, Any]:
        """Returns the JSON of `run`."""
        return {
            "run_id": self.run_id,
            "status": self.status,
            "started_at": self.started_at,
            "finished_at": self.finished_at,
            "seconds": round(self.seconds, 3),
            "peak_rss_mb": round(self.peak_rss_bytes / (1 << 20), 1),
            "error": None,
            "tables": [table.as_dict() for table in self.tables],
        }

    def as_text(self, width: int | None = None) -> str:
        """Returns the closing table of a run, and every error below it."""
        places = [(one.source, one.target, one.target_connection) for one in self.tables]
        counts = ("rows_read", "rows_inserted", "rows_updated", "rows_deleted", "rows_unchanged")
        heads = ["table", "target", "mode", "read", "inserted", "updated", "deleted", "unchanged"]
        table = text_table(
            [*heads, "bytes", "seconds", "rows/s", "status"],
            (
                [
                    name,
                    result.target_connection,
                    result.sync_mode,
                    *(f"{getattr(result, name):,}" for name in counts),
                    bytes_text(result.bytes_read),
                    f"{result.seconds:.2f}",
                    f"{result.rows_per_second:,.0f}",
                    result.status,
                ]
                for name, result in zip(table_names(places), self.tables, strict=True)
            ),
            right_from=3,
            width=width,
        )
        names = table_names(places, say_target=True)
        errors = errors_text(
            (name, result.error)
            for name, result in zip(names, self.tables, strict=True)
            if result.error
        )
        return f"{self._headline()}\n\n{table}{errors}\n{self._bottom_line()}"

    def _headline(self) -> str:
        targets = {table.target_connection for table in self.tables}
        started = self.started_at[:16].replace("T", " ")
        return (
            f"run {self.run_id} · {started} UTC · {_plural(len(self.tables), 'table')}"
            f" · {_plural(len(targets), 'target')}"
        )

    def _bottom_line(self) -> str:
        rows = sum(table.rows_read for table in self.tables)
        sent = sum(table.bytes_read for table in self.tables)
        tail = f" · {len(self.failed)} of {len(self.tables)} failed" if self.failed else ""
        return (
            f"wall clock {self.seconds:.1f} s · {_plural(rows, 'row')} read"
            f" · {bytes_text(sent)} · peak memory {bytes_text(self.peak_rss_bytes)}{tail}"
        )


def table_names(places: Sequence[Place], *, say_target: bool = False) -> list[str]:
    """Returns what tables are called: by their source, and by what tells them apart.

    Args:
        places: The tables, all that are shown together.
        say_target: Whether to name the target where the same source goes to several; a table
            with a column for it need not.

    Example:
        >>> table_names([("public.a", "raw.a", "one"), ("public.a", "raw.b", "one")])
        ['public.a as a', 'public.a as b']
    """
    in_target = Counter((source, conn_id) for source, _, conn_id in places)
    targets = Counter(source for source, _ in in_target)
    return [
        source
        + (f" as {target.partition('.')[2]}" if in_target[source, conn_id] > 1 else "")
        + (f" in {conn_id}" if say_target and targets[source] > 1 else "")
        for source, target, conn_id in places
    ]


def errors_text(found: Iterable[tuple[str, ExtractLoadError]]) -> str:
    """Returns each error once, a paragraph each, with the tables it is about.

    Args:
        found: What a table is called, and its error. A server that is down fails all of its
            tables in the same words.
    """
    about: dict[str, list[str]] = {}
    for name, error in found:
        about.setdefault(str(error), []).append(name)
    return "".join(
        f"\n{error}\n" + ("" if len(names) == 1 and f'"{names[0]}"' in error else _about(names))
        for error, names in about.items()
    )


def _about(names: list[str]) -> str:
    return f"table{'' if len(names) == 1 else 's'}: {', '.join(names)}\n"


def text_table(
    heads: list[str],
    rows: Iterable[list[str]],
    *,
    right_from: int = 99,
    width: int | None = None,
    wrap_last: bool = False,
) -> str:
    """Returns an aligned table as text; Korean counts as wide.

    Args:
        heads: Column heads.
        rows: Cells as text.
        right_from: Columns from this one on are aligned right, but for the last.
        width: Characters a line may have; None allows 200.
        wrap_last: Whether the last column holds sentences, which are wrapped where lines are too
            long; else every column is cut alike.
    """
    from rich.console import Console  # noqa: PLC0415 - 50 ms that `--output json` never needs
    from rich.table import Table  # noqa: PLC0415

    table = Table(box=None, pad_edge=False, header_style="")
    for number, head in enumerate(heads):
        to_right = right_from <= number < len(heads) - 1
        wraps = wrap_last and number == len(heads) - 1
        table.add_column(head, justify="right" if to_right else "left", no_wrap=not wraps)
    for row in rows:
        table.add_row(*(_plain(cell) for cell in row))
    stream = StringIO()
    Console(file=stream, width=width or 200, highlight=False, markup=False).print(table)
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines()) + "\n"


def bytes_text(count: int) -> str:
    """Returns bytes for people.

    Example:
        >>> bytes_text(512), bytes_text(22_000_000)
        ('512 B', '22.0 MB')
    """
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def peak_rss_bytes() -> int:
    """Returns the most memory this process held.

    Linux's VmHWM starts anew with each program; getrusage would report what a forking parent
    held before it.
    """
    status = Path("/proc/self/status")
    scale = 1 if sys.platform == "darwin" else 1024
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


def _plain(cell: str) -> str:
    """A cell without what would end its line."""
    return " ".join(cell.split())


def _plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
