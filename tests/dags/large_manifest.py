"""A manifest with hundreds of tables, each like one the sample project declares."""

import json
from collections.abc import Mapping
from pathlib import Path

_SOURCE = "source.warehouse.digitalocean.products"


def write_large_manifest(
    manifest: Path, path: Path, count: int, dag_of: Mapping[int, str] | None = None
) -> None:
    """Writes a manifest that declares `count` tables, and no models.

    Args:
        manifest: The sample project's.
        path: Where to write.
        count: How many tables.
        dag_of: The DAG of some of them, by number.
    """
    document = json.loads(manifest.read_text())
    template = json.dumps(document["sources"][_SOURCE])
    document |= {"sources": {}, "nodes": {}, "exposures": {}}
    for number in range(count):
        source = json.loads(template.replace("products", f"table_{number:04}"))
        if dag_of and number in dag_of:
            source["config"]["meta"]["extract_load"]["dag"] = dag_of[number]
        document["sources"][source["unique_id"]] = source
    path.write_text(json.dumps(document))
