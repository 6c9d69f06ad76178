"""`extract-load` as a process: what it prints, its JSON, its exit status, its errors."""

import os
import re
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from demo.embedded_server import free_ports
from tests.support.command import PROGRAM, Outcome, clean_environment, extract_load, write_settings
from tests.support.landing import assert_equal, environment
from tests.support.servers import PASSWORD, Database

USERS: dict[str, Any] = {"source": "public.users", "target": "raw_data.digitalocean_users"}
FIELDS = {
    *("source", "target", "target_connection", "sync_mode", "status", "baseline", "window"),
    *("rows_read", "rows_inserted", "rows_updated", "rows_deleted", "rows_unchanged", "rows_late"),
    *("bytes_read", "chunks", "chunks_resumed", "retries", "seconds", "rows_per_second"),
    *("verified", "error"),
}


ELSEWHERE = {"AIRFLOW_CONN_POSTGRES_DEFAULT": "postgresql://nobody:nothing@localhost/warehouse"}
"""A target that is not asked."""


@pytest.fixture
def users(source: Database) -> Database:
    source.execute(
        "CREATE TABLE public.users (id int PRIMARY KEY, email text);"
        "INSERT INTO public.users SELECT i, i || '@example.com' FROM generate_series(1, 1000) AS i"
    )
    return source


def run_json(path: Path, source: Database, target: Database, *options: str) -> Outcome:
    return extract_load(
        *("run", "--config", str(path), "--output", "json", *options),
        environment=environment(source, target),
    )


def test_run_prints_one_json_object_and_nothing_else(
    users: Database, target: Database, tmp_path: Path
) -> None:
    done = run_json(write_settings(tmp_path / "tables.yml", USERS), users, target)

    assert done.status == 0, done.stderr
    report = done.json
    assert list(report) == [
        *("run_id", "status", "started_at", "finished_at", "seconds", "peak_rss_mb"),
        *("error", "tables"),
    ]
    (table,) = report["tables"]
    assert set(table) == FIELDS
    assert (table["status"], table["rows_inserted"], table["baseline"]) == ("done", 1000, True)
    assert table["window"]["low"] is None
    assert report["started_at"].endswith("Z")
    assert 10 < report["peak_rss_mb"] < 256
    assert_equal(users, target, USERS)


