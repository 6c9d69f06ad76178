"""dbt's manifest: what DAGs are drawn from, while their files are parsed."""

import io
import os
import shlex
from collections.abc import Collection
from functools import cached_property, lru_cache
from pathlib import Path
from typing import IO, Any, TypedDict

import msgspec

from common.declarations import DBT_PROJECT, ROOT
from extract_load import ConfigError


class Node(TypedDict, total=False):
    """What is read of a node or a source: nine tenths of the file are SQL and columns."""

    resource_type: str
    package_name: str
    original_file_path: str
    depends_on: dict[str, Any]
    tags: list[str]
    config: dict[str, Any]
    freshness: Any
    fqn: list[str]
    schema: str
    name: str
    identifier: str


class Manifest(TypedDict):
    """What is read of dbt's manifest, by unique id."""

    metadata: dict[str, Any]
    nodes: dict[str, Node]
    sources: dict[str, Node]


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
    return msgspec.json.decode(path.read_bytes(), type=Manifest)


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
        return io.BytesIO(self._text) if "b" in mode else io.StringIO(self._text.decode())

    @cached_property
    def _text(self) -> bytes:
        kept = {
            kind: {uid: node for uid, node in nodes.items() if uid in self._unique_ids}
            for kind, nodes in (
                ("nodes", self._manifest["nodes"]),
                ("sources", self._manifest["sources"]),
            )
        }
        return msgspec.json.encode({"metadata": self._manifest["metadata"], **kept})


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
