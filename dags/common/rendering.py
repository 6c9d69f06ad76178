"""How the tables a dbt project declares become tasks, upstream of the models that read them.

All of it happens while a DAG file is parsed, out of dbt's manifest alone: no database, no network,
no Variable.
"""

import json
import os
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, BaseOperator, TaskGroup, TriggerRule
from cosmos import ProfileConfig, RenderConfig
from cosmos.constants import DbtResourceType, LoadMode, SourceRenderingBehavior, TestBehavior
from cosmos.dbt.graph import DbtNode

from common.connections import TargetProfileMapping
from common.operator import ExtractLoadOperator
from extract_load import ConfigError, Settings, settings_from_manifest

ROOT = Path(__file__).resolve().parents[2]
DBT_PROJECT = ROOT / "dbt_project"
DEFAULT_DAG = "digitalocean_data_copy_dag"
"""Lands the tables that name no DAG."""

Manifest = Mapping[str, Any]


@dataclass(frozen=True)
class DeclaredTables:
    """The tables of a dbt project, as one DAG sees them."""

    landed: Mapping[str, Settings]
    """What the DAG lands: a run of one table, into all its targets, for each source, by dbt's
    unique id."""
    elsewhere: tuple[str, ...]
    """dbt's names of the sources another DAG lands."""


def manifest_path() -> Path:
    """Returns where dbt's manifest is; EXTRACT_LOAD_MANIFEST names another file."""
    named = os.environ.get("EXTRACT_LOAD_MANIFEST")
    return Path(named).absolute() if named else DBT_PROJECT / "target" / "manifest.json"


def read_manifest(path: Path) -> Manifest:
    """Returns dbt's manifest.

    Raises:
        ConfigError: If there is none, or it cannot be read.
    """
    try:
        manifest: Manifest = json.loads(path.read_text(encoding="utf-8"))
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
    return manifest


def declared_tables(manifest: Manifest, dag_id: str) -> DeclaredTables:
    """Returns which of the declared tables a DAG lands.

    Args:
        manifest: dbt's.
        dag_id: The DAG.

    Raises:
        ConfigError: If the declarations hold any problem; it names them all.
    """
    sources = manifest["sources"]
    declared = [uid for uid, node in sources.items() if "extract_load" in node["config"]["meta"]]
    settings_from_manifest(manifest, os.environ, declared)  # the problems of all at once
    settings = {uid: settings_from_manifest(manifest, os.environ, [uid]) for uid in declared}
    own = {uid for uid, one in settings.items() if (one.tables[0].dag or DEFAULT_DAG) == dag_id}
    return DeclaredTables(
        landed={
            uid: settings[uid]
            for uid in declared
            if uid in own and any(table.enabled for table in settings[uid].tables)
        },
        elsewhere=tuple(
            f"{sources[uid]['source_name']}.{sources[uid]['name']}"
            for uid in declared
            if uid not in own
        ),
    )


def render_config(tables: DeclaredTables) -> RenderConfig:
    """Returns how Cosmos draws the dbt project around the loads."""
    return RenderConfig(
        load_method=LoadMode.DBT_MANIFEST,
        # What is built on another DAG's tables is built there.
        exclude=[f"source:{name}+" for name in tables.elsewhere],
        source_rendering_behavior=SourceRenderingBehavior.ALL,
        node_converters={
            DbtResourceType.SOURCE: _source_converter(tables.landed),
            DbtResourceType("exposure"): _no_task,
        },
        # With True a tested source would lose its tests, and a second one its task id.
        node_conversion_by_task_group=False,
        test_behavior=TestBehavior.AFTER_EACH,
        # Else a test over two models runs after each of them, before the other one is built.
        should_detach_multiple_parents_tests=True,
        # Cosmos' asset URIs hold the warehouse's host; each task would warn about it.
        emit_datasets=False,
    )


def target_profile(conn_id: str) -> ProfileConfig:
    """Returns dbt's profile over a connection of Airflow, in the schemas of DBT_TARGET."""
    dbt_target = os.environ.get("DBT_TARGET", "dev")
    schema = "marts" if dbt_target == "prod" else os.environ.get("DBT_USER", dbt_target)
    return ProfileConfig(
        profile_name="warehouse",
        target_name=dbt_target,
        profile_mapping=TargetProfileMapping(
            conn_id,
            profile_args={
                "schema": schema,
                "threads": 4,
                "connect_timeout": 10,
                "application_name": "dbt",
            },
        ),
    )


def _no_task(**_: Any) -> None:
    """Nothing to run for a node; without a converter Cosmos warns of each at every parse."""


def _source_converter(landed: Mapping[str, Settings]) -> Callable[..., BaseOperator | TaskGroup]:
    """What makes a task of a dbt source; Cosmos wants a plain function."""

    def convert_source(
        dag: DAG, task_group: TaskGroup | None, node: DbtNode, **_: Any
    ) -> BaseOperator | TaskGroup:
        if node.unique_id not in landed:
            return _loads_ended(dag)
        # A tested source stands in a group of its own. One without tests gets the same: the name
        # of a task, and with it its history, does not depend on whether there is a test.
        tested = node.has_non_detached_test
        group = task_group if tested else TaskGroup(node.name, dag=dag, parent_group=task_group)
        load = ExtractLoadOperator(
            task_id="extract_load", dag=dag, task_group=group, settings=landed[node.unique_id]
        )
        load >> [_loads_ended(dag), _loads_succeeded(dag)]
        return load if tested else group

    return convert_source


def _loads_ended(dag: DAG) -> BaseOperator:
    """What readers of the ledger, and of any table landed by somebody else, wait for.

    The ledger is there after the first load and complete after the last one, and a report on
    failures is wanted most when some failed.
    """
    return _gate(dag, "loads_ended", TriggerRule.ALL_DONE)


def _loads_succeeded(dag: DAG) -> BaseOperator:
    """A leaf, because Airflow calls a run green when its leaves are.

    The failure of a table that no model reads would end in `loads_ended`, which is green.
    """
    return _gate(dag, "loads_succeeded", TriggerRule.ALL_SUCCESS)


def _gate(dag: DAG, task_id: str, trigger_rule: TriggerRule) -> BaseOperator:
    if task_id in dag.task_dict:
        return dag.task_dict[task_id]
    return EmptyOperator(
        task_id=task_id, dag=dag, task_group=dag.task_group, trigger_rule=trigger_rule
    )


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
