"""The rules of the dbt project, over the manifest: what a reviewer would otherwise look for."""

import json
import re
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import yaml

from extract_load.dbt_models import read_models
from extract_load.dbt_sources import load_dbt_project, settings_from_manifest
from tests.dbt.project import Node, Project
from tests.dbt.warehouse import PROJECT, ROOT, Outcome

NAMES: dict[str, Callable[[str], str]] = {
    "staging": lambda area: rf"stg_{area}__[a-z_]+s(_local)?",
    "intermediate": lambda _: r"int_[a-z_]+s_[a-z]+ed(_to_[a-z_]+)?",
    "marts": lambda _: r"(fct|dim|bridge|rpt)_[a-z_]+s",
}


@pytest.fixture(scope="module")
def project(manifest: dict[str, Any]) -> Project:
    return Project(manifest)


def names(nodes: list[Node]) -> list[str]:
    return sorted(node["name"] for node in nodes)


def test_the_project_parses_without_a_warning_or_deprecation(
    parsed: tuple[Outcome, dict[str, Any]],
) -> None:
    assert parsed[0] == Outcome(succeeded=True, warnings=[], errors=[])


# ---------------------------------------------------------------- layers and names


def test_only_staging_models_and_snapshots_read_a_source(project: Project) -> None:
    others = [model for model in project.models() if project.layer(model) != "staging"]
    assert names([model for model in others if project.sources_of(model)]) == []


def test_a_staging_model_reads_one_source_table_and_nothing_else(project: Project) -> None:
    for model in project.models("staging"):
        (parent,) = project.parents(model)
        assert (parent["resource_type"], parent["source_name"]) == ("source", project.area(model))
        assert not re.search(r"\b(join|union)\b", model["raw_code"]), model["name"]


def test_a_source_table_has_one_staging_model_and_one_for_its_deletions_at_most(
    project: Project,
) -> None:
    """The second one shows the keys of rows that were deleted softly; the first never does."""
    for source in project.sources():
        stem = f"stg_{source['source_name']}__{source['name']}"
        deletions = f"{stem.removesuffix('s')}_deletions"
        read_by = names(project.readers(source))
        assert stem in read_by
        assert set(read_by) <= {stem, deletions}
        if deletions in read_by:
            assert project.deletes(source) == "soft"


def test_a_staging_model_of_a_softly_deleting_table_filters(project: Project) -> None:
    soft = [source for source in project.landed() if project.deletes(source) == "soft"]
    assert names(soft) == ["order_items", "orders"]
    for source in soft:
        for model in project.readers(source):
            shown = "is not null" if model["name"].endswith("_deletions") else "is null"
            assert f"where _deleted_at {shown}\n" in model["raw_code"], model["name"]


def test_a_model_is_named_for_its_layer(project: Project) -> None:
    for layer, pattern in NAMES.items():
        models = project.models(layer)
        assert models
        for model in models:
            assert re.fullmatch(pattern(project.area(model)), model["name"]), model["name"]


def test_there_is_no_layer_without_rules(project: Project) -> None:
    assert {project.layer(model) for model in project.models()} == set(NAMES)


def test_layers_only_point_down(project: Project) -> None:
    order = list(NAMES)
    for model in project.models():
        for parent in project.parents(model):
            if parent["resource_type"] == "model":
                assert order.index(project.layer(parent)) <= order.index(project.layer(model))


def test_an_exposure_shows_marts_only(project: Project) -> None:
    marts = {model["unique_id"] for model in project.models("marts")}
    for exposure in project.manifest["exposures"].values():
        assert set(exposure["depends_on"]["nodes"]) <= marts, exposure["name"]


# ---------------------------------------------------------------- shape


def test_a_model_ends_in_select_star(project: Project) -> None:
    for model in project.models():
        assert re.search(r"\n\)\n\nselect \* from [a-z_]+\s*$", model["raw_code"]), model["name"]


def test_a_model_is_short_and_joins_little(project: Project) -> None:
    for model in project.models():
        assert len(model["raw_code"].splitlines()) <= 60, model["name"]
        assert len(re.findall(r"\bjoin\b", model["raw_code"])) <= 7, model["name"]
        assert "select distinct" not in model["raw_code"], model["name"]


def test_no_model_fans_out_into_many_leaves(project: Project) -> None:
    read = {parent["unique_id"] for model in project.models() for parent in project.parents(model)}
    for model in project.models():
        leaves = [
            child["name"]
            for child in project.models()
            if model in project.parents(child) and child["unique_id"] not in read
        ]
        assert len(leaves) <= 3, (model["name"], leaves)


def test_views_are_not_piled_up(project: Project) -> None:
    for model in project.models():
        assert project.chained_views(model) <= 5, model["name"]


def test_a_mart_is_a_table_with_an_enforced_contract(project: Project) -> None:
    for model in project.models("marts"):
        assert model["config"]["materialized"] in ("table", "incremental"), model["name"]
        assert model["config"]["contract"]["enforced"], model["name"]


