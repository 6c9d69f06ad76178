"""dbt sources as settings, read without dbt."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from extract_load.config import Deletes, Settings, SyncMode
from extract_load.dbt_sources import (
    dbt_project_document,
    load_dbt_project,
    settings_from_manifest,
)
from extract_load.errors import ConfigError
from extract_load.settings_file import Document

SOURCES = """
sources:
  - name: shop
    schema: "{{ env_var('RAW_SCHEMA', 'raw_data') }}"
    config:
      meta:
        extract_load_defaults:
          source_connection: digitalocean_postgres
          target_connection: postgres_default
          batch_size: 10
          tables_in_parallel: 3
    tables:
      - name: users
        identifier: shop_users
        config: {meta: {extract_load: {}}}
      - name: orders
        config:
          meta:
            extract_load: {sync_mode: xmin_incremental, batch_size: 20, deletes: soft}
      - name: prices
        config:
          meta:
            extract_load: {source: '"시장"."종목마스터"', custom_where: "code LIKE '%-L'"}
      - name: off
        config: {enabled: false, meta: {extract_load: {}}}
      - name: not_landed
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "models").mkdir()
    (tmp_path / "dbt_project.yml").write_text("name: shop\nvars: {mode: full_sync}\n")
    (tmp_path / "models" / "_sources.yml").write_text(SOURCES)
    return tmp_path


def test_tables_are_those_with_the_key_their_names_follow_from_dbts(project: Path) -> None:
    settings = load_dbt_project(project, {})

    assert [(table.source.written, table.target.written) for table in settings.tables] == [
        ("public.users", "raw_data.shop_users"),
        ("public.orders", "raw_data.orders"),
        ('"시장"."종목마스터"', "raw_data.prices"),
    ]


def test_defaults_are_merged_below_a_tables_own_keys(project: Path) -> None:
    settings = load_dbt_project(project, {})

    users, orders, _ = settings.tables
    assert (users.batch_size, orders.batch_size) == (10, 20)
    assert (users.sync_mode, orders.sync_mode) == (SyncMode.FULL_SYNC, SyncMode.XMIN_INCREMENTAL)
    assert orders.follows_deletes is Deletes.SOFT
    assert users.source_connection == "digitalocean_postgres"
    assert settings.run.tables_in_parallel == 3


def test_what_is_declared_can_be_read_without_being_checked(project: Path) -> None:
    document = dbt_project_document(project, {})

    assert document["tables_in_parallel"] == 3
    assert document["tables"][1] == {
        "source": "public.orders",
        "target": "raw_data.orders",
        "source_connection": "digitalocean_postgres",
        "target_connection": "postgres_default",
        "sync_mode": "xmin_incremental",
        "batch_size": 20,
        "deletes": "soft",
    }
    assert load_dbt_project(project, {}).document == document


def test_env_var_and_var_are_rendered(project: Path) -> None:
    (project / "models" / "_sources.yml").write_text(
        SOURCES.replace("sync_mode: xmin_incremental", "sync_mode: \"{{ var('mode') }}\"")
    )
    settings = load_dbt_project(project, {"RAW_SCHEMA": "landing"})

    assert settings.tables[0].target.parts == ("landing", "shop_users")
    assert settings.tables[1].sync_mode is SyncMode.FULL_SYNC


@pytest.mark.parametrize(
    ("text", "primary"),
    [
        ("{{ env_var('NOT_SET') }}", 'environment variable "NOT_SET" is not set'),
        ("{{ var('not_set') }}", 'dbt variable "not_set" is not set'),
        ("{{ target.schema }}", "cannot render '{{ target.schema }}'"),
    ],
    ids=["env_var", "var", "anything else"],
)
def test_what_cannot_be_rendered_is_told(text: str, primary: str, project: Path) -> None:
    path = project / "models" / "_sources.yml"
    path.write_text(SOURCES.replace("{{ env_var('RAW_SCHEMA', 'raw_data') }}", text))

    with pytest.raises(ConfigError) as caught:
        load_dbt_project(project, {})

    assert caught.value.primary == primary
    assert caught.value.hint


def test_a_manifest_says_the_same(project: Path) -> None:
    """What dbt writes into its manifest: config.meta merged, schema and identifier resolved."""
    source = yaml.safe_load(SOURCES)["sources"][0]
    defaults = source["config"]["meta"]
    manifest = {
        "sources": {
            f"source.shop.shop.{table['name']}": {
                "source_name": "shop",
                "name": table["name"],
                "schema": "raw_data",
                "identifier": table.get("identifier", table["name"]),
                "config": {"meta": {**defaults, **table.get("config", {}).get("meta", {})}},
            }
            for table in source["tables"]
            if table.get("config", {}).get("enabled", True)
        }
    }

    settings = settings_from_manifest(manifest, {})

    assert settings.tables == load_dbt_project(project, {}).tables
    (one,) = settings_from_manifest(manifest, {}, ["source.shop.shop.orders"]).tables
    assert one.source.written == "public.orders"


def test_problems_of_all_sources_are_told_at_once(project: Path) -> None:
    (project / "models" / "_sources.yml").write_text(
        SOURCES.replace("batch_size: 20", "batch_size: x").replace("{}", "{sync_mod: full_sync}")
    )

    with pytest.raises(ConfigError) as caught:
        load_dbt_project(project, {})

    assert [(problem.table, problem.key) for problem in caught.value.problems] == [
        ("public.users", "sync_mod"),
        ("public.orders", "batch_size"),
    ]


@pytest.mark.parametrize(
    ("written", "slip"),
    [("extract_load: {}", "extract_laod"), ("extract_load_defaults:", "extract_load_default")],
)
def test_a_slip_in_our_key_does_not_leave_a_table_out(
    written: str, slip: str, project: Path
) -> None:
    meant = written.partition(":")[0]
    wrong = SOURCES.replace(written, written.replace(meant, slip))
    (project / "models" / "_sources.yml").write_text(wrong)
    config: Document = {"meta": {slip: {}}}
    manifest = {"sources": {"source.shop.shop.users": {"name": "users", "config": config}}}

    loads: tuple[Callable[[], Settings], ...] = (
        lambda: load_dbt_project(project, {}),
        lambda: settings_from_manifest(manifest, {}),
    )
    for load in loads:
        with pytest.raises(ConfigError) as caught:
            load()
        assert caught.value.primary.startswith('the dbt source table "users" has "' + slip)
        assert f'did you mean "{meant}"?' in caught.value.detail


def test_what_others_write_into_a_meta_is_theirs(project: Path) -> None:
    others = "config: {meta: {owner: shop, extract_loader: x, extract_load_dag: y, load: daily}}"
    text = SOURCES.replace("- name: not_landed", f"- name: not_landed\n        {others}")
    before = load_dbt_project(project, {}).tables
    (project / "models" / "_sources.yml").write_text(text)
    assert load_dbt_project(project, {}).tables == before
