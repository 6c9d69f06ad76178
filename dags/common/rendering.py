"""How the tables a dbt project declares become tasks, upstream of the models that read them.

All of it happens while a DAG file is parsed, out of dbt's manifest alone: no database, no network,
no Variable.
"""

import os
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, BaseOperator, TaskGroup, TriggerRule
from cosmos import RenderConfig
from cosmos.constants import DbtResourceType, LoadMode, SourceRenderingBehavior, TestBehavior
from cosmos.dbt.graph import DbtNode

from common.checks import ConnectionCheckOperator
from common.declared_tables import DeclaredTable, Target, declared_tables, siblings_of
from common.manifest import Manifest
from common.operator import ExtractLoadOperator
from common.placement import place_nodes
from extract_load import Settings, settings_from_manifest

_CHECKS = "connections"
"""The group of the tasks that log in."""


@dataclass(frozen=True)
class DagPart:
    """What one DAG lands and builds of a dbt project."""

    landed: Mapping[str, Settings]
    """A run of one table, into all its targets, for each source the DAG lands, by unique id."""
    siblings: Mapping[str, list[Collection[Target]]]
    """The targets of each other table that the DAG lands from the same source, by unique id."""
    unique_ids: frozenset[str]
    """Every node and source that stands in the DAG."""

    @cached_property
    def table_names(self) -> list[str]:
        """The landed tables, as their sources write them."""
        return sorted({one.tables[0].source.written for one in self.landed.values()})


def part_of_dag(manifest: Manifest, dag_id: str) -> DagPart:
    """Returns what a DAG lands and builds.

    Args:
        manifest: dbt's.
        dag_id: The DAG.

    Raises:
        ConfigError: If the declarations hold any problem; it names them all.
    """
    sources = manifest["sources"]
    declared = [uid for uid, node in sources.items() if "extract_load" in node["config"]["meta"]]
    together = settings_from_manifest(manifest, os.environ, declared)  # all problems at once
    tables = dict(zip(declared, declared_tables(together), strict=True))
    placed = place_nodes(manifest, {uid: table.dag_id for uid, table in tables.items()})
    own = {uid: table for uid, table in tables.items() if placed[uid] == dag_id}
    same_source = defaultdict(list)
    for table in own.values():
        same_source[table.source].append(table)
    return DagPart(
        landed={
            uid: settings_from_manifest(manifest, os.environ, [uid])
            for uid, table in own.items()
            if _is_enabled(table)
        },
        siblings={uid: siblings_of(table, same_source[table.source]) for uid, table in own.items()},
        unique_ids=frozenset(uid for uid, placed_in in placed.items() if placed_in == dag_id),
    )


def render_config(part: DagPart, select: list[str]) -> RenderConfig:
    """Returns how Cosmos draws a part of a dbt project around the loads.

    Args:
        part: The part.
        select: dbt selectors that narrow it down; none keeps all of it.
    """
    return RenderConfig(
        load_method=LoadMode.DBT_MANIFEST,
        select=select,
        source_rendering_behavior=SourceRenderingBehavior.ALL,
        node_converters={DbtResourceType.SOURCE: _source_converter(part)},
        # With True a tested source would lose its tests, and a second one its task id.
        node_conversion_by_task_group=False,
        test_behavior=TestBehavior.AFTER_EACH,
        # Else a test over two models runs after each of them, before the other one is built.
        should_detach_multiple_parents_tests=True,
        # Cosmos' asset URIs hold the warehouse's host; each task would warn about it.
        emit_datasets=False,
    )


def _is_enabled(table: DeclaredTable) -> bool:
    return any(one.enabled for one in table.landed)


def _source_converter(part: DagPart) -> Callable[..., BaseOperator | TaskGroup]:
    """What makes a task of a dbt source; Cosmos wants a plain function."""

    def convert_source(
        dag: DAG, task_group: TaskGroup | None, node: DbtNode, **_: Any
    ) -> BaseOperator | TaskGroup:
        if node.unique_id not in part.landed:
            return _loads_ended(dag)
        # A tested source stands in a group of its own. One without tests gets the same: the name
        # of a task, and with it its history, does not depend on whether there is a test.
        tested = node.has_non_detached_test
        group = task_group if tested else TaskGroup(node.name, dag=dag, parent_group=task_group)
        settings = part.landed[node.unique_id]
        load = ExtractLoadOperator(
            task_id="extract_load",
            dag=dag,
            task_group=group,
            settings=settings,
            siblings=part.siblings[node.unique_id],
        )
        [_check(dag, conn_id) for conn_id in _needed(settings)] >> load
        load >> [_loads_ended(dag), _loads_succeeded(dag)]
        return load if tested else group

    return convert_source


def _needed(settings: Settings) -> list[str]:
    """The connections without which nothing of a table can be landed.

    Of several targets none is: one that is down is told by the load, which serves the others.
    """
    targets = {table.target_connection for table in settings.tables}
    needed = {settings.tables[0].source_connection, *(targets if len(targets) == 1 else ())}
    return sorted(needed)


def _check(dag: DAG, conn_id: str) -> BaseOperator:
    """The task that logs in over a connection, one for all tables of a DAG."""
    task_id = f"{_CHECKS}.{conn_id}"
    if task_id in dag.task_dict:
        return dag.task_dict[task_id]
    group = dag.task_group.children.get(_CHECKS)
    if group is None:
        group = TaskGroup(_CHECKS, dag=dag, parent_group=dag.task_group)
    return ConnectionCheckOperator(task_id=conn_id, dag=dag, task_group=group, conn_id=conn_id)


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
