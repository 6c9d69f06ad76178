"""Costs into ratios, a table and a chart; pure."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.stand import Cost, median_cost


@dataclass(frozen=True)
class Figures:
    """What the pairs of a case say."""

    name: str
    reference: str
    limit: float | None
    pairs: tuple[tuple[Cost, Cost], ...]

    @property
    def ratios(self) -> list[float]:
        """Returns ours / reference of each pair, in seconds."""
        return [ours.seconds / theirs.seconds for theirs, ours in self.pairs]

    @property
    def ratio(self) -> float:
        """Returns the median ratio."""
        return statistics.median(self.ratios)

    @property
    def theirs(self) -> Cost:
        """Returns the reference's median figures."""
        return median_cost([theirs for theirs, _ in self.pairs])

    @property
    def ours(self) -> Cost:
        """Returns our median figures."""
        return median_cost([ours for _, ours in self.pairs])

    def as_line(self) -> str:
        """Returns the case as a line for a terminal."""
        limit = f"  (to reach: {self.limit:.2f})" if self.limit is not None else ""
        return (
            f"{self.name:32} {self.theirs.seconds:8.2f} s  {self.ours.seconds:8.2f} s  "
            f"ratio {self.ratio:.2f} [{min(self.ratios):.2f} to {max(self.ratios):.2f}]{limit}"
        )


HEADS = (
    "case",
    "against",
    "reference s",
    "ours s",
    "ratio",
    "spread",
    "to reach",
    "peak MiB",
    "client CPU s",
    "servers' CPU s",
    "target WAL MB",
)


def as_markdown(found: Sequence[Figures]) -> str:
    """Returns all cases as a table; figures of both ways where they differ in kind."""
    rows = [HEADS, ("---",) * len(HEADS), *map(_row, found)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def _row(one: Figures) -> tuple[str, ...]:
    theirs, ours = one.theirs, one.ours
    return (
        one.name,
        one.reference.replace("|", r"\|"),  # a cell ends at a bare one
        f"{theirs.seconds:.2f}",
        f"{ours.seconds:.2f}",
        f"**{one.ratio:.2f}**",
        f"{min(one.ratios):.2f} to {max(one.ratios):.2f}",
        "" if one.limit is None else f"{one.limit:.2f}",
        f"{theirs.peak_mib:.0f} / {ours.peak_mib:.0f}",
        f"{theirs.client_cpu_seconds:.1f} / {ours.client_cpu_seconds:.1f}",
        f"{theirs.servers_cpu_seconds:.1f} / {ours.servers_cpu_seconds:.1f}",
        f"{theirs.target_wal_bytes / 1e6:.0f} / {ours.target_wal_bytes / 1e6:.0f}",
    )


def as_chart(found: Sequence[Figures]) -> str:
    """Returns the ratios as a chart in Mermaid, which shows in the page where it is read."""
    names = ", ".join(f'"{one.name}"' for one in found)
    ratios = ", ".join(f"{one.ratio:.2f}" for one in found)
    return (
        "```mermaid\nxychart-beta horizontal\n"
        '    title "seconds of ours / seconds of the reference"\n'
        f'    x-axis [{names}]\n    y-axis "ratio" 0 --> 2.5\n    bar [{ratios}]\n```\n'
    )