def test_the_command_imports_no_airflow_and_no_dbt(
    users: Database, target: Database, tmp_path: Path
) -> None:
    """A cron job on a small machine must not load a scheduler to copy a table."""
    path = write_settings(tmp_path / "tables.yml", USERS)
    program = (
        "import sys; from extract_load.cli import cli;"
        f"cli.main(['run', '--config', {str(path)!r}], standalone_mode=False);"
        "found = {name.split('.')[0] for name in sys.modules} & {'airflow', 'dbt', 'cosmos'};"
        "sys.exit(f'imported: {found}' if found else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=clean_environment(environment(users, target)),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("tables", [1, 8, 40])
def test_output_that_nobody_takes_is_no_success(
    users: Database, target: Database, tmp_path: Path, tables: int
) -> None:
    """Of any size: what a buffer of 4 or 8 KiB holds is not written before the end."""
    named = ({**USERS, "target": f"raw_data.users_{number}"} for number in range(tables))
    path = write_settings(tmp_path / "tables.yml", *named)
    for output, said in (("/dev/full", "No space left on device"), ("pipe", "Broken pipe")):
        with ExitStack() as stack:
            if output == "pipe":
                reading, writing = os.pipe()
                os.close(reading)
                stdout = stack.enter_context(os.fdopen(writing, "wb"))
            else:
                stdout = stack.enter_context(Path(output).open("wb"))
            done = subprocess.run(
                [str(PROGRAM), "plan", "--config", str(path)],
                env=clean_environment(environment(users, target)),
                stdout=stdout,
                stderr=subprocess.PIPE,
                text=True,
                timeout=60,
                check=False,
            )
        assert done.returncode == 1, done.stderr
        assert f"error: the output was not written\ndetail: {said}.\nhint: What was" in done.stderr
        assert "Traceback" not in done.stderr


def test_a_closed_output_fails_nothing(users: Database, target: Database, tmp_path: Path) -> None:
    path = write_settings(tmp_path / "tables.yml", USERS)
    done = subprocess.run(
        ["/bin/sh", "-c", f"exec {PROGRAM} run --config {path} >&-"],
        env=clean_environment(environment(users, target)),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert_equal(users, target, USERS)


def test_help_comes_at_once() -> None:
    extract_load("--help")
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        assert "reset" in extract_load("--help").stdout
        seconds.append(time.perf_counter() - started)
    assert min(seconds) < 0.3


def test_run_prints_a_report_for_people(users: Database, target: Database, tmp_path: Path) -> None:
    path = write_settings(tmp_path / "tables.yml", {**USERS, "batch_size": 200})
    users.execute("ANALYZE public.users")

    done = extract_load("run", "--config", str(path), environment=environment(users, target))

    assert done.status == 0
    assert "public.users" in done.stdout
    assert "1,000" in done.stdout
    assert "peak memory" in done.stdout
    assert "published run=" in done.stderr
    loading = [line for line in done.stderr.splitlines() if " loading run=" in line]
    assert len(loading) == 2
    assert " table=public.users raw_table=raw_data.digitalocean_users " in loading[1]
    assert " rows=1000 rows_per_second=" in loading[1]


def test_plan_touches_nothing(users: Database, target: Database, tmp_path: Path) -> None:
    path = write_settings(tmp_path / "tables.yml", {**USERS, "batch_size": 100})

    done = extract_load(
        *("plan", "--config", str(path), "--output", "json"),
        environment=environment(users, target),
    )

    (table,) = done.json["tables"]
    assert table["publish"] == "first load"
    assert table["ddl"] == ["create table raw_data.digitalocean_users"]
    assert [column["treatment"] for column in table["columns"]] == ["identical", "identical"]
    assert target.execute(
        "SELECT count(*) FROM pg_namespace WHERE nspname ~ '^(raw_data|extract_load)'"
    ) == [(0,)]
    text = extract_load("plan", "--config", str(path), environment=environment(users, target))
    assert "first load" in text.stdout
    assert "Nothing was changed." in text.stdout


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"sync_mode": "full_sync"}, r"from xmin \d+"),
        ({"sync_mode": "xmin_incremental"}, r"from xmin \d+"),
        ({"sync_mode": "incremental_sync", "incremental_field": "id"}, r"from id 1000"),
    ],
)
def test_plan_says_from_where_on_a_delta_is_read(
    users: Database, target: Database, tmp_path: Path, settings: dict[str, str], why: str
) -> None:
    path = write_settings(tmp_path / "tables.yml", {**USERS, **settings})
    run_json(path, users, target)

    plan = extract_load("plan", "--config", str(path), environment=environment(users, target))

    assert re.search(rf"{why}$", plan.stdout, re.MULTILINE), plan.stdout


def test_status_and_reset(users: Database, target: Database, tmp_path: Path) -> None:
    path = write_settings(tmp_path / "tables.yml", {**USERS, "sync_mode": "xmin_incremental"})
    names = environment(users, target)

    before = extract_load("reset", "--config", str(path), "--yes", environment=names)
    assert (before.status, before.stdout) == (
        0,
        "raw_data.digitalocean_users: nothing to forget\n",
    )
    never = extract_load("status", "--config", str(path), environment=names)
    assert "never run" in never.stdout
    run_json(path, users, target)
    status = extract_load("status", "--config", str(path), "--output", "json", environment=names)
    (table,) = status.json["tables"]
    assert (table["last_status"], table["managed"], table["open_chunks"]) == ("done", True, 0)
    assert int(table["watermark"]) > 0
    oid = "SELECT 'raw_data.digitalocean_users'::regclass::oid"
    kept = target.execute(oid)

    reset = extract_load("reset", "--config", str(path), "--yes", environment=names)

    assert reset.stdout == "raw_data.digitalocean_users: watermark forgotten\n"
    (again,) = run_json(path, users, target).json["tables"]
    assert (again["baseline"], again["rows_unchanged"]) == (True, 1000)
    assert target.execute(oid) == kept


