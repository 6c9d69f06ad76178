"""`doctor` about tables: rights, row security, keys, cursors, kinds and types."""

import re
from dataclasses import replace
from typing import Any

import pytest
from psycopg2 import sql

from extract_load.findings import Code, Finding, Severity
from tests.support.doctor import ITEMS, assert_found, codes, diagnose, new_role
from tests.support.landing import TARGET_ID, land_one
from tests.support.servers import Database
from tests.support.tables import INCREMENTAL, XMIN, create_items

READ = "GRANT SELECT ON public.items TO {role}"


@pytest.fixture
def items(source: Database) -> Database:
    create_items(source, 100)
    return source


def assert_about_items(finding: Finding) -> None:
    assert finding.connection == "digitalocean_postgres"
    assert (finding.table, finding.target) == (
        "public.items",
        'raw_data."digitalocean_items"',
    )


# ---------------------------------------------------------------- the source


def test_usage_is_missing(source: Database, target: Database) -> None:
    source.execute('CREATE SCHEMA "Shop 1"; CREATE TABLE "Shop 1".items (id int PRIMARY KEY)')
    role = new_role(source, grants='GRANT SELECT ON "Shop 1".items TO {role}')

    found = diagnose(role, target, {"source": '"Shop 1".items'})

    assert_found(
        found,
        Severity.ERROR,
        Code.NO_USAGE,
        'the role may not enter schema "Shop 1"',
        "USAGE on it is missing",
        remedy=f'GRANT USAGE ON SCHEMA "Shop 1" TO "{role.user}"',
    )
    assert len(found.findings) == 1


def test_select_is_missing_on_one_column(items: Database, target: Database) -> None:
    role = new_role(
        items, grants="GRANT SELECT (id, body, updated_at, ctid) ON public.items TO {role}"
    )

    found = diagnose(role, target)

    finding = assert_found(
        found,
        Severity.ERROR,
        Code.NO_SELECT,
        'the role may not read amount of "public.items"',
        "SELECT is missing on: amount.",
        remedy=f'GRANT SELECT ("amount") ON "public"."items" TO "{role.user}"',
    )
    assert_about_items(finding)
    assert codes(diagnose(role, target, {**ITEMS, "exclude_columns": ["amount"]})) == []


def test_row_security(items: Database, target: Database) -> None:
    items.execute(
        "ALTER TABLE public.items ENABLE ROW LEVEL SECURITY;"
        "CREATE POLICY few ON public.items USING (id < 10)"
    )
    role = new_role(items, grants=READ)

    finding = assert_found(
        diagnose(role, target),
        Severity.ERROR,
        Code.ROW_SECURITY,
        'row security hides rows of "public.items" from the role',
        "Policies apply to public.items",
        remedy=f'ALTER ROLE "{role.user}" BYPASSRLS',
    )
    assert_about_items(finding)
    assert codes(diagnose(items, target)) == []


def test_a_table_that_is_not_there_hides_no_other(items: Database, target: Database) -> None:
    absent = {"source": "public.Items"}
    twice = {"source": "public.items", "primary_key": "body", "target": "raw_data.by_body"}

    found = diagnose(items, target, absent, twice)

    assert_found(
        found,
        Severity.ERROR,
        Code.NO_SUCH_TABLE,
        'there is no table "public.Items"',
        'Did you mean "public.items"?',
        remedy="case is never folded",
    )
    assert ("note", "key_not_proved") in codes(found)


@pytest.mark.parametrize(
    ("written", "near"),
    [
        ("public.item", '"public.items"'),
        ("public.Items", '"public.items"'),
        ("sales.items", '"public.items"'),
        ("sales.order", '"sales.Order"'),
        ("public.nothing_like_it", None),
        ("secret.hidden", None),
    ],
)
def test_a_table_of_almost_that_name_is_told(
    items: Database, target: Database, written: str, near: str | None
) -> None:
    items.execute(
        'CREATE SCHEMA sales; CREATE SCHEMA secret; CREATE TABLE sales."Order" (a int);'
        "CREATE TABLE secret.hiddens (a int)"
    )
    role = new_role(items, grants="GRANT USAGE ON SCHEMA sales TO {role}")

    found = diagnose(role, target, {"source": written, "target": "raw_data.absent"})

    [finding] = [finding for finding in found.findings if finding.code is Code.NO_SUCH_TABLE]
    assert re.findall(r"Did you mean (.*)\?", finding.detail) == ([near] if near else [])


