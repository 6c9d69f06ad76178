"""How a table is called in messages."""

import pytest

from extract_load.identifiers import parse_table_name


@pytest.mark.parametrize(
    ("written", "said"),
    [("public.users", '"public.users"'), ('public."my users"', 'public."my users"')],
)
def test_a_name_in_a_sentence_is_quoted_once(written: str, said: str) -> None:
    """What a reader copies from a message is what a settings file and SQL take."""
    assert parse_table_name(written).said == said
