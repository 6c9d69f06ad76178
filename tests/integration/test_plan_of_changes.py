"""`plan` tells what a run would alter, under which locks, and who reads the raw table."""

import json
from pathlib import Path

import pytest

from tests.support.command import Outcome, extract_load
from tests.support.landing import environment, land_one
from tests.support.servers import Database
from tests.support.tables import FULL, RAW, create_items

SOURCES = """
sources:
  - name: digitalocean
    schema: raw_data
    config:
      meta:
        extract_load_defaults:
          {source_connection: digitalocean_postgres, target_connection: postgres_default}
    tables:
      - name: items
        identifier: digitalocean_items
        config: {meta: {extract_load: {}}}
"""
MANIFEST = {
    "sources": {
        "source.shop.digitalocean.items": {"schema": "raw_data", "identifier": "digitalocean_items"}
    },
    "child_map": {
        "source.shop.digitalocean.items": [
            *("model.shop.stg_items", "test.shop.not_null_items_id.1", "snapshot.shop.snap_items")
        ]
    },
}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "dbt_project.yml").write_text("name: shop\n", encoding="utf-8")
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "sources.yml").write_text(SOURCES, encoding="utf-8")
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "manifest.json").write_text(json.dumps(MANIFEST), encoding="utf-8")
    return tmp_path


@pytest.fixture
def items(source: Database, target: Database) -> Database:
    create_items(source, 50)
    land_one(source, target, FULL)
    target.execute(f"CREATE VIEW public.seen AS SELECT id, body FROM {RAW}")
    return source


def plan(items: Database, target: Database, project: Path, *options: str) -> Outcome:
    return extract_load(
        *("plan", "--project-dir", str(project), *options), environment=environment(items, target)
    )


def test_plan_lists_ddl_locks_views_and_models(
    items: Database, target: Database, project: Path
) -> None:
    items.execute(
        "ALTER TABLE public.items RENAME body TO content;"
        "ALTER TABLE public.items ADD COLUMN extra int;"
        "ALTER TABLE public.items ALTER amount SET NOT NULL"
    )

    text = plan(items, target, project).stdout
    (table,) = plan(items, target, project, "--output", "json", "--allow-rewrite").json["tables"]

    for line in (
        'warning: Renamed in the source: "body" is "content" now. '
        "These views go on and show the old names: public.seen.",
        'warning: The raw table has no column "extra" (integer).',
        'warning: Column "amount" is NOT NULL in the source, not in the raw table. '
        "It is left so; --allow-rewrite would follow the source.",
        f'ddl: alter table {RAW} rename column "body" to "content"',
        f'ddl: alter table {RAW} add column "extra" integer',
        f"lock: target {RAW}: ACCESS EXCLUSIVE for a moment",
        "views: public.seen",
        "dbt models: stg_items, snap_items",
    ):
        assert f"public.items: {line}\n" in text
    assert "readers wait)" not in text
    assert table["ddl"][-1] == f'alter table {RAW} alter column "amount" set not null'
    assert table["locks"][-1].endswith("while it is rewritten or read (readers wait)")
    assert table["dependent_views"] == ["public.seen"]
    assert table["dbt_models"] == ["stg_items", "snap_items"]
    assert table["baseline"]
    columns = f"SELECT count(*) FROM pg_attribute WHERE attrelid = '{RAW}'::regclass AND attnum > 0"
    assert target.execute(columns) == [(5,)]


def test_a_refusal_names_the_models_too(items: Database, target: Database, project: Path) -> None:
    items.execute("ALTER TABLE public.items ALTER body TYPE varchar")

    refused = plan(items, target, project, "--allow-rewrite")

    assert refused.status == 1
    assert "and views depend on it" in refused.stdout
    assert f"dbt models that read {RAW}: stg_items, snap_items" in refused.stdout


def test_run_takes_allow_rewrite(items: Database, target: Database, project: Path) -> None:
    items.execute("ALTER TABLE public.items ALTER amount TYPE bigint")
    arguments = ("run", "--project-dir", str(project))
    names = environment(items, target)

    assert extract_load(*arguments, environment=names).status == 1
    assert extract_load(*arguments, "--allow-rewrite", environment=names).status == 0
    assert target.execute(f"SELECT pg_typeof(amount)::text FROM {RAW} LIMIT 1") == [("bigint",)]


@pytest.mark.parametrize("text", ["{", "{}"], ids=["broken", "empty"])
def test_a_manifest_that_cannot_be_read_is_told(
    items: Database, target: Database, project: Path, text: str
) -> None:
    (project / "target" / "manifest.json").write_text(text, encoding="utf-8")

    refused = plan(items, target, project)

    assert refused.status == 2
    assert 'manifest.json"' in refused.stderr
    assert "dbt parse" in refused.stderr


def test_without_a_manifest_nobody_is_known(
    items: Database, target: Database, project: Path
) -> None:
    (project / "target" / "manifest.json").unlink()
    items.execute("ALTER TABLE public.items ADD COLUMN extra int")
    assert "dbt models: none known" in plan(items, target, project).stdout
