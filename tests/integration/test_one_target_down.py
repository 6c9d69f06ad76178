"""What each command shows where one of two targets cannot be reached."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from demo.embedded_server import free_ports
from tests.support.command import Outcome, extract_load
from tests.support.servers import PASSWORD, Database
from tests.support.tables import create_items

TABLES: dict[str, Any] = {
    "source_connection": "shop",
    "tables": [
        {
            "source": "public.items",
            "targets": [
                {"conn_id": "one", "table": "raw_data.items"},
                {"conn_id": "one", "table": "raw_data.items_local"},
                {"conn_id": "two", "table": "raw_data.items"},
            ],
        },
        {"source": "public.more", "target": "raw_data.more", "target_connection": "two"},
    ],
}


@pytest.fixture
def command(source: Database, target: Database, tmp_path: Path) -> Any:
    """Runs a command on the tables: target "one" is there, "two" is a closed port."""
    create_items(source, 100)
    source.execute("CREATE TABLE public.more (id int PRIMARY KEY)")
    (closed,) = free_ports(1)
    names = {
        "AIRFLOW_CONN_SHOP": source.uri,
        "AIRFLOW_CONN_ONE": target.uri,
        "AIRFLOW_CONN_TWO": target.uri.replace(f":{target.port}/", f":{closed}/"),
    }
    path = tmp_path / "tables.yml"
    path.write_text(yaml.safe_dump(TABLES))

    def ask(name: str, *options: str, **changed: str) -> Outcome:
        environment = {**names, **changed}
        return extract_load(name, "--config", str(path), *options, environment=environment)

    assert ask("run").status == 1
    return ask


def test_status_shows_what_the_other_says(command: Any) -> None:
    done = command("status")

    assert done.status == 1
    lines = [line for line in done.stdout.splitlines() if line.startswith("public.")]
    assert [line.split()[1:3] for line in lines] == [
        *(["raw_data.items", "one"], ["raw_data.items_local", "one"]),
        *(["raw_data.items", "two"], ["raw_data.more", "two"]),
    ]
    assert [" done " in line for line in lines] == [True, True, False, False]
    assert ["unreachable" in line for line in lines] == [False, False, True, True]
    assert done.stdout.count('could not connect to target "two"') == 1
    assert "\ntables: public.items in two, public.more\n" in done.stdout
    assert "hint: Check that the server is up" in done.stdout

    rows = command("status", "--output", "json").json["tables"]
    assert [row["last_status"] for row in rows] == ["done", "done", "unreachable", "unreachable"]
    assert rows[-1]["error"] == 'could not connect to target "two"'
    assert [row["open_chunks"] for row in rows] == [0, 0, None, None]


def test_a_target_that_answers_and_refuses_is_not_unreachable(
    command: Any, target: Database
) -> None:
    wrong = target.uri.replace(PASSWORD, "another")
    done = command("status", "--target", "two", AIRFLOW_CONN_TWO=wrong)

    assert done.status == 1
    assert "refused" in done.stdout
    assert "unreachable" not in done.stdout


@pytest.mark.parametrize("name", ["run", "plan", "verify"])
def test_what_stopped_several_tables_is_told_once(command: Any, name: str) -> None:
    done = command(name)

    assert done.status == 1
    assert done.stdout.count('could not connect to target "two"') == 1
    assert "\ntables: public.items in two, public.more\n" in done.stdout


def test_tables_of_one_source_are_told_apart(command: Any) -> None:
    verified = [line.split()[:4] for line in command("verify").stdout.splitlines()]
    planned = [line.split()[:3] for line in command("plan").stdout.splitlines()]

    assert ["public.items", "as", "items", "one"] in verified
    assert ["public.items", "as", "items_local", "one"] in verified
    assert ["public.items", "raw_data.items", "one"] in planned
    assert ["public.items", "raw_data.items_local", "one"] in planned


def test_a_target_that_nobody_names_is_answered_with_those_that_are(command: Any) -> None:
    done = command("plan", "--target", "tow")

    assert done.status == 2
    assert 'no table has the target "tow"' in done.stderr
    assert "has one, two." in done.stderr
