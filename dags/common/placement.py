"""Which DAG builds which dbt node: each node stands in exactly one.

Pure: a manifest in, DAG ids out.
"""

from collections.abc import Mapping

from common.declared_tables import SINGLE_TARGET_DAG
from common.manifest import Manifest, Node


def place_nodes(manifest: Manifest, dag_of_source: Mapping[str, str]) -> dict[str, str]:
    """Returns the DAG of every node and source of a manifest, by dbt's unique id.

    A node is built where the tables it reads are landed, at whatever distance. Where they are
    landed by different DAGs, or by none, it is built by `digitalocean_data_copy_dag`. A test
    stands beside what it tests.

    Args:
        manifest: dbt's.
        dag_of_source: The DAG of each source that is landed.
    """
    nodes = manifest["nodes"]
    landing_dags: dict[str, frozenset[str]] = {
        unique_id: frozenset({dag_id}) for unique_id, dag_id in dag_of_source.items()
    }

    def dags_read(unique_id: str) -> frozenset[str]:
        """The DAGs that land what a node reads."""
        if unique_id not in landing_dags:
            landing_dags[unique_id] = frozenset().union(*map(dags_read, _parents(nodes, unique_id)))
        return landing_dags[unique_id]

    placed = {
        unique_id: _one_of(dags_read(unique_id))
        for unique_id in (*manifest["sources"], *nodes)
        if not _is_test(nodes, unique_id)
    }
    for unique_id in nodes:
        if _is_test(nodes, unique_id):
            tested = {placed[p] for p in _parents(nodes, unique_id) if p in placed}
            placed[unique_id] = _beside(tested)
    return placed


def _one_of(dag_ids: frozenset[str]) -> str:
    return next(iter(dag_ids)) if len(dag_ids) == 1 else SINGLE_TARGET_DAG


def _beside(dag_ids: set[str]) -> str:
    """A DAG that has something the test can run after."""
    return SINGLE_TARGET_DAG if SINGLE_TARGET_DAG in dag_ids or not dag_ids else min(dag_ids)


def _parents(nodes: Mapping[str, Node], unique_id: str) -> list[str]:
    found: list[str] = nodes.get(unique_id, {}).get("depends_on", {}).get("nodes", [])
    return found


def _is_test(nodes: Mapping[str, Node], unique_id: str) -> bool:
    return bool(nodes.get(unique_id, {}).get("resource_type") == "test")
