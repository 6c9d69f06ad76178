"""Variables over declarations: what wins, what fails, and what it says."""

import json
import logging
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException

from common.central_settings import (
    effective_dbt_config,
    effective_monitoring,
    effective_settings,
    require_no_stray_entries,
)
from common.checks import EntriesCheckOperator
from common.declarations import read_defaults
from common.variables import WRITTEN
from extract_load import ConfigError, Settings, TableSettings, settings_from_document

DAG = "digitalocean_data_copy_dag"
HYBRID = "hybrid_data_copy_dag"
CONNECTIONS = {
    "source_connection": "digitalocean_postgres",
    "target_connection": "postgres_default",
}
USERS = {"source": "public.users", "target": "raw_data.digitalocean_users"}
LOCAL = {"conn_id": "postgres_default", "table": "raw_data.users_local", "sync_mode": "full_sync"}
FS2 = {
    "conn_id": "fs2_postgres",
    "table": "raw_data.users_fs2",
    "sync_mode": "incremental_sync",
    "incremental_field": "updated_at",
}
TWO_TARGETS = {"source": "public.users", "targets": [LOCAL, FS2]}
OPERATORS_HINT = "Mend the key under Admin > Variables, or remove it"


def declared(*entries: dict[str, Any]) -> Settings:
    return settings_from_document({**CONNECTIONS, "tables": list(entries)}, "test")


def variables(written: Any = None, **present: Any) -> Callable[[str], str | None]:
    """Finds Variables: texts as they are, anything else as JSON."""
    texts = {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in {**present, WRITTEN: written}.items()
        if value is not None
    }
    return texts.get


def entries(*tables: Any, dag_id: str = DAG) -> dict[str, Any]:
    return {dag_id: list(tables)}


def one(find: Callable[[str], str | None], **keys: Any) -> TableSettings:
    """The settings that hold for the table `users`."""
    return effective_settings(DAG, declared({**USERS, **keys}), (), find).tables[0]


def both(find: Callable[[str], str | None]) -> tuple[TableSettings, ...]:
    """The settings that hold for a table with two targets."""
    return effective_settings(HYBRID, declared(TWO_TARGETS), (), find).tables


