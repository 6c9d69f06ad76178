"""`extract-load doctor` as a process: what it prints, its JSON, its exit status."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from extract_load.findings import Code
from tests.support.command import Outcome, extract_load, write_settings
from tests.support.doctor import new_role
from tests.support.landing import environment
from tests.support.servers import PASSWORD, Database
from tests.support.tables import create_items

ITEMS = {"source": "public.items", "target": "raw_data.items"}
BY_CURSOR = {**ITEMS, "sync_mode": "incremental_sync", "incremental_field": "updated_at"}
PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "doctor.md"


@pytest.fixture
def items(source: Database) -> Database:
    create_items(source, 100)
    return source


def doctor(path: Path, variables: Mapping[str, str], *options: str) -> Outcome:
    return extract_load("doctor", "--config", str(path), *options, environment=variables)


def test_all_is_well(items: Database, target: Database, tmp_path: Path) -> None:
    path = write_settings(tmp_path / "tables.yml", ITEMS)

    done = doctor(path, environment(items, target))

    assert done.status == 0, done.stderr
    assert done.stdout.splitlines() == [
        f"digitalocean_postgres (source, 127.0.0.1:{items.port}/{items.name}, {version(items)})",
        "  all well",
        "",
        f"postgres_default (target, 127.0.0.1:{target.port}/{target.name}, {version(target)})",
        "  all well",
        "",
        "All well. 2 connections, 1 table looked at. Nothing was changed.",
    ]


def version(database: Database) -> str:
    return "PostgreSQL " + str(database.execute("SHOW server_version")[0][0]).split(" ")[0]


def test_an_error_ends_with_1_and_hides_nothing(
    items: Database, target: Database, tmp_path: Path
) -> None:
    path = write_settings(tmp_path / "tables.yml", BY_CURSOR)
    nobody = new_role(target)

    done = doctor(path, environment(items, nobody))

    assert done.status == 1
    assert done.stdout.splitlines()[1:] == [
        "  public.items -> raw_data.items",
        '    warning: no index serves cursor "updated_at": each run scans the whole table '
        "[cursor_not_indexed]",
        '      No index begins with it; "public.items" has about 100 rows.',
        '      -> Run on the source: CREATE INDEX CONCURRENTLY ON "public"."items" '
        '("updated_at"); or use xmin_incremental.',
        "",
        f"postgres_default (target, 127.0.0.1:{target.port}/{target.name}, {version(target)})",
        '  error: schemas "extract_load", "extract_load_scratch", "raw_data" are missing in '
        f'"{target.name}", and the role may create none [no_create_on_database]',
        f'    Role "{nobody.user}" has no CREATE on the database.',
        f'    -> Run on the target: GRANT CREATE ON DATABASE "{target.name}" TO '
        f'"{nobody.user}"; or create them for it: CREATE SCHEMA "extract_load" AUTHORIZATION '
        f'"{nobody.user}"; CREATE SCHEMA "extract_load_scratch" AUTHORIZATION "{nobody.user}"; '
        f'CREATE SCHEMA "raw_data" AUTHORIZATION "{nobody.user}".',
        "",
        "1 error, 1 warning. 2 connections, 1 table looked at. Nothing was changed.",
    ]


def test_json_is_one_object(items: Database, target: Database, tmp_path: Path) -> None:
    path = write_settings(tmp_path / "tables.yml", BY_CURSOR)

    done = doctor(path, environment(items, target), "--output", "json")

    assert done.status == 0, done.stderr
    assert done.json["summary"] == {
        "errors": 0,
        "warnings": 1,
        "notes": 0,
        "connections": 2,
        "tables": 1,
    }
    (finding,) = done.json["findings"]
    assert list(finding) == [
        *("severity", "code", "connection", "table", "target", "what", "detail", "remedy")
    ]
    assert (finding["severity"], finding["code"]) == ("warning", "cursor_not_indexed")
    assert (finding["connection"], finding["table"], finding["target"]) == (
        *("digitalocean_postgres", "public.items", "raw_data.items"),
    )
    text = doctor(path, environment(items, target)).stdout
    assert text.endswith(
        "1 warning. No error: a run can go ahead. 2 connections, 1 table looked at. "
        "Nothing was changed.\n"
    )


def test_wrong_settings_end_with_2(tmp_path: Path) -> None:
    path = write_settings(tmp_path / "tables.yml", {**ITEMS, "sync_mode": "sometimes"})

    done = doctor(path, {}, "--output", "json")

    assert done.status == 2
    assert done.json["error"]["class"] == "ConfigError"
    undefined = doctor(write_settings(tmp_path / "more.yml", ITEMS), {})
    assert undefined.status == 2
    assert "error: 2 connections cannot be used" in undefined.stderr
    assert 'connection "digitalocean_postgres" is not defined' in undefined.stderr


def test_a_selection_is_all_that_is_looked_at(
    items: Database, target: Database, tmp_path: Path
) -> None:
    absent = {"source": "public.absent", "target": "raw_data.absent"}
    disabled: dict[str, Any] = {**absent, "target": "raw_data.off", "enabled": False}
    path = write_settings(tmp_path / "tables.yml", ITEMS, absent, disabled)

    all_of_them = doctor(path, environment(items, target), "--output", "json")
    one = doctor(path, environment(items, target), "--output", "json", "--select", "public.items")

    assert (all_of_them.status, all_of_them.json["summary"]["tables"]) == (1, 2)
    assert (one.status, one.json["summary"]["tables"]) == (0, 1)


def test_a_password_is_never_shown(items: Database, target: Database, tmp_path: Path) -> None:
    path = write_settings(tmp_path / "tables.yml", ITEMS)
    variables = environment(items, target)
    wrong = {name: uri.replace(PASSWORD, "S3cret-and-wrong") for name, uri in variables.items()}

    done = doctor(path, wrong, "--debug")

    assert done.status == 1
    assert done.stdout.count("[login_refused]") == 2
    assert "S3cret" not in done.stdout + done.stderr


def test_grants_are_printed_and_nothing_else(
    items: Database, target: Database, tmp_path: Path
) -> None:
    path = write_settings(tmp_path / "tables.yml", ITEMS)

    text = doctor(path, environment(items, target), "--grants")
    shown = doctor(path, environment(items, target), "--grants", "--output", "json")

    assert (text.status, shown.status) == (0, 0)
    items.execute(text.stdout.split("\n\n")[0])
    assert [one["side"] for one in shown.json["grants"]] == ["source", "target"]
    assert set(shown.json["grants"][0]) == {
        *("connection", "side", "database", "role", "statements", "notes")
    }


def test_every_code_stands_in_the_page() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert [code for code in Code if f"| `{code}` |" not in page] == []
