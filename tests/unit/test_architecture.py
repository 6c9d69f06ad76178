"""Rules about the code that would die if they were only written down."""

import ast
import importlib
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import extract_load

PACKAGE = Path(extract_load.__file__).parent
DAGS = PACKAGE.parent / "dags"

ENGINE_LAYERS = [
    {"cli"},
    {"cli_options"},
    {"doctor_report"},
    {"plan_report", "progress", "verification", "doctor", "grants"},
    {"runner", "status", "reset", "published", "health", "key_check"},
    {"landing", "selection", "ask", "collect", "tables_in_parallel"},
    {"closing"},
    {"publish", "chunk_loading", "look"},
    {"chunk_copy"},
    {"apply", "first_load"},
    {"comparison", "deletes", "repair", "raw_mark"},
    {"evolution"},
    {"load", "multiset", "wide_rows"},
    {"resume"},
    {"difference"},
    {
        "extract",
        "stream",
        "frame_stream",
        "copies",
        "stream_watch",
        "predicate_judge",
        "shared_read",
    },
    {"tee"},
    {"spool"},
    {"snapshot"},
    {"observer", "leaf_lock", "source_counts", "readers"},
    {"governor"},
    {"planner", "verdict", "table_rules"},
    {"report"},
    {"adoption", "schema_change"},
    {"baseline", "schema_difference", "cursor_notes"},
    {"table_plan", "fingerprint", "lease", "equality", "source_table", "readable"},
    {"checkpoints"},
    {"modes", "ledger", "chosen_columns", "ddl", "cursor"},
    {"type_contract", "kept_types", "masking", "target_types"},
    {
        *("catalog", "watermark", "chunking", "raw_table", "retyping"),
        *("cursor_values", "open_transactions"),
    },
    {"server_rules", "target_rules"},
    {"server_facts"},
    {"sessions", "once", "memory", "one_clock"},
    {"connection", "digests", "login"},
    {"dbt_sources", "dbt_models", "settings_file"},
    {"config"},
    {"predicate_time", "predicate_calls"},
    {
        *("predicate", "connection_parameters", "log", "retry", "findings", "tls_check"),
        *("copy_frames", "server_messages", "wire", "cancel_request"),
    },
    {"errors", "identifiers", "sql", "batch_thread", "libpq"},
]
DAGS_LAYERS = [
    {"copy_dag", "variable_setup", "connection_manager", "dag_config_manager", "reference"},
    {"rendering", "monitoring"},
    {"operator", "checks", "target_profile", "alerts", "health_problems", "placement"},
    {"central_settings", "table_documents", "environment"},
    {"table_entries", "alert_text", "webhook", "manifest"},
    {"variables", "declarations"},
    {"airflow_lookup", "declared_tables", "variable_shapes", "failure"},
    {"documents"},
]
"""From the top down: an import may only point down, or sideways without a cycle."""
PACKAGES = pytest.mark.parametrize(
    ("name", "folder", "layers"),
    [("extract_load", PACKAGE, ENGINE_LAYERS), ("common", DAGS / "common", DAGS_LAYERS)],
    ids=["engine", "dags"],
)


def imports(name: str, folder: Path) -> dict[str, set[str]]:
    """Each module of a package with those it imports, also inside functions."""
    found: dict[str, set[str]] = {}
    for path in folder.glob("*.py"):
        if path.stem == "__init__":
            continue
        names: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                parts = node.module.split(".")
                if parts[0] == name:
                    names |= {parts[1]} if parts[1:] else {alias.name for alias in node.names}
        found[path.stem] = names - {"__version__"}
    return found


@PACKAGES
def test_imports_have_no_cycle(name: str, folder: Path, layers: list[set[str]]) -> None:
    assert layers
    list(TopologicalSorter(imports(name, folder)).static_order())


@PACKAGES
def test_imports_only_point_down(name: str, folder: Path, layers: list[set[str]]) -> None:
    depth = {module: number for number, layer in enumerate(layers) for module in layer}
    graph = imports(name, folder)

    assert set(graph) <= set(depth), "a new module needs a layer"
    upward = [
        (module, imported)
        for module, names in graph.items()
        for imported in names
        if depth[imported] < depth[module]
    ]
    assert upward == []


def test_the_engine_knows_neither_airflow_nor_dbt() -> None:
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                roots = {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                roots = {(node.module or "").split(".")[0]}
            else:
                continue
            assert not roots & {"airflow", "dbt", "cosmos"}, path


def test_dags_use_the_engines_public_names_and_no_driver() -> None:
    for path in DAGS.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                modules = [node.module or ""]
            else:
                continue
            for module in modules:
                assert not module.startswith("extract_load."), path
                assert module.split(".")[0] not in {"psycopg", "psycopg2"}, path


def test_every_public_name_is_there_and_no_other() -> None:
    for name in extract_load.__all__:
        assert getattr(extract_load, name).__name__ == name or name == "Resolver"
    assert sorted(extract_load.__all__) == extract_load.__all__
    assert set(extract_load._HOME_OF) == set(extract_load.__all__)


def test_every_module_says_what_it_is() -> None:
    for path in PACKAGE.glob("*.py"):
        module = importlib.import_module(f"extract_load.{path.stem}")
        assert module.__doc__, path


@PACKAGES
def test_every_module_stands_in_the_architecture(
    name: str, folder: Path, layers: list[set[str]]
) -> None:
    assert layers
    page = (PACKAGE.parent / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = "".join(line for line in page.splitlines() if line.startswith("| "))
    assert [module for module in imports(name, folder) if f"`{module}`" not in rows] == []


def test_rooms_stay_middling() -> None:
    """A file over 400 lines, or a function over 60, is a question for its author."""
    for path in [*PACKAGE.rglob("*.py"), *DAGS.rglob("*.py")]:
        text = path.read_text(encoding="utf-8")
        assert text.count("\n") <= 400, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                assert (node.end_lineno or 0) - node.lineno < 60, f"{path}: {node.name}"