def problems(act: Callable[[], object]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        act()
    error = caught.value
    count = len(error.problems)
    assert error.primary == f"Airflow Variables have {count} problem{'s' if count > 1 else ''}"
    assert error.hint.startswith(OPERATORS_HINT)
    return [str(problem) for problem in error.problems]


# ---------------------------------------------------------------- what wins


def test_without_variables_the_declarations_hold() -> None:
    table = one(variables(), batch_size=7, max_retries=1)
    assert (table.batch_size, table.max_retries) == (7, 1)


def test_a_changed_key_works_on_the_next_run() -> None:
    written = entries({**USERS, "batch_size": 7})
    changed = entries({**USERS, "batch_size": 9, "custom_where": "id > 3"})
    find = variables({"table_configs": written}, table_configs=changed)
    table = one(find, batch_size=7)
    assert table.batch_size == 9
    assert table.custom_where is not None
    assert table.custom_where.written == "id > 3"


def test_an_entry_that_somebody_wrote_by_hand_wins() -> None:
    find = variables(table_configs=entries({"source": "public.users", "batch_size": 9}))
    assert one(find, batch_size=7).batch_size == 9


def test_what_stands_as_it_was_written_gives_way_to_a_new_declaration() -> None:
    written = entries({**USERS, "batch_size": 7, "deletes": "soft"})
    table = one(variables({"table_configs": written}, table_configs=written), batch_size=8)
    assert (table.batch_size, table.deletes) == (8, None)


def test_a_stale_target_that_nobody_edited_is_no_change() -> None:
    """Or a redeployed target would fail until somebody runs variable_setup_dag."""
    old = entries({**USERS, "target": "raw_data.old_name", "target_connection": "fs2_postgres"})
    stale = variables({"table_configs": old}, table_configs=old)
    assert one(stale).target.written == USERS["target"]

    listed = entries({"source": "public.users", "targets": [LOCAL]}, dag_id=HYBRID)
    find = variables({"table_configs": listed}, table_configs=listed)
    assert [table.target_connection for table in both(find)] == ["postgres_default", "fs2_postgres"]


def test_half_of_a_killed_writing_is_no_edit() -> None:
    before, after = ({"table_configs": entries({**USERS, "batch_size": n})} for n in (7, 8))
    find = variables({**before, "being_written": [after]}, **after)
    assert one(find, batch_size=6).batch_size == 6
    assert (
        one(variables({**before, "being_written": [after]}, **before), batch_size=6).batch_size == 6
    )


def test_a_key_an_operator_removed_is_as_declared() -> None:
    written = {"table_configs": entries({**USERS, "batch_size": 7})}
    assert one(variables(written, table_configs=entries(USERS)), batch_size=8).batch_size == 8


def test_the_guides_table_works() -> None:
    guide = {
        **USERS,
        "primary_key": ["id"],
        "sync_mode": "full_sync",
        "batch_size": 10000,
        "chunk_mode": True,
        "enable_checkpoint": True,
        "max_retries": 3,
        "description": "DigitalOcean 사용자 테이블 - 전체 동기화",
    }
    table = one(variables(table_configs=entries(guide)))
    assert (table.primary_key, table.batch_size, table.chunk_mode) == (("id",), 10000, True)
    assert table.description == guide["description"]


def test_each_target_has_keys_of_its_own() -> None:
    entry = {
        "source": "public.users",
        "targets": [{**FS2, "batch_size": 5000}, {**LOCAL, "batch_size": 10000}],
        "primary_key": ["id"],
        "incremental_field_type": "timestamp",
        "source_description": "DigitalOcean 사용자 테이블",
    }
    local, fs2 = both(variables(table_configs=entries(entry, dag_id=HYBRID)))
    assert (local.target_connection, local.batch_size) == ("postgres_default", 10000)
    assert (fs2.target_connection, fs2.batch_size) == ("fs2_postgres", 5000)
    assert fs2.incremental_field_type == "timestamp"
    assert {local.primary_key, fs2.primary_key} == {("id",)}


def test_what_a_variable_changes_is_told(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    one(variables(table_configs=entries({**USERS, "batch_size": 9})), batch_size=7)
    told = [record.getMessage() for record in caplog.records]
    assert told == [f"Variable table_configs.{DAG}.public.users.batch_size: 9"]


def test_run_keys_of_a_dag() -> None:
    find = variables(dag_configs={DAG: {"tables_in_parallel": 3, "schedule": "0 2 * * *"}})
    settings = effective_settings(DAG, declared(USERS), (), find)
    assert settings.run.tables_in_parallel == 3
    assert settings.run.source_connection == "digitalocean_postgres"


# ---------------------------------------------------------------- sizes


def test_what_a_table_sets_itself_wins_over_its_size() -> None:
    table = one(variables(), batch_size=7)
    assert table.sized(10).chunk_mode, "who asks for chunks of 7 rows asks for chunks"
    assert table.sized(200_000_000).max_retries == 5
    assert {table.sized(rows).batch_size for rows in (10, 10**6, 10**8, 10**9)} == {7}


def test_a_batch_size_in_a_variable_cuts_a_small_table_too() -> None:
    small = one(variables(table_configs=entries({"source": "public.users", "batch_size": 5})))
    assert (small.sized(10).chunk_mode, small.sized(10).batch_size) == (True, 5)
    assert one(variables()).sized(10).chunk_mode is False


def test_a_size_can_be_changed() -> None:
    find = variables(chunk_mode_configs={"small": {"max_rows": 10}, "large": {"batch_size": 3}})
    table = one(find)
    assert table.sized(10).chunk_mode is False
    assert table.sized(11).chunk_mode is True
    assert table.sized(50_000_000).batch_size == 3


def test_sizes_apply_to_every_target_and_to_what_it_leaves_open() -> None:
    entry = {"source": "public.users", "targets": [{**LOCAL, "batch_size": 4}, FS2]}
    local, fs2 = both(variables(table_configs=entries(entry, dag_id=HYBRID)))
    assert (local.sized(10**9).batch_size, fs2.sized(10**9).batch_size) == (4, 500_000)


def test_sizes_that_a_table_declares_are_its_own() -> None:
    table = one(variables(), by_size=[{"max_rows": 5, "batch_size": 2}])
    assert table.sized(3).batch_size == 2
    assert table.sized(10**9).batch_size == 50_000


# ---------------------------------------------------------------- what shapes the graph


@pytest.mark.parametrize(
    "repeated",
    [
        {"source": '"public"."users"', "target": 'raw_data."digitalocean_users"'},
        {"dag": DAG},
        {"distributed": False},
        CONNECTIONS,
    ],
)
def test_the_graph_can_be_repeated(repeated: dict[str, Any]) -> None:
    assert one(variables(table_configs=entries({**USERS, **repeated}))).batch_size == 50_000


@pytest.mark.parametrize(
    ("key", "value", "was"),
    [
        ("target", "raw_data.other", USERS["target"]),
        ("dag", "other_dag", DAG),
        ("distributed", True, False),
        ("source_connection", "nope", "digitalocean_postgres"),
        ("target_connection", "fs2_postgres", "postgres_default"),
        ("targets", [FS2], ["postgres_default:raw_data.digitalocean_users"]),
    ],
)
def test_the_graph_cannot_be_changed(key: str, value: Any, was: Any) -> None:
    (told,) = problems(lambda: one(variables(table_configs=entries({**USERS, key: value}))))
    shown = ["fs2_postgres:raw_data.users_fs2"] if key == "targets" else value
    assert told == (
        f"table_configs.{DAG}.public.users.{key}: {shown!r} is not what is declared, {was!r}. It "
        "shapes the graph, which is drawn without Variables: repeat what is declared, or change "
        "the dbt source and deploy."
    )


@pytest.mark.parametrize(
    ("targets", "told"),
    [
        ([LOCAL], "is not what is declared"),
        ([LOCAL, FS2, {"conn_id": "x", "table": "raw_data.y"}], "is not what is declared"),
        ([LOCAL, {**FS2, "conn_id": "nope"}], "is not what is declared"),
        ([LOCAL, LOCAL], "should be a list of targets, each with a conn_id and a table of its own"),
        ([LOCAL, {"conn_id": "fs2_postgres"}], "should be a list of targets"),
        ([LOCAL, "fs2_postgres"], "should be a list of targets"),
        ("fs2_postgres", "should be a list of targets"),
    ],
    ids=["one left out", "one more", "another id", "twice", "no table", "a text", "no list"],
)
def test_targets_cannot_be_changed(targets: Any, told: str) -> None:
    entry = {"source": "public.users", "targets": targets}
    (found,) = problems(lambda: both(variables(table_configs=entries(entry, dag_id=HYBRID))))
    assert found.startswith(f"table_configs.{HYBRID}.public.users.targets: ")
    assert told in found


def test_a_target_that_is_no_longer_declared_takes_its_edits_with_it() -> None:
    gone = {"conn_id": "old", "table": "raw_data.old"}
    written = entries({"source": "public.users", "targets": [LOCAL, FS2, gone]}, dag_id=HYBRID)
    changed = [LOCAL, {**FS2, "batch_size": 5}, {**gone, "batch_size": 6}]
    entry = {"source": "public.users", "targets": changed}
    find = variables({"table_configs": written}, table_configs=entries(entry, dag_id=HYBRID))
    assert [table.batch_size for table in both(find)] == [50_000, 5]


@pytest.mark.parametrize(
    ("key", "value"), [("schedule", "0 3 * * *"), ("timezone", "UTC"), ("source_connection", "x")]
)
def test_a_dags_graph_cannot_be_changed(key: str, value: str) -> None:
    was = read_defaults({})["dag_configs"][DAG][key]
    (told,) = problems(lambda: one(variables(dag_configs={DAG: {key: value}})))
    assert told.startswith(f"dag_configs.{DAG}.{key}: {value!r} is not what is declared, {was!r}.")
    assert "change dags/common/defaults.yml and deploy." in told


# ---------------------------------------------------------------- which table an entry is about


def test_a_source_landed_twice_is_found_by_its_target() -> None:
    sibling = [frozenset({("postgres_default", ("raw_data", "other"))})]
    ours, other = {**USERS, "batch_size": 5}, {**USERS, "target": "raw_data.other", "batch_size": 6}

    def batch_size(*tables: Any) -> int:
        find = variables(table_configs=entries(*tables))
        return effective_settings(DAG, declared(USERS), sibling, find).tables[0].batch_size

    assert batch_size(other, ours) == 5
    assert batch_size(other) == 50_000
    (told,) = problems(lambda: batch_size({"source": "public.users", "batch_size": 4}))
    assert told.endswith("the DAG lands it 2 times; name the target of one of them.")
    (told,) = problems(lambda: batch_size({**USERS, "target": "raw_data.typo"}))
    assert "target: 'raw_data.typo' is not what is declared" in told


def test_an_entry_that_stands_twice_fails() -> None:
    (told,) = problems(lambda: one(variables(table_configs=entries(USERS, USERS))))
    assert told == f"table_configs.{DAG}.public.users: stands twice; keep one entry."


@pytest.mark.parametrize(
    "entry",
    [
        {"source": "public.orders", "sync_mode": "typo", "unknown": 1},
        {"source": "public.orders", "target": "x.y", "dag": "z"},
        {"sync_mode": "full_sync"},
        {"source": 3},
        "public.users",
        None,
    ],
)
def test_a_broken_entry_of_another_table_fails_no_load(entry: Any) -> None:
    assert one(variables(table_configs=entries(entry, {**USERS, "batch_size": 5}))).batch_size == 5


def test_entries_about_no_table_are_told_by_a_check_of_their_own() -> None:
    found = entries({"source": "public.userz"}, {"batch_size": 1}, "users", {"source": "users"})
    find = variables(table_configs=found)
    assert problems(lambda: require_no_stray_entries(DAG, ["public.users"], find)) == [
        f"table_configs.{DAG}.public.userz: this DAG lands no such table; it lands: public.users.",
        f'table_configs.{DAG}.[2].source: needed, written "schema.table".',
        f"table_configs.{DAG}.[3]: should be a mapping of keys.",
        f'table_configs.{DAG}.[4].source: needed, written "schema.table".',
    ]


@pytest.mark.parametrize("text", ["{", json.dumps(entries({"source": "public.userz"}))])
def test_the_check_of_entries_fails_for_good(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("AIRFLOW_VAR_TABLE_CONFIGS", text)
    check = EntriesCheckOperator(task_id="table_configs", sources=["public.users"])
    with pytest.raises(AirflowFailException, match="Airflow Variables have 1 problem"):
        check.execute({"ti": SimpleNamespace(dag_id=DAG)})


# ---------------------------------------------------------------- what is wrong


@pytest.mark.parametrize(
    ("present", "told"),
    [
        ({"table_configs": "{"}, "table_configs: is no JSON: Expecting property name"),
        ({"dag_configs": "[1]"}, 'dag_configs: should be a mapping: write "{...}".'),
        (
            {"chunk_mode_configs": '{"small": {}, "small": {}}'},
            'chunk_mode_configs: is no JSON: key "small" stands twice.',
        ),
        ({WRITTEN: "oops"}, f"{WRITTEN}: is no JSON: Expecting value"),
        (
            {"table_configs": {DAG: {"source": "public.users"}}},
            f'table_configs.{DAG}: should be a list of tables: write "[{{...}}]".',
        ),
        (
            {"table_configs": entries({**USERS, "batchsize": 1})},
            f'table_configs.{DAG}.public.users.batchsize: no such key; did you mean "batch_size"?',
        ),
        (
            {"table_configs": entries({**USERS, "sync_mode": "incremental"})},
            f'table_configs.{DAG}.public.users.sync_mode: "incremental" is no sync mode; known: '
            "full_sync, incremental_sync, xmin_incremental.",
        ),
        (
            {"table_configs": entries({**USERS, "sync_mode": "incremental_sync"})},
            f"table_configs.{DAG}.public.users.incremental_field: needed by incremental_sync, but "
            "missing.",
        ),
        (
            {"dag_configs": {DAG: {"tables_in_paralel": 3}}},
            f'dag_configs.{DAG}.tables_in_paralel: no such key; did you mean "tables_in_parallel"?',
        ),
        ({"dag_configs": {DAG: "x"}}, f"dag_configs.{DAG}: should be a mapping of keys."),
        (
            {"chunk_mode_configs": {"tiny": {"max_rows": 1}}},
            "chunk_mode_configs.tiny: no such size; known: small, medium, large, xlarge.",
        ),
        (
            {"chunk_mode_configs": {"small": {"max_rows": "many"}}},
            "chunk_mode_configs.small.max_rows: should be a valid integer",
        ),
        (
            {"connection_configs": {"postgres_default": {"password": "geheim"}}},
            "connection_configs.postgres_default.password: belongs in the Airflow Connection of "
            "this id; remove it here.",
        ),
        (
            {"connection_configs": {"digitalocean_postgres": {"host": "geheim"}}},
            "connection_configs.digitalocean_postgres.host: belongs in the Airflow Connection of "
            "this id; remove it here.",
        ),
        (
            {"connection_configs": {"postgres_default": {"usage_count": 3}}},
            "connection_configs.postgres_default.usage_count: is computed; remove the key.",
        ),
        (
            {"connection_configs": {"postgres_default": {"note": "postgres://u:geheim@h/d"}}},
            "connection_configs.postgres_default.note: holds a password; put it in an Airflow "
            "Connection.",
        ),
        (
            {"connection_configs": {"postgres_default": "postgres://u:geheim@h/d"}},
            "connection_configs.postgres_default: should be a mapping of keys.",
        ),
        (
            {"table_configs": entries({**USERS, "custom_where": "x = 'pg://u:geheim@h/d'"})},
            f"table_configs.{DAG}.public.users.custom_where: holds a password; put it in an "
            "Airflow Connection.",
        ),
        (
            {"dag_configs": {DAG: {"description": ["pg://u:geheim@h/d"]}}},
            f"dag_configs.{DAG}.description: holds a password; put it in an Airflow Connection.",
        ),
    ],
)
def test_what_is_wrong_is_told_with_its_key_and_the_remedy(
    present: dict[str, Any], told: str
) -> None:
    written = present.pop(WRITTEN, None)
    (found,) = problems(lambda: one(variables(written, **present)))
    assert found.startswith(told)
    assert "geheim" not in found


def test_all_problems_are_told_at_once() -> None:
    find = variables(
        dag_configs={DAG: {"nope": 1}},
        table_configs=entries({**USERS, "dag": "other"}),
        connection_configs={"postgres_default": {"login": "x"}},
        chunk_mode_configs={"tiny": {}},
    )
    assert len(problems(lambda: one(find))) == 4


@pytest.mark.parametrize(
    "present",
    [
        {"dag_configs": {HYBRID: {"nope": 1, "schedule": "x"}}},
        {"table_configs": {HYBRID: "x"}},
        {"connection_configs": {"fs2_postgres": {"password": "x"}}},
    ],
)
def test_what_is_wrong_elsewhere_fails_no_load(present: dict[str, Any]) -> None:
    assert one(variables(**present)).batch_size == 50_000


# ---------------------------------------------------------------- monitoring and dbt

MONITORING = "execution_monitoring_configs"


def test_thresholds_of_a_dag_lie_over_those_of_all() -> None:
    document = {"max_error_count": 9, "email": "a@b.c", "dags": {DAG: {"max_error_count": None}}}
    find = variables(**{MONITORING: document})
    assert effective_monitoring(DAG, find).max_error_count is None
    assert effective_monitoring(HYBRID, find).max_error_count == 9
    assert effective_monitoring(DAG, find).email == ("a@b.c",)
    assert effective_monitoring(DAG, find).over_last_runs == 20


@pytest.mark.parametrize(
    ("document", "told"),
    [
        ({"emial": []}, f'{MONITORING}.emial: no such key; did you mean "email"?'),
        ({"min_success_rate": 90}, f"{MONITORING}.min_success_rate: should be less than or equal"),
        ({"dags": []}, f"{MONITORING}.dags: should be a mapping of DAG ids to thresholds."),
        ({"dags": {DAG: {"x": 1}}}, f"{MONITORING}.dags.{DAG}.x: no such key."),
        (
            {"webhook_conn_id": "https://u:geheim@hooks.example.com"},
            f"{MONITORING}.webhook_conn_id: holds a password",
        ),
    ],
)
def test_wrong_thresholds_are_told(document: dict[str, Any], told: str) -> None:
    (found,) = problems(lambda: effective_monitoring(DAG, variables(**{MONITORING: document})))
    assert found.startswith(told)
    assert "geheim" not in found


def test_thresholds_of_another_dag_are_not_looked_at() -> None:
    find = variables(**{MONITORING: {"dags": {HYBRID: {"x": 1}}}})
    assert effective_monitoring(DAG, find).max_error_count == 3


def test_dbt_can_be_told_to_build_from_scratch() -> None:
    find = variables(dbt_configs={"full_refresh": True, "threads": 2, "dbt_target": "dev"})
    config = effective_dbt_config(find)
    assert (config.full_refresh, config.threads, config.dbt_target) == (True, 2, "dev")
    assert effective_dbt_config(variables()).full_refresh is False


def test_the_dbt_target_is_the_environments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DBT_TARGET", "prod")
    assert effective_dbt_config(variables()).dbt_target == "prod"


@pytest.mark.parametrize(
    ("document", "told"),
    [
        ({"dbt_target": "prod"}, "dbt_configs.dbt_target: 'prod' is not what is declared, 'dev'."),
        ({"select": ["tag:x"]}, "dbt_configs.select: ['tag:x'] is not what is declared, []."),
        ({"threads": 0}, "dbt_configs.threads: should be greater than or equal to 1, not 0."),
    ],
)
def test_wrong_dbt_settings_are_told(document: dict[str, Any], told: str) -> None:
    (found,) = problems(lambda: effective_dbt_config(variables(dbt_configs=document)))
    assert found.startswith(told)
