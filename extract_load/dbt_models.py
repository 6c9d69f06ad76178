"""Which dbt models read which raw table, from the manifest that dbt wrote last, without dbt."""

import json
from pathlib import Path

from extract_load.errors import ConfigError

Models = dict[tuple[str, str], tuple[str, ...]]
"""Names of models and dbt snapshots, by the schema and name of the raw table."""

_NO_READERS = ("test", "unit_test", "exposure")
"""What has a source for its parent and reads it only to check or to name it."""


def read_models(project_dir: Path) -> Models:
    """Returns the models that name a raw table as their source; none where dbt never ran.

    Args:
        project_dir: The folder with `dbt_project.yml` in it.

    Raises:
        ConfigError: If the manifest cannot be read.
    """
    path = project_dir / "target" / "manifest.json"
    if not path.is_file():
        return {}
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        return {
            (source["schema"], source["identifier"]): tuple(
                child.split(".")[2]
                for child in sorted(manifest["child_map"].get(unique_id, ()))
                if child.split(".")[0] not in _NO_READERS
            )
            for unique_id, source in manifest["sources"].items()
        }
    except (OSError, ValueError, KeyError) as exc:
        raise ConfigError(
            f'cannot read "{path}"',
            f"{type(exc).__name__}: {exc}. It tells which dbt models read a raw table.",
            'Let dbt write it again ("dbt parse"), or remove it.',
        ) from exc
