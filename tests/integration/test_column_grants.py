"""Rights on columns: a run needs no more of its source than the columns it lands."""

from dataclasses import replace
from typing import Any

import pytest

from extract_load.errors import SourceError
from extract_load.selection import resolve_all
from extract_load.verification import Verification
from tests.support.landing import environment, land, land_one, settings
from tests.support.servers import Database
from tests.support.tables import FULL, INCREMENTAL, RAW, XMIN, change_items, create_items

CHOSEN: dict[str, Any] = {"columns": ["id", "body", "updated_at"]}


@pytest.fixture
def items(source: Database) -> Database:
    create_items(source, 500)
    return source


def reader(source: Database, *columns: str) -> Database:
    """The source as a role enters it that may read some columns of `public.items` alone."""
    role = f"columns_{source.name}"
    source.execute(
        f"CREATE ROLE {role} LOGIN PASSWORD 'r';"
        f"GRANT SELECT ({', '.join(columns)}) ON public.items TO {role}"
    )
    return replace(source, user=role, password="r")


@pytest.mark.parametrize("mode", [FULL, INCREMENTAL, XMIN], ids=lambda mode: mode["sync_mode"])
def test_rights_on_the_landed_columns_are_enough(
    mode: dict[str, Any], items: Database, target: Database
) -> None:
    few = reader(items, "id", "body", "updated_at", "ctid", "xmin")
    table = {**mode, **CHOSEN, "batch_size": 100}

    first = land_one(few, target, table)
    change_items(items)
    land_one(few, target, table)

    assert first.chunks > 1
    query = "SELECT id, body, updated_at::text FROM {} ORDER BY id"
    assert target.execute(query.format(RAW)) == items.execute(query.format("public.items"))
    assert target.execute(
        "SELECT count(*) FROM pg_attribute WHERE attrelid = %s::regclass AND attname = 'amount'",
        (RAW,),
    ) == [(0,)]


@pytest.mark.parametrize("system", [("ctid", "xmin"), ()], ids=["all", "no system columns"])
def test_verify_needs_no_more(system: tuple[str, ...], items: Database, target: Database) -> None:
    few = reader(items, "id", "body", "updated_at", *system)
    table = {**FULL, **CHOSEN}
    land_one(few, target, table)

    def verdict() -> str:
        chosen = settings(table)
        connections = resolve_all(chosen.tables, environment(few, target), None)
        (found,) = Verification(chosen, chosen.tables, connections).look().tables
        assert found.error is None, str(found.error)
        return str(found.status)

    assert verdict() == "equal"
    target.execute(f"UPDATE {RAW} SET body = 'wrong' WHERE id = 7")
    items.execute("UPDATE public.items SET body = 'later' WHERE id = 8")
    # Without xmin nobody can tell which of the rows changed since the publish.
    assert verdict() == ("different" if system else "pending")


def test_without_ctid_the_table_is_one_chunk(items: Database, target: Database) -> None:
    few = reader(items, "id", "body", "updated_at")

    first = land_one(few, target, {**FULL, **CHOSEN, "batch_size": 100})

    assert (first.chunks, first.rows_inserted) == (1, 500)


def test_a_column_masked_with_null_is_not_read(items: Database, target: Database) -> None:
    few = reader(items, "id", "body", "updated_at", "ctid")

    land_one(few, target, {**FULL, "mask": {"amount": None}})

    assert target.execute(f"SELECT count(*), count(amount) FROM {RAW}") == [(500, 0)]


REFUSED = [
    (FULL, ("id", "ctid", "amount", "updated_at"), "body"),
    ({**FULL, **CHOSEN}, ("body", "ctid", "updated_at"), "id"),
    ({**INCREMENTAL, "columns": ["body"]}, ("id", "body", "ctid"), "updated_at"),
    ({**XMIN, **CHOSEN}, ("id", "body", "updated_at", "ctid"), "xmin"),
    ({**INCREMENTAL, **CHOSEN, "late_rows": "xmin"}, ("id", "body", "updated_at"), "xmin"),
]


@pytest.mark.parametrize(
    ("table", "granted", "missing"),
    REFUSED,
    ids=["a landed column", "the key", "the cursor", "xmin", "xmin of late rows"],
)
def test_what_a_run_needs_is_named_when_it_is_not_granted(
    table: dict[str, Any],
    granted: tuple[str, ...],
    missing: str,
    items: Database,
    target: Database,
) -> None:
    few = reader(items, *granted)

    (result,) = land(few, target, table).tables

    error = result.error
    assert isinstance(error, SourceError)
    assert error.primary == 'the role may not read "public.items" in source "digitalocean_postgres"'
    assert error.detail == f"SELECT is missing on: {missing}."
    grant = f'GRANT SELECT ("{missing}") ON "public"."items" TO "{few.user}"'
    assert error.hint.startswith(f"Run on the source: {grant}")
