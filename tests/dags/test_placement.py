"""Which DAG builds which dbt node."""

from typing import Any

from common.placement import place_nodes

DEFAULT, HYBRID, HOURLY = "digitalocean_data_copy_dag", "hybrid_data_copy_dag", "hourly_dag"


def placed(dag_of_source: dict[str, str], **parents: list[str]) -> dict[str, str]:
    """Places nodes given by their parents; names that begin with `test` are tests."""
    sources = {p for names in parents.values() for p in names if p.startswith("source")}
    nodes: dict[str, Any] = {
        name: {
            "resource_type": "test" if name.startswith("test") else "model",
            "depends_on": {"nodes": names},
        }
        for name, names in parents.items()
    }
    manifest: Any = {
        "sources": {name: {} for name in sources | dag_of_source.keys()},
        "nodes": nodes,
    }
    return place_nodes(manifest, dag_of_source)


def test_a_node_is_built_where_its_tables_are_landed_at_any_distance() -> None:
    assert placed(
        {"source_a": HYBRID}, model=["source_a"], mart=["model"], snapshot=["source_a"]
    ) == {"source_a": HYBRID, "model": HYBRID, "mart": HYBRID, "snapshot": HYBRID}


def test_what_reads_tables_of_several_dags_is_built_by_the_nightly_one() -> None:
    found = placed(
        {"source_a": HYBRID, "source_b": HOURLY},
        a=["source_a"],
        b=["source_b"],
        both=["a", "b"],
        after=["both"],
    )
    assert (found["a"], found["b"]) == (HYBRID, HOURLY)
    assert found["both"] == found["after"] == DEFAULT


def test_a_source_that_nobody_lands_decides_nothing() -> None:
    found = placed(
        {"source_a": HYBRID}, ledger=["source_ledger"], both=["source_ledger", "source_a"]
    )
    assert found["source_ledger"] == found["ledger"] == DEFAULT
    assert found["both"] == HYBRID


def test_a_node_that_reads_nothing_has_a_place() -> None:
    assert placed({}, seed=[]) == {"seed": DEFAULT}


def test_a_test_stands_beside_what_it_tests() -> None:
    found = placed(
        {"source_a": HYBRID, "source_b": HOURLY, "source_c": DEFAULT},
        a=["source_a"],
        b=["source_b"],
        c=["source_c"],
        test_a=["a"],
        test_source=["source_a"],
        test_a_b=["a", "b"],
        test_a_c=["a", "c"],
        test_of_nothing=[],
    )
    assert found["test_a"] == found["test_source"] == HYBRID
    assert found["test_a_b"] in {HYBRID, HOURLY}, "where one of both can run before it"
    assert found["test_a_c"] == found["test_of_nothing"] == DEFAULT
