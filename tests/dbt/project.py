"""The dbt project as its manifest tells it, in the words its rules are written in."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

Node = dict[str, Any]


@dataclass(frozen=True)
class Project:
    """Questions to a manifest."""

    manifest: dict[str, Any]

    def nodes(self, kind: str) -> list[Node]:
        """Returns the nodes of this project of a kind, such as `model` or `snapshot`."""
        return [node for node in self.manifest["nodes"].values() if node["resource_type"] == kind]

    def models(self, layer: str = "") -> list[Node]:
        """Returns the models, or those of one layer."""
        return [model for model in self.nodes("model") if layer in ("", self.layer(model))]

    def sources(self) -> list[Node]:
        """Returns the tables of all dbt sources."""
        return list(self.manifest["sources"].values())

    def landed(self) -> list[Node]:
        """Returns the tables of dbt sources that extract-load lands."""
        return [source for source in self.sources() if "extract_load" in source["config"]["meta"]]

    def parents(self, node: Node) -> list[Node]:
        """Returns what a node reads."""
        everything = self.manifest["nodes"] | self.manifest["sources"]
        return [everything[unique_id] for unique_id in node["depends_on"]["nodes"]]

    def sources_of(self, node: Node) -> list[Node]:
        """Returns the source tables a node reads itself."""
        return [parent for parent in self.parents(node) if parent["resource_type"] == "source"]

    def readers(self, source: Node) -> list[Node]:
        """Returns the models that read a source table themselves."""
        return [model for model in self.models() if source in self.sources_of(model)]

    def tests_of(self, node: Node) -> Iterator[tuple[str, Node]]:
        """Yields the generic tests of a node: name and arguments."""
        for test in self.nodes("test"):
            if test.get("attached_node") == node["unique_id"] or (
                test.get("test_metadata")
                and node["resource_type"] == "source"
                and test["depends_on"]["nodes"] == [node["unique_id"]]
            ):
                yield test["test_metadata"]["name"], test["test_metadata"]["kwargs"]

    def deletes(self, source: Node) -> str:
        """Returns how a landed table follows deletes; the sync mode decides where it is silent."""
        settings = source["config"]["meta"]["extract_load"]
        warehouse, *_ = settings.get("targets", [{}])
        settings = {**settings, **warehouse}
        by_mode = "ignore" if settings["sync_mode"] == "incremental_sync" else "hard"
        return str(settings.get("deletes", by_mode))

    def chained_views(self, model: Node) -> int:
        """Returns the length of the longest chain of views that ends in this model."""
        above = [
            self.chained_views(parent)
            for parent in self.parents(model)
            if parent["resource_type"] == "model"
        ]
        return max(above, default=0) + 1 if model["config"]["materialized"] == "view" else 0

    @staticmethod
    def layer(model: Node) -> str:
        """Returns the folder below `models/` a model lies in."""
        return PurePosixPath(model["original_file_path"]).parts[1]

    @staticmethod
    def area(model: Node) -> str:
        """Returns the folder below the layer: the source's name, or the subject."""
        return PurePosixPath(model["original_file_path"]).parts[2]
