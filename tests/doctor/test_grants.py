"""`doctor --grants`: what it prints is enough for every mode, and nothing of it is too much."""

from dataclasses import replace
from typing import Any

import pytest

from extract_load.doctor_report import grants_as_dict, grants_as_text
from extract_load.grants import Grants, grants_for
from extract_load.selection import resolve_all
from tests.support.doctor import codes, diagnose, new_role
from tests.support.landing import environment, land, settings
from tests.support.servers import Database

TABLE = '"Shop 1"."items ""new"""'
NAME = {"source": '"Shop 1"."items ""new"""', "target": 'raw_data."items ""new"""'}
ALL: dict[str, Any] = {**NAME, "sync_mode": "full_sync"}
BY_CURSOR = {**NAME, "sync_mode": "incremental_sync", "incremental_field": "updated_at"}
BY_XMIN = {**NAME, "sync_mode": "xmin_incremental"}
SOME = {"columns": ["Body"], "custom_where": "amount > 0 OR amount IS NULL"}
MODES = {
    "full": ALL,
    "cursor": {**BY_CURSOR, "deletes": "hard"},
    "late rows": {**BY_CURSOR, "deletes": "hard", "late_rows": "xmin"},
    "xmin": BY_XMIN,
}


@pytest.fixture
def items(source: Database) -> Database:
    source.execute(
        f'CREATE SCHEMA "Shop 1"; CREATE TABLE {TABLE} (id int PRIMARY KEY, "Body" text,'
        " amount int, secret text, updated_at timestamptz DEFAULT now());"
        f"INSERT INTO {TABLE} SELECT i, 'a', i FROM generate_series(1, 300) AS i;"
        f"CREATE INDEX ON {TABLE} (updated_at); ANALYZE {TABLE}"
    )
    return source


def grants(source: Database, target: Database, *tables: dict[str, Any]) -> tuple[Grants, ...]:
    chosen = settings(*tables)
    variables = environment(source, target)
    return grants_for(chosen.tables, resolve_all(chosen.tables, variables, None))


def parts(text: str) -> list[str]:
    """The SQL for each server, comments and all, as somebody would paste it."""
    return text.split("\n\n")


@pytest.mark.parametrize("chosen", [{}, SOME], ids=["all columns", "some columns"])
@pytest.mark.parametrize("mode", MODES)
def test_a_run_needs_these_grants(
    mode: str, chosen: dict[str, Any], items: Database, target: Database
) -> None:
    table = {**MODES[mode], **chosen, "batch_size": 50}
    reader, writer = new_role(items), new_role(target)
    on_source, on_target = parts(grants_as_text(grants(reader, writer, table)))
    assert "error" in dict(codes(diagnose(reader, writer, table)))

    items.execute(on_source)
    target.execute(on_target)

    told = [code for severity, code in codes(diagnose(reader, writer, table))]
    assert set(told) <= {"hidden_transactions"}
    for _ in range(2):
        (result,) = land(reader, writer, table).tables
        assert result.error is None, str(result.error)
        items.execute(f"UPDATE {TABLE} SET \"Body\" = 'b', updated_at = now() WHERE id < 20")
        items.execute(f"DELETE FROM {TABLE} WHERE id = 30")
    query = "SELECT count(*), count(*) FILTER (WHERE \"Body\" = 'b') FROM "
    assert target.execute(query + 'raw_data."items ""new"""') == [(299, 19)]


def test_what_is_printed(items: Database, target: Database) -> None:
    reader, writer = new_role(items), new_role(target)
    target.execute("CREATE SCHEMA raw_data")

    found = grants(reader, writer, {**BY_XMIN, **SOME})

    on_source, on_target = parts(grants_as_text(found))
    assert on_source.splitlines() == [
        f'-- on source "digitalocean_postgres", database "{items.name}", as its owner',
        f'GRANT CONNECT ON DATABASE "{items.name}" TO "{reader.user}";',
        f'GRANT USAGE ON SCHEMA "Shop 1" TO "{reader.user}";',
        f'GRANT SELECT ("id", "Body", "amount", "ctid", "xmin") ON {TABLE} TO "{reader.user}";',
    ]
    assert on_target.splitlines() == [
        f'-- on target "postgres_default", database "{target.name}", as its owner',
        f'GRANT CONNECT ON DATABASE "{target.name}" TO "{writer.user}";',
        f'GRANT CREATE ON DATABASE "{target.name}" TO "{writer.user}";',
        f'GRANT USAGE, CREATE ON SCHEMA "raw_data" TO "{writer.user}";',
        "-- CREATE on the database is for the schemas extract_load, extract_load_scratch: the "
        "first run makes them, and it may be revoked then",
    ]
    shown = grants_as_dict(found)["grants"]
    assert [(one["connection"], one["side"], one["role"]) for one in shown] == [
        ("digitalocean_postgres", "source", reader.user),
        ("postgres_default", "target", writer.user),
    ]
    assert shown[0]["statements"][1] == f'GRANT USAGE ON SCHEMA "Shop 1" TO "{reader.user}"'


