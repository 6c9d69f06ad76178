"""`verify: checksum`: a publish that would not equal the snapshot publishes nothing."""

from typing import Any

import pytest

from tests.support.landing import land, land_one
from tests.support.servers import Database
from tests.support.tables import MODES, RAW, XMIN, create_items

EVERY_MODE = pytest.mark.parametrize("table", MODES.values(), ids=MODES)


@EVERY_MODE
def test_every_publish_is_proved(source: Database, target: Database, table: dict[str, Any]) -> None:
    create_items(source, 1_000)
    table = {**table, "verify": "checksum"}
    for _ in range(2):
        result = land_one(source, target, table)
        assert result.verified == "checksum"
        source.execute(
            "UPDATE public.items SET body = 'x', updated_at = now() WHERE id % 9 = 1;"
            "DELETE FROM public.items WHERE id % 100 = 5"
        )


def test_a_row_that_no_window_holds_fails_it_with_its_key(
    source: Database, target: Database
) -> None:
    """Counts agree; only the content tells that somebody changed the raw table."""
    create_items(source, 1_000)
    table = {**XMIN, "verify": "checksum"}
    land_one(source, target, table)
    target.execute(f"UPDATE {RAW} SET body = 'vandal' WHERE id = 77")
    source.execute("UPDATE public.items SET body = 'new' WHERE id = 1")

    (result,) = land(source, target, table).tables

    assert str(result.error) == (
        'error: verification of "public.items" on target "postgres_default" failed: '
        "rows 1 different\n"
        "detail: The source snapshot has 1000 rows, "
        f"{result.target} would have 1000 (deletes: hard). Different: 77. "
        "Nothing was published.\n"
        "hint: Run the table once with --full-refresh; if it happens again, please report it."
    )
    assert target.execute(f"SELECT body = 'new' FROM {RAW} WHERE id = 1") == [(False,)]
    assert land_one(source, target, {**table, "verify": "count"}).rows_updated == 1
    assert land_one(source, target, table, full_refresh=True).rows_updated == 1


def test_rows_kept_by_deletes_ignore_do_not_fail_it(source: Database, target: Database) -> None:
    create_items(source, 1_000)
    table = {**XMIN, "verify": "checksum", "deletes": "ignore"}
    land_one(source, target, table)
    source.execute("DELETE FROM public.items WHERE id < 10")

    assert land_one(source, target, table).verified == "checksum"
