"""The documentation leads only to what is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("docs", "dags", "dbt_project", "demo", "tests", "benchmarks")
PAGES = sorted([*ROOT.glob("*.md"), *(p for name in FOLDERS for p in (ROOT / name).rglob("*.md"))])
_LINK = re.compile(r"\[[^\]]*\]\((?P<path>[^)\s]+)\)")
_CODE = re.compile(r"^ *```.*?^ *```", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_leads_to_files_that_are_there(page: Path) -> None:
    found = _LINK.findall(_CODE.sub("", page.read_text(encoding="utf-8")))
    paths = [link.partition("#")[0] for link in found if not re.match(r"https?:|#", link)]
    assert [path for path in paths if not (page.parent / path).exists()] == []


def test_every_page_for_people_is_led_to_from_another() -> None:
    """What nobody is led to is read by nobody."""
    led_to = {
        (page.parent / link.partition("#")[0]).resolve()
        for page in PAGES
        for link in _LINK.findall(page.read_text(encoding="utf-8"))
    }
    pages = [page for page in (ROOT / "docs").rglob("*.md") if page.parent.name != "decisions"]
    assert pages
    assert [page for page in pages if page.resolve() not in led_to] == []