def test_schemas_may_be_made_for_the_role(items: Database, target: Database) -> None:
    """Then it needs no right on the database."""
    for schema in ("raw_data", "extract_load", "extract_load_scratch"):
        target.execute(f"CREATE SCHEMA {schema}")
    writer = new_role(target)

    (_, on_target) = grants(items, writer, ALL)
    for statement in on_target.statements:
        target.execute(statement)

    assert not any("ON DATABASE" in s and "CREATE" in s for s in on_target.statements)
    (result,) = land(items, writer, ALL).tables
    assert result.error is None, str(result.error)


def test_a_second_role_over_the_ledger_of_the_first(items: Database, target: Database) -> None:
    assert land(items, target, BY_XMIN).failed == ()
    writer = new_role(target)

    (_, on_target) = grants(items, writer, BY_XMIN)
    for statement in on_target.statements:
        target.execute(statement)
    items.execute(f"UPDATE {TABLE} SET \"Body\" = 'c'")

    (result,) = land(items, writer, BY_XMIN).tables
    assert result.error is None, str(result.error)
    assert result.rows_updated == 300
    assert any("is another role's" in note for note in on_target.notes)


def test_partitions_views_and_row_security(source: Database, target: Database) -> None:
    source.execute(
        "CREATE SCHEMA parts;"
        "CREATE TABLE public.p (id int PRIMARY KEY, a text, b text) PARTITION BY RANGE (id);"
        "CREATE TABLE parts.p1 PARTITION OF public.p FOR VALUES FROM (0) TO (100);"
        "INSERT INTO public.p SELECT i, 'a', 'b' FROM generate_series(1, 50) AS i;"
        "CREATE TABLE public.r (id int PRIMARY KEY); "
        "ALTER TABLE public.r ENABLE ROW LEVEL SECURITY;"
        "INSERT INTO public.r VALUES (1);"
        "CREATE VIEW public.v AS SELECT * FROM public.p"
    )
    reader = new_role(source)
    tables: list[dict[str, Any]] = [
        {"source": "public.p", "columns": ["a"], "sync_mode": "xmin_incremental"},
        {"source": "public.r"},
        {"source": "public.v", "columns": ["a"], "primary_key": "id"},
    ]

    (on_source, _) = grants(reader, target, *tables)

    role = f'TO "{reader.user}"'
    assert on_source.statements[1:] == (
        f'GRANT USAGE ON SCHEMA "public" {role}',
        f'GRANT USAGE ON SCHEMA "parts" {role}',
        f'GRANT SELECT ("id", "a") ON "public"."p" {role}',
        f'GRANT SELECT ("id", "a", "ctid", "xmin") ON "parts"."p1" {role}',
        f'GRANT SELECT ON "public"."r" {role}',
        f'GRANT SELECT ("id", "a") ON "public"."v" {role}',
        f'ALTER ROLE "{reader.user}" BYPASSRLS',
    )
    for statement in on_source.statements:
        source.execute(statement)
    assert land(reader, target, *tables).failed == ()


def test_custom_where_may_call_functions_of_another_schema(
    source: Database, target: Database
) -> None:
    source.execute(
        "CREATE SCHEMA shop; CREATE TABLE shop.t (id int PRIMARY KEY, a text, b text);"
        "INSERT INTO shop.t VALUES (1, 'a', 'b'), (2, 'x', 'b');"
        "CREATE SCHEMA tools; CREATE FUNCTION tools.is_a(text) RETURNS bool IMMUTABLE LANGUAGE sql"
        " AS $$ SELECT $1 = 'a' $$"
    )
    reader = new_role(source)
    table = {"source": "shop.t", "exclude_columns": ["a", "b"], "custom_where": "is_a(t.a)"}
    table["search_path"] = "pg_catalog, tools"

    (on_source, _) = grants(reader, target, table)
    for statement in on_source.statements:
        source.execute(statement)

    assert f'GRANT USAGE ON SCHEMA "tools" TO "{reader.user}"' in on_source.statements
    assert f'GRANT SELECT ("id", "a", "ctid", "xmin") ON "shop"."t" TO "{reader.user}"' in (
        on_source.statements
    )
    (result,) = land(reader, target, table).tables
    assert (result.error, result.rows_inserted) == (None, 1)


def test_one_table_landed_twice_is_granted_once(items: Database, target: Database) -> None:
    first = {**ALL, "columns": ["Body"]}
    second = {**BY_XMIN, "columns": ["amount"], "target": "raw_data.second"}

    (on_source, _) = grants(items, target, first, second)

    assert on_source.statements[2:] == (
        f'GRANT SELECT ("id", "Body", "amount", "ctid", "xmin") ON {TABLE} TO "postgres"',
    )


def test_a_role_that_cannot_connect_yet(items: Database, target: Database) -> None:
    stranger = replace(items, user="to come")

    (on_source, _) = grants(stranger, target, {**BY_XMIN, **SOME})

    assert on_source.statements == (
        f'GRANT CONNECT ON DATABASE "{items.name}" TO "to come"',
        'GRANT USAGE ON SCHEMA "Shop 1" TO "to come"',
        f'GRANT SELECT ("Body", "amount", "ctid", "xmin") ON {TABLE} TO "to come"',
    )
    assert on_source.notes == (
        "the server could not be looked at, so this follows the settings alone: source "
        '"digitalocean_postgres" refused the connection',
        'the primary key of "Shop 1"."items ""new""" comes on top: ask when it can be read',
    )
