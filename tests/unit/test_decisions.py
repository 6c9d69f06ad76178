"""Decision records: one number each, and what each must say."""

import re
from collections import Counter
from pathlib import Path

RECORDS = sorted((Path(__file__).parents[2] / "docs" / "decisions").glob("*.md"))


def test_no_number_is_given_twice() -> None:
    numbers = Counter(path.name[:4] for path in RECORDS)
    assert [number for number, count in numbers.items() if count > 1] == []


def test_each_says_what_was_chosen_and_which_test_holds_it() -> None:
    assert RECORDS
    for path in RECORDS:
        text = path.read_text(encoding="utf-8")
        assert "Chosen: " in text, path
        for test in re.findall(r"`(tests/[\w/]+\.py)", text.partition("**Checked by**")[2]):
            assert (path.parents[2] / test).is_file(), f"{path}: {test}"
        assert "tests/" in text.partition("**Checked by**")[2], path