def test_a_raw_table_the_settings_no_longer_name_is_listed_as_unmanaged(
    users: Database, target: Database, tmp_path: Path
) -> None:
    users.execute("CREATE TABLE public.other (id int PRIMARY KEY)")
    run_json(write_settings(tmp_path / "one.yml", USERS), users, target)
    other = {"source": "public.other", "target": "raw_data.digitalocean_other"}
    path = write_settings(tmp_path / "two.yml", other)

    done = extract_load(
        *("status", "--config", str(path), "--output", "json"),
        environment=environment(users, target),
    )

    managed = {table["target"]: table["managed"] for table in done.json["tables"]}
    assert managed == {"raw_data.digitalocean_other": True, "raw_data.digitalocean_users": False}


def test_a_selection_makes_no_table_unmanaged(
    users: Database, target: Database, tmp_path: Path
) -> None:
    users.execute("CREATE TABLE public.other (id int PRIMARY KEY)")
    other = {"source": "public.other", "target": "raw_data.digitalocean_other"}
    path = write_settings(tmp_path / "both.yml", USERS, other)
    run_json(path, users, target)

    done = extract_load(
        *("status", "--config", str(path), "--output", "json", "--select", "public.users"),
        environment=environment(users, target),
    )

    assert [(t["target"], t["managed"]) for t in done.json["tables"]] == [
        ("raw_data.digitalocean_users", True)
    ]


# ---------------------------------------------------------------- bad input


def assert_error(done: Outcome, status: int, primary: str, *facts: str) -> None:
    """One error in three parts, its status, no traceback, no password."""
    assert done.status == status, done.stdout + done.stderr
    printed = done.stdout + done.stderr
    assert f"error: {primary}" in printed
    for fact in facts:
        assert fact in printed
    assert "hint: " in printed
    assert "Traceback" not in printed
    assert PASSWORD not in printed


BAD_SETTINGS = [
    ({"sync_mode": "incremental"}, '"incremental" is no sync mode; known: full_sync,'),
    ({"sync_mode": "incremental_sync"}, "public.users.incremental_field: needed by"),
    ({"batch_size": "many"}, "public.users.batch_size: should be a valid integer"),
    ({"batch_sise": 10}, 'public.users.batch_sise: no such key; did you mean "batch_size"?'),
    ({"distributed": True}, "public.users.distributed: not built yet in this version"),
    ({"source": "users"}, "users.source: 'users' is no table name"),
    ({"custom_where": ""}, "public.users.custom_where: it is empty"),
    ({"custom_where": "a = 1) OR (1 = 1"}, "is no SQL expression"),
    (
        {"custom_where": "created_at > now()", "sync_mode": "xmin_incremental"},
        "public.users.custom_where: the present time is possible in full_sync only",
    ),
    ({"custom_where": "created_at > 'today'"}, "holds 'today', which is another day"),
    ({"lookback": "soon"}, "'soon' is no duration"),
    ({"deletes": "ignore"}, "full_sync follows deletes by nature"),
]


@pytest.mark.parametrize(("keys", "told"), BAD_SETTINGS, ids=[told for _, told in BAD_SETTINGS])
def test_wrong_settings_end_with_2_before_anything_is_opened(
    keys: dict[str, Any], told: str, tmp_path: Path
) -> None:
    path = write_settings(tmp_path / "tables.yml", {**USERS, **keys})

    done = extract_load("run", "--config", str(path))

    assert_error(done, 2, f'settings file "{path}" has 1 problem', told)


