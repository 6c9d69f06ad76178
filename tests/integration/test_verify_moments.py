"""`verify` among runs and changes that leave no trace in a row: never a false alarm."""

from typing import Any

import pytest

from extract_load import verification
from extract_load.look import plan_in
from tests.integration.test_verify import EVERY_MODE, counts, verify
from tests.support.landing import land_one
from tests.support.servers import Database
from tests.support.tables import FULL, RAW, XMIN, create_items


@pytest.fixture
def items(source: Database) -> Database:
    create_items(source, 1_000)
    return source


@EVERY_MODE
def test_a_run_that_publishes_meanwhile_is_no_difference(
    items: Database, target: Database, table: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The target's rows and its watermark are of one moment, and older than the source's."""
    land_one(items, target, table)

    def slowly(*arguments: Any) -> Any:
        items.execute("UPDATE public.items SET body = 'later', updated_at = now() WHERE id < 9")
        land_one(items, target, table)
        return plan_in(*arguments)

    monkeypatch.setattr(verification, "plan_in", slowly)

    assert counts(verify(items, target, table)) == (0, 0, 0, 0)


def test_a_row_that_enters_custom_where_unwritten_is_pending(
    items: Database, target: Database
) -> None:
    items.execute(
        "CREATE TABLE public.wanted (id int); INSERT INTO public.wanted VALUES (1), (2), (3)"
    )
    table = {**FULL, "custom_where": "id IN (SELECT id FROM public.wanted)"}
    land_one(items, target, table)
    items.execute("DELETE FROM public.wanted WHERE id = 1; INSERT INTO public.wanted VALUES (4)")
    target.execute(f"UPDATE {RAW} SET body = 'x' WHERE id = 2")

    assert counts(verify(items, target, table)) == (0, 0, 1, 2)


@pytest.mark.parametrize(
    ("made", "type_", "value"),
    [
        ("", "regclass", "'public.other'"),
        ("CREATE DOMAIN public.place AS regclass;", "public.place", "'public.other'"),
        ("CREATE TYPE public.spot AS (at regclass);", "public.spot", "ROW('public.other')"),
        ("", "regclass[]", "'{public.other}'"),
    ],
)
def test_a_text_that_is_a_name_may_have_been_renamed(
    source: Database, target: Database, made: str, type_: str, value: str
) -> None:
    source.execute(
        f"CREATE TABLE public.other (a int); {made}"
        f"CREATE TABLE public.items (id int PRIMARY KEY, what {type_});"
        f"INSERT INTO public.items VALUES (1, {value})"
    )
    land_one(source, target, FULL)
    source.execute("ALTER TABLE public.other RENAME TO another")

    assert counts(verify(source, target, FULL)) == (0, 0, 0, 1)


def test_settling_proves_nothing_where_another_run_published_since(
    items: Database, target: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the lease was taken over just after the publish."""
    settled = verification._settled

    def taken_over(*arguments: Any) -> Any:
        target.execute(
            "UPDATE extract_load.watermarks SET loaded_at = loaded_at + interval '1 second';"
            f"UPDATE {RAW} SET body = 'of the other run' WHERE id = 7"
        )
        return settled(*arguments)

    monkeypatch.setattr(verification, "_settled", taken_over)

    assert counts(verify(items, target, XMIN, settle=True)) == (0, 0, 0, 1)