@pytest.mark.parametrize(
    ("ddl", "fact"),
    [
        ("INSERT INTO public.t VALUES (1, 'a'), (1, 'b')", "(1, b) stands twice."),
        ("INSERT INTO public.t VALUES (NULL, 'b')", "A column of it is NULL in some rows."),
    ],
    ids=["twice", "null"],
)
def test_a_declared_key_that_is_none(
    ddl: str, fact: str, source: Database, target: Database
) -> None:
    source.execute("CREATE TABLE public.t (a int, b text)")
    source.execute(ddl)
    source.execute("INSERT INTO public.t VALUES (1, 'b')")

    assert_found(
        diagnose(source, target, {"source": "public.t", "primary_key": ["a", "b"]}),
        Severity.ERROR,
        Code.KEY_NOT_UNIQUE,
        'the key (a, b) does not name the rows of "public.t"',
        fact,
        remedy='Name other columns with "primary_key"',
    )


def test_only_rows_that_are_landed_count_for_the_key(source: Database, target: Database) -> None:
    source.execute(
        "CREATE TABLE public.t (a int NOT NULL, old bool);"
        "INSERT INTO public.t VALUES (1, true), (1, false)"
    )
    table = {"source": "public.t", "primary_key": "a", "custom_where": "NOT old"}

    assert_found(
        diagnose(source, target, table),
        Severity.NOTE,
        Code.KEY_NOT_PROVED,
        'no unique index proves the key (a) of "public.t"',
        "It names every row now; nothing keeps it so.",
        remedy='CREATE UNIQUE INDEX CONCURRENTLY ON "public"."t" ("a")',
    )


def test_remedies_are_possible(items: Database, target: Database) -> None:
    """No index proves anything of a view, and a partitioned table's is built in one piece."""
    items.execute(
        "CREATE VIEW public.v AS SELECT * FROM public.items;"
        "CREATE TABLE public.p (id int NOT NULL, at date) PARTITION BY RANGE (id);"
        "CREATE TABLE public.p1 PARTITION OF public.p DEFAULT"
    )
    by_cursor = {"sync_mode": "incremental_sync", "incremental_field": "at", "primary_key": "id"}

    view = diagnose(items, target, {"source": "public.v", "primary_key": "id"})
    partitioned = diagnose(items, target, {"source": "public.p", **by_cursor})

    assert_found(
        view,
        Severity.NOTE,
        Code.KEY_NOT_PROVED,
        'the key (id) of "public.v"',
        remedy="Nothing can prove it of a view; land the tables behind it.",
    )
    statements = [
        finding.remedy.partition(": ")[2].partition(";")[0] for finding in partitioned.findings
    ]
    assert statements == [
        'CREATE INDEX ON "public"."p" ("at")',
        'CREATE UNIQUE INDEX ON "public"."p" ("id")',
    ]
    for statement in statements:
        items.execute(statement)
    assert codes(diagnose(items, target, {"source": "public.p", **by_cursor})) == []


