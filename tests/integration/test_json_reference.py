"""docs/reference/json.md: the commands print the keys it shows, no others, in its order."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.support.command import extract_load, write_settings
from tests.support.landing import environment
from tests.support.servers import Database

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "json.md"
SHOWN = {
    heading: [json.loads(block) for block in re.findall(r"```json\n(.*?)```", section, re.DOTALL)]
    for heading, section in re.findall(
        r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
}
ERROR, WRONG_SETTINGS = SHOWN["Errors"]
USERS = {"source": "public.users", "target": "raw_data.digitalocean_users"}


@pytest.fixture
def users(source: Database) -> Database:
    source.execute("CREATE TABLE public.users (id bigint PRIMARY KEY)")
    source.execute("INSERT INTO public.users SELECT generate_series(1, 20)")
    return source


def keys(value: Any) -> Any:
    """The keys of a document, of a list its first one's; what a value is does not matter."""
    if isinstance(value, list):
        return [keys(value[0])] if value and isinstance(value[0], dict) else None
    if isinstance(value, dict):
        return [(key, keys(item) if key != "error" else None) for key, item in value.items()]
    return None


def test_each_command_prints_what_the_page_shows(
    users: Database, target: Database, tmp_path: Path
) -> None:
    path = str(write_settings(tmp_path / "tables.yml", USERS))
    for command, options in (
        ("plan", ()), ("run", ()), ("status", ()), ("verify", ()), ("reset", ("--yes",)),
    ):  # fmt: skip
        done = extract_load(
            *(command, "--config", path, "--output", "json", *options),
            environment=environment(users, target),
        )
        assert done.status == 0, done.stderr
        (shown,) = SHOWN["`reset`, `doctor`" if command == "reset" else f"`{command}`"]
        assert keys(done.json) == keys(shown), command


def test_errors_are_what_the_page_shows(users: Database, target: Database, tmp_path: Path) -> None:
    there = environment(users, target)
    path = write_settings(tmp_path / "tables.yml", USERS | {"source": "public.gone"})
    failed = extract_load("run", "--config", str(path), "--output", "json", environment=there)
    assert failed.status == 1
    assert list(failed.json["tables"][0]["error"]) == list(ERROR)

    wrong = write_settings(tmp_path / "wrong.yml", USERS | {"batch_size": 0})
    refused = extract_load("run", "--config", str(wrong), "--output", "json", environment=there)
    assert refused.status == 2
    assert keys(refused.json) == keys(WRONG_SETTINGS)
    assert list(refused.json["error"]) == list(WRONG_SETTINGS["error"])
    (shown,) = WRONG_SETTINGS["problems"]
    assert refused.json["problems"] == [shown]
