"""Costs into ratios, a table and a chart; pure."""

import math
import re
import statistics
from collections.abc import Mapping, Sequence
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
    "measured",
)
_ROW = re.compile(
    r"^\| (?P<name>[^|]+) \|.*\*\*(?P<ratio>[\d.]+)\*\* \| [^|]+ \| (?P<limit>[\d.]*) \|.*\|$",
    re.MULTILINE,
)


def as_markdown(rows: Mapping[str, str]) -> str:
    """Returns rows of cases, in their order, as a table."""
    return "\n".join([_line(HEADS), _line(["---"] * len(HEADS)), *rows.values()]) + "\n"


def as_rows(found: Sequence[Figures], measured: str) -> dict[str, str]:
    """Returns each case's row by its name; two figures where both ways' differ in kind.

    Args:
        found: The cases.
        measured: When, and with how much.
    """
    return {one.name: _line((*_cells(one), measured)) for one in found}


def rows_in(text: str) -> dict[str, str]:
    """Returns the rows that stand in a page by their case's name."""
    return {match["name"]: match[0] for match in _ROW.finditer(text)}


def figures_in(page: str, major: int) -> str:
    """Returns the part of a page that holds the figures of servers of a major version.

    Raises:
        LookupError: If the page has none.
    """
    return _part(page, major)[2]


def with_figures(page: str, major: int, text: str) -> str:
    """Returns a page with other figures of servers of a major version.

    Raises:
        LookupError: If the page has no place for them.
    """
    part = _part(page, major)
    return f"{page[: part.start(2)]}{text}{page[part.end(2) :]}"


def _part(page: str, major: int) -> re.Match[str]:
    begin, end = (f"<!-- {at} of figures, PostgreSQL {major} -->" for at in ("begin", "end"))
    if part := re.search(rf"({begin}\n)(.*?){end}", page, re.DOTALL):
        return part
    raise LookupError(f'the page has no "{begin}"; write it and "{end}" where they belong')


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cells(one: Figures) -> tuple[str, ...]:
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


def as_chart(rows: Mapping[str, str]) -> str:
    """Returns the ratios that have a limit as a chart in Mermaid, which the page shows."""
    found = [match for match in map(_ROW.match, rows.values()) if match and match["limit"]]
    names = ", ".join(f'"{match["name"]}"' for match in found)
    ratios = ", ".join(match["ratio"] for match in found)
    top = math.ceil(max((float(match["ratio"]) for match in found), default=1.0))
    return (
        "```mermaid\nxychart-beta horizontal\n"
        '    title "seconds of ours / seconds of the reference"\n'
        f'    x-axis [{names}]\n    y-axis "ratio" 0 --> {top}\n    bar [{ratios}]\n```\n'
    )
