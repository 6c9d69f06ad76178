"""The page of figures: a new run puts its own rows in the place of the old ones."""

import pytest

from benchmarks.figures import (
    HEADS,
    Figures,
    as_chart,
    as_markdown,
    as_rows,
    figures_in,
    rows_in,
    with_figures,
)
from benchmarks.stand import Cost


def figures(name: str, ratio: float, limit: float | None = 1.0) -> Figures:
    def cost(seconds: float) -> Cost:
        return Cost(seconds, 0.5, 66, 4.1, 295_000_000)

    pairs = tuple((cost(10.0), cost(10.0 * ratio * wander)) for wander in (0.9, 1.0, 1.3))
    return Figures(name, "psql | psql", limit, pairs)


def test_a_page_is_read_as_it_was_written() -> None:
    rows = as_rows([figures("first load, users", 0.8), figures("small tables", 300, None)], "today")

    page = as_markdown(rows)

    assert rows_in(page) == rows
    assert page.splitlines()[0].count("|") == len(HEADS) + 1


def test_the_ratio_is_the_median_of_the_pairs() -> None:
    ((row,),) = (as_rows([figures("users", 0.8)], "today").values(),)

    assert "| **0.80** | 0.72 to 1.04 | 1.00 |" in row
    assert row.endswith("| today |")


def test_a_newer_row_takes_its_place() -> None:
    old = rows_in(as_markdown(as_rows([figures("a", 0.5), figures("b", 0.6)], "before")))
    new = as_rows([figures("b", 0.7)], "today")

    known = old | new

    assert list(known) == ["a", "b"]
    assert "**0.70**" in known["b"]
    assert "before" in known["a"]


def test_the_chart_has_what_is_to_be_reached() -> None:
    rows = as_rows([figures("first load", 0.8), figures("small tables", 300, None)], "today")

    chart = as_chart(rows)

    assert 'x-axis ["first load"]' in chart
    assert "bar [0.80]" in chart


def test_the_longest_bar_has_room() -> None:
    rows = as_rows([figures("every row", 2.8, 2.5), figures("idle", 0.1)], "today")

    assert '"ratio" 0 --> 3\n' in as_chart(rows)


PAGE = """Before.
<!-- begin of figures, PostgreSQL 18 -->
old
<!-- end of figures, PostgreSQL 18 -->
<!-- begin of figures, PostgreSQL 15 -->
<!-- end of figures, PostgreSQL 15 -->
"""


def test_each_version_of_the_servers_has_its_own_figures() -> None:
    page = with_figures(PAGE, 15, "new\n")

    assert figures_in(page, 15) == "new\n"
    assert figures_in(page, 18) == "old\n"
    assert page == PAGE.replace("15 -->\n<!--", "15 -->\nnew\n<!--")


def test_a_page_without_a_place_for_a_version_is_told() -> None:
    with pytest.raises(LookupError, match='no "<!-- begin of figures, PostgreSQL 14 -->"; write'):
        with_figures(PAGE, 14, "new\n")