def test_every_problem_of_a_file_is_told_at_once(tmp_path: Path) -> None:
    second = {"source": "public.orders", "target": "raw_data.digitalocean_users", "verify": "x"}
    third = {**USERS, "source": "public.third"}
    path = write_settings(tmp_path / "tables.yml", USERS, second, third, tables_in_paralel=3)

    done = extract_load("run", "--config", str(path), "--output", "json")

    assert done.status == 2
    told = {(problem["table"], problem["key"]) for problem in done.json["problems"]}
    assert told == {
        ("", "tables_in_paralel"),
        ("public.orders", "verify"),
        ("public.third", "target"),
    }
    assert done.json["error"]["class"] == "ConfigError"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("tables: [", "is neither YAML nor JSON"),
        ("tables: 1\ntables: 2", 'key "tables" stands twice'),
        ("tables: []", "needed: a list of at least one table"),
        ("tables: [1]", "is no mapping of table keys"),
    ],
    ids=["no yaml", "a key twice", "no tables", "no mapping"],
)
def test_a_file_that_cannot_be_read(text: str, told: str, tmp_path: Path) -> None:
    path = tmp_path / "tables.yml"
    path.write_text(text)

    assert_error(extract_load("run", "--config", str(path)), 2, "", told)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "nothing.yml"
    assert_error(extract_load("run", "--config", str(path)), 2, f'cannot read "{path}"')
    done = extract_load("run", "--env-file", str(path))
    assert_error(done, 2, f'cannot read "{path}"', "Mend --env-file.")


def test_no_dbt_project(tmp_path: Path) -> None:
    assert_error(extract_load("plan", cwd=tmp_path), 2, 'no dbt project in "dbt_project"')


def test_connections_nobody_defined_are_told_together(tmp_path: Path) -> None:
    path = write_settings(tmp_path / "tables.yml", USERS)

    assert_error(
        extract_load("run", "--config", str(path)),
        *(2, "2 connections cannot be used"),
        'connection "digitalocean_postgres" is not defined: There is no AIRFLOW_CONN_DIGITAL',
        'connection "postgres_default" is not defined: There is no AIRFLOW_CONN_POSTGRES_DEFAULT',
    )


def test_a_connection_nobody_defined(tmp_path: Path) -> None:
    path = write_settings(tmp_path / "tables.yml", USERS)

    assert_error(
        extract_load("run", "--config", str(path), environment=ELSEWHERE),
        *(2, 'connection "digitalocean_postgres" is not defined'),
        "hint: Set AIRFLOW_CONN_DIGITALOCEAN_POSTGRES=",
    )


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("mysql://a:throw-away@b/c", "cannot be read"),
        ("postgresql://a:throw-away@b:port/c", "cannot be read"),
        ('{"host": "b", "password": "throw-away"', "cannot be read"),
        ("postgresql://a:throw-away@b", "is not complete"),
    ],
    ids=["another server", "no port", "half a JSON", "no database"],
)
def test_a_connection_that_is_no_connection(value: str, told: str, tmp_path: Path) -> None:
    path = write_settings(tmp_path / "tables.yml", USERS)

    done = extract_load(
        *("run", "--config", str(path)),
        environment={"AIRFLOW_CONN_DIGITALOCEAN_POSTGRES": value, **ELSEWHERE},
    )

    assert_error(done, 2, f'connection "digitalocean_postgres" {told}')


def test_a_selection_that_selects_nothing(
    users: Database, target: Database, tmp_path: Path
) -> None:
    path = write_settings(tmp_path / "tables.yml", USERS)

    done = extract_load(
        *("run", "--config", str(path), "--select", "public.user"),
        environment=environment(users, target),
    )

    assert_error(done, 2, '"public.user" selects no table', "public.users")


def test_a_table_that_is_not_there(users: Database, target: Database, tmp_path: Path) -> None:
    absent = {"source": "public.user", "target": "raw_data.absent"}
    path = write_settings(tmp_path / "tables.yml", absent, USERS)

    done = extract_load("run", "--config", str(path), environment=environment(users, target))

    assert_error(done, 1, 'there is no table "public.user" in source "digitalocean_postgres"')
    assert 'Did you mean "public.users"?' in done.stdout
    assert "1 of 2 failed" in done.stdout
    assert_equal(users, target, USERS)
    assert target.execute("SELECT count(*) FROM pg_class WHERE relname = 'absent'") == [(0,)]


