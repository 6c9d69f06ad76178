"""A warehouse as extract-load leaves it, loaded and published to by hand, and dbt over it."""

import os
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest import mock

from dbt.cli.main import dbtRunner

from extract_load.ledger import migrations
from tests.support.servers import Database

ROOT = Path(__file__).resolve().parents[2]
PROJECT = ROOT / "dbt_project"
NOWHERE = Database("127.0.0.1", 1, "nowhere", "nobody", "none")
"""Enough of a database to parse the project."""


@dataclass(frozen=True)
class Outcome:
    """What one invocation of dbt came to."""

    succeeded: bool
    warnings: list[str]
    errors: list[str]


@dataclass(frozen=True)
class Dbt:
    """dbt, in this process, writing only below `directory`."""

    database: Database
    directory: Path
    dbt_target: str = "dev"

    def __call__(self, *arguments: str) -> Outcome:
        """Runs one dbt command and returns what it came to."""
        told: dict[str, list[str]] = {"warn": [], "error": []}

        def listen(event: Any) -> None:
            if event.info.level in told:
                told[event.info.level].append(event.info.msg)

        with mock.patch.dict(os.environ, self._variables()):
            result = dbtRunner(callbacks=[listen]).invoke([*arguments, *self._options()])
        if result.exception:
            told["error"].append(str(result.exception))
        return Outcome(result.success, told["warn"], told["error"])

    def _variables(self) -> Mapping[str, str]:
        return {
            "POSTGRES_HOST": self.database.host,
            "POSTGRES_PORT": str(self.database.port),
            "POSTGRES_USER": self.database.user,
            "POSTGRES_PASSWORD": self.database.password,
            "POSTGRES_DB": self.database.name,
        }

    def _options(self) -> Sequence[str]:
        return [
            *("--project-dir", str(PROJECT)),
            *("--profiles-dir", str(ROOT / "profiles")),
            *("--target", self.dbt_target),
            *("--target-path", str(self.directory / "target")),
            *("--log-path", str(self.directory / "logs")),
            "--quiet",
        ]


@dataclass
class Warehouse:
    """A database with raw tables and a ledger, and what publishes do to them."""

    database: Database
    published_at: datetime = field(default=datetime(2025, 2, 1, tzinfo=UTC))

    def publish(self, *statements: str) -> None:
        """Changes raw tables in one transaction; `%(at)s` is its time, later than any before."""
        self.published_at += timedelta(days=1)
        with closing(self.database.connect()) as session, session.cursor() as cursor:
            cursor.execute("; ".join(statements), {"at": self.published_at})

    def execute(self, statement: str) -> list[tuple[Any, ...]]:
        """Runs a statement and returns its rows."""
        return self.database.execute(statement)


def load(database: Database) -> Warehouse:
    """Returns the database as a warehouse after the first run of extract-load."""
    database.execute("CREATE SCHEMA extract_load; CREATE SCHEMA extract_load_scratch")
    for migration in migrations():
        database.execute(migration)
    database.execute(Path(__file__).with_name("raw_tables.sql").read_text(encoding="utf-8"))
    return Warehouse(database)
