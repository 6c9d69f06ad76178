"""dbt's manifest: what DAGs are drawn from, while their files are parsed."""

import io
import json
import os
import shlex
from collections.abc import Collection, Mapping
from functools import cached_property, lru_cache
from pathlib import Path
from typing import IO, Any

from extract_load import ConfigError

ROOT = Path(__file__).resolve().parents[2]
DBT_PROJECT = ROOT / "dbt_project"

Manifest = Mapping[str, Any]

_DRAWN = (
    "resource_type",
    "depends_on",
    "package_name",
    "original_file_path",
    "tags",
    "config",
    "freshness",
    "fqn",
)
"""What Cosmos draws a node from. Left out are the SQL and the columns: nine tenths of the file."""


def manifest_path() -> Path:
    """Returns where dbt's manifest is; EXTRACT_LOAD_MANIFEST names another file."""
    named = os.environ.get("EXTRACT_LOAD_MANIFEST")
    return Path(named).absolute() if named else DBT_PROJECT / "target" / "manifest.json"


def read_manifest(path: Path) -> Manifest:
    """Returns dbt's manifest; several DAG files parsed by one process read it once.

    Raises:
        ConfigError: If there is none, or it cannot be read.
    """
    try:
        found = path.stat()
        return _read(path, found.st_mtime_ns, found.st_size)
    except FileNotFoundError as exc:
        raise ConfigError(
            f'there is no dbt manifest at "{path}"',
            "The DAG is drawn from the file that dbt writes when it parses its project.",
            f"Run: {_parse_command(path)}",
        ) from exc
    except (OSError, ValueError) as exc:
        raise ConfigError(
            f'the dbt manifest "{path}" cannot be read',
            f"{exc}.",
            f"Let dbt write it again: {_parse_command(path)}",
        ) from exc


@lru_cache(maxsize=1)
def _read(path: Path, _modified: int, _size: int) -> Manifest:
    manifest: Manifest = json.loads(path.read_text(encoding="utf-8"))
    return manifest


class ManifestPart(os.PathLike[str]):
    """The part of a manifest that one DAG is drawn from, for Cosmos, which reads a file.

    Cosmos would read the whole file for each DAG and select nodes by comparing each one with each
    selector. A path is what its tasks get: they copy the whole file.

    Args:
        manifest: The whole.
        path: Where it was read.
        unique_ids: The nodes, sources and exposures that are kept.
    """

    def __init__(self, manifest: Manifest, path: Path, unique_ids: Collection[str]) -> None:
        self._manifest = manifest
        self._path = path
        self._unique_ids = unique_ids

    def __fspath__(self) -> str:
        """Returns where the whole manifest is."""
        return str(self._path)

    def __str__(self) -> str:
        return str(self._path)

    def exists(self) -> bool:
        """Returns whether there is something to read: it was read already."""
        return True

    def open(self, mode: str = "r") -> IO[Any]:
        """Returns the part as a file."""
        return io.BytesIO(self._text.encode()) if "b" in mode else io.StringIO(self._text)

    @cached_property
    def _text(self) -> str:
        kept = {
            kind: {
                unique_id: {key: node[key] for key in _DRAWN if key in node}
                for unique_id, node in self._manifest[kind].items()
                if unique_id in self._unique_ids
            }
            for kind in ("nodes", "sources")
        }
        return json.dumps({"metadata": self._manifest["metadata"], **kept})


def _parse_command(manifest: Path) -> str:
    """A command line that writes the manifest: parsing needs an address, not a server."""
    address = "POSTGRES_HOST=localhost POSTGRES_USER=nobody POSTGRES_PASSWORD=none POSTGRES_DB=none"
    options = {
        "--project-dir": DBT_PROJECT,
        "--profiles-dir": ROOT / "profiles",
        "--target-path": manifest.parent,
    }
    words = [word for option in options.items() for word in map(str, option)]
    return f"{address} dbt parse {shlex.join(words)}"