def test_an_incremental_model_is_driven_by_loaded_at_and_learns_of_deletions(
    project: Project,
) -> None:
    """Of a row that is gone for good it would never hear."""
    incremental = [
        model for model in project.models() if model["config"]["materialized"] == "incremental"
    ]
    assert names(incremental) == ["fct_order_items"]
    for model in incremental:
        assert "_loaded_at >" in model["raw_code"]
        parents = project.parents(model)
        for parent in parents:
            for source in project.sources_of(parent):
                deletions = f"{parent['name'].removesuffix('s')}_deletions"
                assert project.deletes(source) in ("soft", "ignore")
                if not parent["name"].endswith("_deletions"):
                    assert (deletions in names(parents)) == (project.deletes(source) == "soft")


def test_a_snapshot_reads_where_it_sees_deletes(project: Project) -> None:
    """The staging model where they are soft, the source where they are hard."""
    snapshots = project.nodes("snapshot")
    assert len(snapshots) == 3
    for snapshot in snapshots:
        (parent,) = project.parents(snapshot)
        is_source = parent["resource_type"] == "source"
        (source,) = [parent] if is_source else project.sources_of(parent)
        assert project.deletes(source) == ("hard" if is_source else "soft")
        assert snapshot["name"] == f"snap_{source['source_name']}__{source['name']}"
        assert snapshot["config"]["hard_deletes"] == "new_record"


# ---------------------------------------------------------------- words and tests


def test_every_node_is_described_beside_its_sql(project: Project) -> None:
    for node in project.models() + project.nodes("snapshot"):
        path = PurePosixPath(node["original_file_path"])
        assert node["patch_path"] == f"warehouse://{path.with_suffix('.yml')}", node["name"]
        assert node["description"].strip(), node["name"]


def test_every_source_table_and_its_columns_are_described(project: Project) -> None:
    for node in project.sources() + project.models():
        assert node["description"].strip(), node["name"]
        silent = [c["name"] for c in node["columns"].values() if not c["description"].strip()]
        assert silent == [], node["name"]


def test_every_key_is_tested(project: Project) -> None:
    """One column that is unique and not null, or several that are so together."""
    for node in project.sources() + project.models():
        tests = list(project.tests_of(node))
        not_null = {kwargs["column_name"] for name, kwargs in tests if name == "not_null"}
        keys = [{kwargs["column_name"]} for name, kwargs in tests if name == "unique"]
        keys += [
            {column.strip('"') for column in kwargs["columns"]}
            for name, kwargs in tests
            if name == "unique_together"
        ]
        tested = {column.strip('"') for column in not_null}
        assert any(key <= tested for key in keys), (node["unique_id"], keys, tested)


def test_a_unit_test_is_named_by_a_sentence(project: Project) -> None:
    unit_tests = names(list(project.manifest["unit_tests"].values()))
    assert unit_tests
    assert [name for name in unit_tests if name.count("_") < 4] == []


def test_a_singular_test_asserts_by_its_name(project: Project) -> None:
    singular = [test for test in project.nodes("test") if "test_metadata" not in test]
    assert singular
    assert [name for name in names(singular) if not name.startswith("assert_")] == []


# ---------------------------------------------------------------- files and settings


def test_the_settings_are_the_same_by_yaml_and_by_manifest(project: Project) -> None:
    """The command line reads the one, the DAG the other."""
    by_yaml = load_dbt_project(PROJECT, {})
    by_manifest = settings_from_manifest(project.manifest, {})
    assert set(by_yaml.tables) == set(by_manifest.tables)
    assert by_yaml.run == by_manifest.run
    assert len(by_yaml.tables) == 8


def test_plan_knows_which_models_read_a_raw_table(
    project: Project, manifest: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")

    known = read_models(tmp_path)

    for node in (*project.models(), *project.nodes("snapshot")):
        for source in project.sources_of(node):
            assert node["name"] in known[source["schema"], source["identifier"]]
    assert known["raw_data", "digitalocean_users"] == ("stg_digitalocean__users",)


def test_dbt_takes_no_file_of_the_project_for_a_plugin() -> None:
    """It imports every top-level module named `dbt_...`; an `__init__.py` would make this one."""
    assert [*PROJECT.rglob("__init__.py"), *PROJECT.rglob("dbt_*.py")] == []


def test_dbt_reports_home_to_nobody(manifest: dict[str, Any]) -> None:
    assert manifest["metadata"]["send_anonymous_usage_stats"] is False


def test_no_profile_holds_a_host_a_name_or_a_password() -> None:
    """Not even as a default: a forgotten variable must not lead to some other database."""
    profile = yaml.safe_load((ROOT / "profiles" / "profiles.yml").read_text())["warehouse"]
    assert set(profile["outputs"]) == {"dev", "ci", "prod"}
    for output in profile["outputs"].values():
        for key, variable in {
            "host": "HOST",
            "user": "USER",
            "password": "PASSWORD",
            "dbname": "DB",
        }.items():
            assert output[key] == f"{{{{ env_var('POSTGRES_{variable}') }}}}"