def test_no_time_to_look_at_all_keys(
    source: Database, target: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    source.execute(
        "CREATE TABLE public.t (a int NOT NULL);"
        "INSERT INTO public.t SELECT generate_series(1, 300000)"
    )
    monkeypatch.setattr("extract_load.key_check.LIMITS", {"statement_timeout": "1ms"})

    assert_found(
        diagnose(source, target, {"source": "public.t", "primary_key": "a"}),
        Severity.WARNING,
        Code.KEY_NOT_PROVED,
        "no unique index proves the key (a)",
        "There was no time to look at all rows",
        remedy="CREATE UNIQUE INDEX CONCURRENTLY",
    )


def test_a_cursor_without_an_index(items: Database, target: Database) -> None:
    finding = assert_found(
        diagnose(items, target, INCREMENTAL),
        Severity.WARNING,
        Code.CURSOR_NOT_INDEXED,
        'no index serves cursor "updated_at"',
        '"public.items" has about 100 rows',
        remedy='CREATE INDEX CONCURRENTLY ON "public"."items" ("updated_at")',
    )
    assert_about_items(finding)

    items.execute("CREATE INDEX ON public.items (updated_at)")
    assert codes(diagnose(items, target, INCREMENTAL)) == []


def test_a_text_cursor_needs_its_index_in_byte_order(source: Database, target: Database) -> None:
    source.execute(
        'CREATE TABLE public.t (a int PRIMARY KEY, c text COLLATE "POSIX");'
        "CREATE INDEX ON public.t (c)"
    )
    by_text = {"sync_mode": "incremental_sync", "incremental_field": "c"}

    assert_found(
        diagnose(source, target, {"source": "public.t", **by_text}),
        Severity.WARNING,
        Code.CURSOR_NOT_INDEXED,
        'no index serves cursor "c"',
        'not under COLLATE "C"',
        remedy='ON "public"."t" ("c" COLLATE "C")',
    )


@pytest.mark.parametrize(
    ("mode", "remedy"),
    [
        (XMIN, 'Set "sync_mode" to full_sync, or to incremental_sync'),
        ({**INCREMENTAL, "late_rows": "xmin"}, 'Set "late_rows" to lookback'),
    ],
    ids=["xmin_incremental", "late rows"],
)
def test_a_view_in_a_mode_that_reads_by_xmin(
    mode: dict[str, Any], remedy: str, items: Database, target: Database
) -> None:
    items.execute("CREATE VIEW public.v AS SELECT * FROM public.items")

    assert_found(
        diagnose(items, target, {**mode, "source": "public.v", "primary_key": "id"}),
        Severity.ERROR,
        Code.NO_XMIN,
        '"public.v" cannot be read by xmin: "public.v" is a view',
        remedy=remedy,
    )


def test_an_extension_is_missing(source: Database, target: Database) -> None:
    source.execute(
        "CREATE EXTENSION vector; CREATE DOMAIN place AS vector(2);"
        "CREATE TABLE public.t (a int PRIMARY KEY, b vector(3), c place, d vector[], e vector)"
    )
    table = {"source": "public.t", "exclude_columns": ["e"]}

    assert_found(
        diagnose(source, target, table),
        Severity.WARNING,
        Code.EXTENSION_MISSING,
        'the target has no extension "vector": b, c, d of "public.t" land as text',
        remedy='Run on the target: CREATE EXTENSION "vector"',
    )

    target.execute("CREATE EXTENSION vector")
    assert codes(diagnose(source, target, table)) == []


def test_what_the_plan_refuses_is_a_finding(items: Database, target: Database) -> None:
    target.execute("CREATE SCHEMA raw_data; CREATE TABLE raw_data.digitalocean_items (id int)")
    wrong = {"source": "public.items", "columns": ["nothing"], "target": "raw_data.wrong"}

    found = diagnose(items, target, ITEMS, wrong)

    assert codes(found) == [("error", "cannot_be_planned")] * 2
    somebody, no_column = found.findings
    assert (somebody.connection, no_column.connection) == (TARGET_ID, "digitalocean_postgres")
    assert "is somebody else's" in somebody.what
    assert 'write "adopt: true"' in somebody.remedy
    assert no_column.what == '"public.items" has no column "nothing"'


# ---------------------------------------------------------------- the target


def test_a_missing_schema_and_no_right_to_create_it(items: Database, target: Database) -> None:
    role = new_role(target)

    found = diagnose(items, role)

    finding = assert_found(
        found,
        Severity.ERROR,
        Code.NO_CREATE_ON_DATABASE,
        'schemas "extract_load", "extract_load_scratch", "raw_data" are missing',
        "has no CREATE on the database",
        remedy=f'GRANT CREATE ON DATABASE "{target.name}" TO "{role.user}"',
    )
    assert finding.connection == TARGET_ID
    assert len(found.findings) == 1

    owned = [f"CREATE SCHEMA {name} AUTHORIZATION {role.user}" for name in SCHEMAS]
    target.execute(";".join(owned))
    assert codes(diagnose(items, role)) == []


SCHEMAS = ("extract_load", "extract_load_scratch", "raw_data")


def test_no_right_to_create_in_a_schema(items: Database, target: Database) -> None:
    role = new_role(target, grants=f"GRANT CREATE ON DATABASE {target.name} TO {{role}}")
    target.execute(f"CREATE SCHEMA raw_data; GRANT USAGE ON SCHEMA raw_data TO {role.user}")

    found = diagnose(items, role)

    assert_found(
        found,
        Severity.ERROR,
        Code.NO_CREATE_IN_SCHEMA,
        'the role may not work in schema "raw_data"',
        "lacks CREATE on it",
        remedy=f'GRANT CREATE ON SCHEMA "raw_data" TO "{role.user}"',
    )
    assert len(found.findings) == 1


def test_a_ledger_of_another_role(items: Database, target: Database) -> None:
    land_one(items, target, ITEMS)
    role = new_role(target)

    found = diagnose(items, role)

    told = [finding.what for finding in found.findings]
    assert told == [
        'the role may not work in schema "extract_load"',
        'the role may not work in schema "extract_load_scratch"',
        'the role may not work in schema "raw_data"',
        "the role may not write the ledger",
        'the role may not write raw_data."digitalocean_items"',
        'raw_data."digitalocean_items" belongs to another role',
    ]
    assert_found(
        found,
        Severity.WARNING,
        Code.NOT_OWNED,
        "belongs to another role",
        "the table cannot follow its source's columns",
        remedy=f'ALTER TABLE "raw_data"."digitalocean_items" OWNER TO "{role.user}"',
    )


def test_a_role_without_connect_hides_nothing_of_the_source(
    items: Database, target: Database
) -> None:
    role = new_role(target)
    target.execute(
        sql.SQL("REVOKE CONNECT ON DATABASE {} FROM PUBLIC").format(sql.Identifier(target.name))
    )

    found = diagnose(items, role, INCREMENTAL)

    assert codes(found) == [("error", "login_refused"), ("warning", "cursor_not_indexed")]
    assert found.findings[0].remedy == "Grant CONNECT on the database to the role."
    assert codes(diagnose(items, replace(role, user="nobody_at_all"))) == [
        ("error", "login_refused")
    ]


def test_an_older_ledger_of_another_role(items: Database, target: Database) -> None:
    land_one(items, target, ITEMS)
    target.execute("DELETE FROM extract_load.ledger_version WHERE version > 1")
    role = new_role(
        target,
        grants="GRANT USAGE, CREATE ON SCHEMA extract_load, extract_load_scratch, raw_data"
        " TO {role}; GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA extract_load,"
        " extract_load_scratch, raw_data TO {role}",
    )

    assert_found(
        diagnose(items, role),
        Severity.ERROR,
        Code.NOT_WRITABLE,
        "the ledger is of an older version, and the role may not alter it",
        "the next run brings them up to date",
        remedy="Let the role that owns them run first",
    )
    assert codes(diagnose(items, target)) == []


def test_a_ledger_of_a_later_version(items: Database, target: Database) -> None:
    land_one(items, target, ITEMS)
    target.execute("INSERT INTO extract_load.ledger_version VALUES (999)")

    assert_found(
        diagnose(items, target),
        Severity.ERROR,
        Code.LEDGER_NEWER,
        "the ledger is newer than this program",
        "It is at version 999",
        remedy="Install the extract-load that wrote it",
    )
