"""The command line as a user runs it: a process of its own."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

PROGRAM = Path(sys.executable).with_name("extract-load")


@dataclass(frozen=True)
class Outcome:
    """What a finished command left."""

    status: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        """The one JSON object on stdout."""
        return json.loads(self.stdout)


def clean_environment(extra: Mapping[str, str]) -> dict[str, str]:
    """Returns an environment with nothing but what a command needs, and `extra`."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    return {**kept, "PYTHONWARNINGS": "error::DeprecationWarning:extract_load", **extra}


def extract_load(
    *arguments: str, environment: Mapping[str, str] = {}, cwd: Path | None = None
) -> Outcome:
    """Returns the outcome of `extract-load` with these arguments."""
    done = subprocess.run(
        [str(PROGRAM), *arguments],
        env=clean_environment(environment),
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


def write_settings(path: Path, *tables: Mapping[str, Any], **run_keys: Any) -> Path:
    """Returns the path of a settings file with these tables."""
    document = {
        "source_connection": "digitalocean_postgres",
        "target_connection": "postgres_default",
        **run_keys,
        "tables": [dict(table) for table in tables],
    }
    path.write_text(yaml.safe_dump(document, allow_unicode=True), encoding="utf-8")
    return path
