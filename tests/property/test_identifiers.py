"""Any name PostgreSQL can hold survives the settings."""

from hypothesis import given
from hypothesis import strategies as st

from extract_load.identifiers import parse_table_name, quoted

NAMES = st.text(
    st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), min_size=1, max_size=63
).filter(lambda name: len(name.encode()) <= 63)


@given(schema=NAMES, table=NAMES)
def test_a_written_name_is_read_back(schema: str, table: str) -> None:
    written = f"{quoted(schema)}.{quoted(table)}"

    name = parse_table_name(written)

    assert name.parts == (schema, table)
    assert name.written == written