BAD_TABLES = [
    (
        "CREATE TABLE public.t (a int)",
        {"sync_mode": "xmin_incremental"},
        '"public.t" has no primary key',
    ),
    (
        "CREATE TABLE public.t (a int PRIMARY KEY)",
        {"primary_key": "b"},
        '"public.t" has no column "b"',
    ),
    (
        "CREATE TABLE public.t (a int PRIMARY KEY)",
        {"sync_mode": "incremental_sync", "incremental_field": "b"},
        '"public.t" has no column "b"',
    ),
    (
        "CREATE TABLE public.t (a int PRIMARY KEY, b jsonb)",
        {"sync_mode": "incremental_sync", "incremental_field": "b"},
        'column "b" of "public.t" cannot be the cursor',
    ),
    (
        "CREATE TABLE public.t (a int PRIMARY KEY, _loaded_at text)",
        {},
        '"public.t" has a column "_loaded_at", which extract-load writes itself',
    ),
    (
        "CREATE VIEW public.t AS SELECT 1 AS a",
        {"primary_key": "a", "sync_mode": "xmin_incremental"},
        '"public.t" cannot be read by xmin: "public.t" is a view',
    ),
    (
        "CREATE TABLE public.t (a int); INSERT INTO public.t VALUES (1), (1)",
        {"primary_key": "a"},
        'could not build the key (a) of "public.t"',
    ),
    (
        "CREATE TABLE public.t (a int PRIMARY KEY)",
        {"custom_where": "a"},
        'could not use custom_where of "public.t"',
    ),
]


@pytest.mark.parametrize(("ddl", "keys", "primary"), BAD_TABLES, ids=[b[2] for b in BAD_TABLES])
def test_a_table_that_cannot_be_landed(
    ddl: str,
    keys: dict[str, Any],
    primary: str,
    source: Database,
    target: Database,
    tmp_path: Path,
) -> None:
    source.execute(ddl)
    path = write_settings(
        tmp_path / "tables.yml", {"source": "public.t", "target": "raw_data.t", **keys}
    )

    done = run_json(path, source, target)

    assert done.status == 1
    error = done.json["tables"][0]["error"]
    assert error["primary"] == primary
    assert error["retryable"] is False
    assert target.execute("SELECT count(*) FROM pg_class WHERE relname = 't'") == [(0,)]


@pytest.mark.parametrize("side", ["source", "target"])
def test_a_wrong_password(side: str, users: Database, target: Database, tmp_path: Path) -> None:
    names = environment(users, target)
    variable = list(names)[0 if side == "source" else 1]
    names[variable] = names[variable].replace(PASSWORD, "S3cret-and-wrong")
    path = write_settings(tmp_path / "tables.yml", USERS)

    done = extract_load("run", "--config", str(path), "--debug", environment=names)

    assert done.status == 1
    assert "refused the connection" in done.stdout
    assert "password authentication failed" in done.stdout
    assert "S3cret-and-wrong" not in done.stdout + done.stderr


@pytest.mark.parametrize("side", ["source", "target"])
def test_a_server_that_is_down(
    side: str, users: Database, target: Database, tmp_path: Path
) -> None:
    names = environment(users, target)
    variable = list(names)[0 if side == "source" else 1]
    port = str(urlsplit(names[variable]).port)
    (closed,) = free_ports(1)
    names[variable] = names[variable].replace(f":{port}/", f":{closed}/")
    path = write_settings(tmp_path / "tables.yml", USERS)

    done = extract_load("run", "--config", str(path), environment=names)

    conn_id = "digitalocean_postgres" if side == "source" else "postgres_default"
    assert_error(done, 1, f'could not connect to {side} "{conn_id}"', "Connection refused")


def test_wrong_arguments_end_with_2() -> None:
    done = extract_load("run", "--output", "xml")
    assert done.status == 2
    assert "'xml' is not one of" in done.stderr
    assert_error(extract_load("discover"), 2, '"discover" is not built yet', "run, status, verify")
    assert extract_load("nothing").status == 2
    assert PROGRAM.exists()
