"""Declarations into Variables: three-way, told, and whole wherever it is killed."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from common.central_settings import effective_settings
from common.declarations import Declarations, read_declarations, read_defaults
from common.declared_tables import declared_tables
from common.variable_setup import carry_out, check, plan_setup
from common.variable_shapes import VARIABLES
from common.variables import BEING_WRITTEN, WRITTEN, read_variables
from extract_load import ConfigError, load_dbt_project, settings_from_document
from tests.dags.airflow_home import DAG_ID, HYBRID_ID, ROOT, AirflowHome

CONNECTIONS = {
    "source_connection": "digitalocean_postgres",
    "target_connection": "postgres_default",
}
ENVIRON = {
    "SOURCE_POSTGRES_CONN_ID": "digitalocean_postgres",
    "TARGET_POSTGRES_CONN_ID": "postgres_default",
}
USERS: dict[str, Any] = {"source": "public.users", "target": "raw_data.users", "batch_size": 5}
ORDERS: dict[str, Any] = {"source": "public.orders", "target": "raw_data.orders"}
SPREAD: dict[str, Any] = {
    "source": "public.users",
    "targets": [
        {"conn_id": "postgres_default", "table": "raw_data.users_local"},
        {"conn_id": "fs2_postgres", "table": "raw_data.users_fs2", "max_retries": 1},
    ],
}

Store = dict[str, str]
"""Airflow's Variables: text by name."""


def declare(*entries: dict[str, Any], **changes: Any) -> Declarations:
    """What a repository declares; `changes` lie in its defaults file."""
    settings = settings_from_document({"tables": list(entries)}, "test", ENVIRON)
    defaults = {**copy.deepcopy(dict(read_defaults({}))), **changes}
    return Declarations(defaults, declared_tables(settings), ENVIRON)


def setup(declared: Declarations, store: Store, *, overwrite: bool = False) -> list[str]:
    """Writes Variables and returns what was told."""
    plan = plan_setup(declared, read_variables(find=store.get), overwrite=overwrite)
    check(plan)
    carry_out(plan, store.get, lambda name, text, _: store.update({name: text}))
    return list(plan.lines)


def change(store: Store, name: str, act: Callable[[Any], None]) -> None:
    """An operator edits a Variable."""
    document = json.loads(store[name])
    act(document)
    store[name] = json.dumps(document)


def tables(store: Store, dag_id: str = DAG_ID) -> list[dict[str, Any]]:
    return list(json.loads(store["table_configs"])[dag_id])


def set_key(key: str, value: Any, number: int = 0) -> Callable[[Any], None]:
    return lambda document: document[DAG_ID][number].update({key: value})


def refused(declared: Declarations, store: Store) -> list[str]:
    before = dict(store)
    with pytest.raises(ConfigError) as caught:
        setup(declared, store)
    assert store == before
    assert caught.value.hint.startswith("Nothing was written. Mend the keys under Admin")
    return [str(problem) for problem in caught.value.problems]


def test_everything_is_written_once() -> None:
    store: Store = {}
    lines = setup(declare(USERS, SPREAD), store)
    assert set(store) == {*VARIABLES, WRITTEN}
    assert tables(store) == [{**USERS}]
    assert tables(store, HYBRID_ID) == [SPREAD]
    assert json.loads(store["chunk_mode_configs"]) == read_defaults({})["chunk_mode_configs"]
    assert f"+ table_configs.{DAG_ID}.public.users.batch_size: 5" in lines
    assert all(line.startswith("+ ") for line in lines)
    before = dict(store)
    assert setup(declare(USERS, SPREAD), store) == []
    assert store == before


def test_what_nobody_changed_follows_the_repository() -> None:
    store: Store = {}
    setup(declare(USERS, ORDERS), store)
    lines = setup(declare({**USERS, "batch_size": 6}), store)
    assert tables(store) == [{**USERS, "batch_size": 6}]
    assert lines == [
        f"~ table_configs.{DAG_ID}.public.users.batch_size: 5 -> 6",
        f"- table_configs.{DAG_ID}.public.orders.source: 'public.orders'",
        f"- table_configs.{DAG_ID}.public.orders.target: 'raw_data.orders'",
    ]


def test_an_operators_change_is_kept_and_told() -> None:
    store: Store = {}
    setup(declare(USERS, ORDERS), store)
    change(store, "table_configs", set_key("batch_size", 9))
    change(store, "dbt_configs", lambda document: document.update(threads=2))
    told = [
        f"= table_configs.{DAG_ID}.public.users.batch_size: 9 stays, an operator changed it "
        "(declared: 5)",
        "= dbt_configs.threads: 2 stays, an operator changed it (declared: 4)",
    ]
    for _ in range(2):  # what is kept does not become what was written
        assert setup(declare(USERS, ORDERS), store) == told
        assert tables(store)[0]["batch_size"] == 9
    assert json.loads(json.loads(json.dumps(store[WRITTEN])))["dbt_configs"]["threads"] == 4


def test_a_conflict_keeps_the_operators_change_and_says_so() -> None:
    store: Store = {}
    setup(declare(USERS), store)
    change(store, "table_configs", set_key("batch_size", 9))
    (line,) = setup(declare({**USERS, "batch_size": 6}), store)
    assert line == (
        f"! table_configs.{DAG_ID}.public.users.batch_size: 9 stays, both changed it (declared: 6)"
    )
    assert tables(store)[0]["batch_size"] == 9


def test_an_added_key_is_kept_and_one_that_is_now_declared_too_is_no_news() -> None:
    store: Store = {}
    setup(declare(USERS), store)
    change(store, "table_configs", set_key("max_retries", 1))
    (line,) = setup(declare(USERS), store)
    assert line.endswith("max_retries: 1 stays, an operator changed it (not declared)")
    assert setup(declare({**USERS, "max_retries": 1}), store) == []


def test_a_removed_key_comes_back() -> None:
    store: Store = {}
    setup(declare(USERS), store)
    change(store, "table_configs", lambda document: document[DAG_ID][0].pop("batch_size"))
    assert setup(declare(USERS), store) == [f"+ table_configs.{DAG_ID}.public.users.batch_size: 5"]


def test_overwrite_gives_up_what_operators_changed_and_tells_it() -> None:
    store: Store = {}
    setup(declare(USERS), store)
    change(store, "table_configs", set_key("batch_size", 9))
    assert setup(declare(USERS), store, overwrite=True) == [
        f"~ table_configs.{DAG_ID}.public.users.batch_size: 9 -> 5  (an operator's change goes)"
    ]
    assert tables(store) == [USERS]


@pytest.mark.parametrize("name", ["table_configs", "dag_configs"])
def test_removed_declarations_go_even_where_somebody_edited_them(name: str) -> None:
    old = {**USERS, "dag": "old_dag"}
    dags = {**read_defaults({})["dag_configs"], "old_dag": {"schedule": None}}
    store: Store = {}
    setup(declare(ORDERS, old, dag_configs=dags), store)

    def edit(document: Any) -> None:
        entry = document["old_dag"]
        (entry[0] if isinstance(entry, list) else entry)["description"] = "mine"

    change(store, name, edit)
    lines = setup(declare(ORDERS), store)
    place = "old_dag.public.users" if name == "table_configs" else "old_dag"
    assert f"- {name}.{place}.description: 'mine'  (an operator's change goes)" in lines
    assert "old_dag" not in json.loads(store["table_configs"])
    assert "old_dag" not in json.loads(store["dag_configs"])


def test_a_removed_table_of_a_dag_goes() -> None:
    store: Store = {}
    setup(declare(USERS, ORDERS), store)
    change(store, "table_configs", set_key("batch_size", 9))
    lines = setup(declare(ORDERS), store)
    assert tables(store) == [ORDERS]
    assert (
        f"- table_configs.{DAG_ID}.public.users.batch_size: 9  (an operator's change goes)" in lines
    )


def test_one_of_two_landings_of_a_source_is_removed() -> None:
    """The other one goes on, before and after the Variables are written again."""
    second = {**USERS, "target": "raw_data.users_twice", "batch_size": 7}
    store: Store = {}
    setup(declare(USERS, second), store)
    for left in (USERS, second):
        own = settings_from_document({**CONNECTIONS, "tables": [left]}, "test")
        found = effective_settings(DAG_ID, own, (), store.get).tables[0]
        assert found.batch_size == left["batch_size"]
    change(store, "table_configs", set_key("max_retries", 1, number=1))
    lines = setup(declare(second), store)
    assert tables(store) == [{**second, "max_retries": 1}]
    assert f"- table_configs.{DAG_ID}.public.users -> raw_data.users.batch_size: 5" in lines


def test_targets_keep_their_operators_changes() -> None:
    store: Store = {}
    setup(declare(SPREAD), store)

    def edit(document: Any) -> None:
        document[HYBRID_ID][0]["targets"].reverse()
        document[HYBRID_ID][0]["targets"][0]["batch_size"] = 3

    change(store, "table_configs", edit)
    (line,) = setup(declare(SPREAD), store)
    assert line == (
        f"= table_configs.{HYBRID_ID}.public.users.targets.fs2_postgres:raw_data.users_fs2."
        "batch_size: 3 stays, an operator changed it (not declared)"
    )
    assert [one.get("batch_size") for one in tables(store, HYBRID_ID)[0]["targets"]] == [None, 3]


# ---------------------------------------------------------------- refused


@pytest.mark.parametrize(
    ("name", "edit", "told"),
    [
        (
            "table_configs",
            set_key("sync_mode", "ful"),
            f'table_configs.{DAG_ID}.public.users.sync_mode: "ful" is no sync mode; known: '
            "full_sync, incremental_sync, xmin_incremental.",
        ),
        (
            "table_configs",
            set_key("dag", "other"),
            f"table_configs.{DAG_ID}.public.users.dag: 'other' is not what is declared, "
            f"'{DAG_ID}'.",
        ),
        (
            "table_configs",
            lambda document: document[DAG_ID].append({"source": "public.nope"}),
            f"table_configs.{DAG_ID}.public.nope: this DAG lands no such table; it lands: "
            "public.users.",
        ),
        (
            "table_configs",
            lambda document: document[HYBRID_ID][0]["targets"].pop(),
            f"table_configs.{HYBRID_ID}.public.users.targets: ['postgres_default:"
            "raw_data.users_local'] is not what is declared",
        ),
        (
            "table_configs",
            lambda document: document.update(nope=[]),
            "table_configs.nope: no such DAG; known: ",
        ),
        (
            "dag_configs",
            lambda document: document.update(nope={}),
            "dag_configs.nope: no such DAG; known: ",
        ),
        (
            "connection_configs",
            lambda document: document.update(nope={"description": "x"}),
            "connection_configs.nope: no DAG uses such a connection; declare it in "
            "dags/common/defaults.yml.",
        ),
        (
            "connection_configs",
            lambda document: document["fs2_postgres"].update(password="geheim"),
            "connection_configs.fs2_postgres.password: belongs in the Airflow Connection",
        ),
        (
            "execution_monitoring_configs",
            lambda document: document.update(dags={"nope": {"email": 3}}),
            "execution_monitoring_configs.dags.nope.email: ",
        ),
    ],
)
def test_a_wrong_variable_stops_the_writing(
    name: str, edit: Callable[[Any], None], told: str
) -> None:
    store: Store = {}
    setup(declare(USERS, SPREAD), store)
    change(store, name, edit)
    (found,) = refused(declare({**USERS, "batch_size": 6}, SPREAD), store)
    assert found.startswith(told)
    assert "geheim" not in found


def test_broken_json_stops_the_writing_and_overwrite_mends_it() -> None:
    store: Store = {}
    setup(declare(USERS), store)
    store["table_configs"] = "{"
    store[WRITTEN] = "["
    assert [line.partition(":")[0] for line in refused(declare(USERS), store)] == [
        "table_configs",
        WRITTEN,
    ]
    setup(declare(USERS), store, overwrite=True)
    assert tables(store) == [USERS]


def test_no_secret_is_shown_when_it_is_overwritten() -> None:
    store: Store = {}
    setup(declare(USERS), store)
    leaks = {"password": "geheim", "description": "postgres://u:geheim@h/d"}
    change(store, "connection_configs", lambda document: document["fs2_postgres"].update(leaks))
    lines = setup(declare(USERS), store, overwrite=True)
    assert len(lines) == 2
    assert all("(not shown)" in line and "geheim" not in line for line in lines)
    assert "geheim" not in "".join(store.values())


def test_a_password_in_the_declarations_is_not_written() -> None:
    leaky = declare({**USERS, "custom_where": "note = 'postgres://u:geheim@h/d'"})
    (found,) = refused(leaky, {})
    assert found.endswith("holds a password; put it in an Airflow Connection.")


# ---------------------------------------------------------------- killed


class Killed(Exception):
    """What ends a writing."""


ALL_SAVES = 4
"""What begins, two Variables that differ, what is done."""


@pytest.mark.parametrize("saves", range(ALL_SAVES + 1))
def test_a_writing_killed_anywhere_leaves_no_operators_changes(saves: int) -> None:
    store: Store = {}
    setup(declare(USERS, ORDERS), store)
    change(store, "table_configs", set_key("max_retries", 1))
    second = declare({**USERS, "batch_size": 6}, dbt_configs={**_dbt(), "threads": 8})
    third = declare({**USERS, "batch_size": 7}, ORDERS, dbt_configs={**_dbt(), "threads": 9})
    for declared in (second, third):
        assert _is_killed_after(saves, declared, store) is (saves < ALL_SAVES)
        table = effective_settings(DAG_ID, _only(USERS, batch_size=8), (), store.get).tables[0]
        assert (table.batch_size, table.max_retries) == (8, 1)
    setup(third, store)
    assert tables(store) == [{**USERS, "batch_size": 7, "max_retries": 1}, ORDERS]
    assert json.loads(store["dbt_configs"])["threads"] == 9
    assert BEING_WRITTEN not in json.loads(store[WRITTEN])


def _dbt() -> dict[str, Any]:
    return dict(read_defaults({})["dbt_configs"])


def _only(entry: dict[str, Any], **keys: Any) -> Any:
    return settings_from_document({**CONNECTIONS, "tables": [{**entry, **keys}]}, "test")


def _is_killed_after(saves: int, declared: Declarations, store: Store) -> bool:
    left = saves

    def save(name: str, text: str, _: str) -> None:
        nonlocal left
        if left == 0:
            raise Killed
        left -= 1
        store[name] = text

    plan = plan_setup(declared, read_variables(find=store.get), overwrite=False)
    check(plan)
    try:
        carry_out(plan, store.get, save)
    except Killed:
        return True
    return False


def test_a_variable_that_does_not_take_is_told() -> None:
    store: Store = {}
    plan = plan_setup(declare(USERS), read_variables(find=store.get), overwrite=False)
    shadowed = {"dag_configs": "{}"}
    with pytest.raises(ConfigError, match='Variable "dag_configs" was saved, but') as caught:
        carry_out(
            plan,
            lambda name: shadowed.get(name, store.get(name)),
            lambda name, text, _: store.update({name: text}),
        )
    assert "AIRFLOW_VAR_DAG_CONFIGS" in caught.value.detail
    assert caught.value.hint.startswith("Remove it there")


# ---------------------------------------------------------------- in Airflow

EDIT = f"""
import json
from airflow.models import Variable
tables = json.loads(Variable.get("table_configs"))
for table in tables["{DAG_ID}"]:
    if table["source"] == "public.users":
        table["batch_size"] = 123
Variable.set("table_configs", json.dumps(tables))
"""
BREAK = """
from airflow.models import Variable
Variable.set("dbt_configs", '{"thread": 1}')
"""
READ = """
import json
from airflow.models import Variable
names = NAMES
print("FOUND" + json.dumps({name: Variable.get(name, default_var=None) for name in names}))
"""


@pytest.fixture
def airflow(servers_directory: Path) -> AirflowHome:
    directory = servers_directory / "airflow-of-variables"
    directory.mkdir()
    home = AirflowHome(directory, directory / "manifest.json")
    done = home.airflow("db", "migrate")
    assert done.status == 0, done.stderr
    return home


def run(home: AirflowHome, **params: bool) -> str:
    done = home.airflow(
        "dags", "test", "variable_setup_dag", "--conf", json.dumps(params), timeout=120
    )
    assert done.status == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def stored(home: AirflowHome) -> dict[str, Any]:
    done = home.python(READ.replace("NAMES", repr([*VARIABLES, WRITTEN])))
    assert done.status == 0, done.stderr
    line = next(line for line in done.stdout.splitlines() if line.startswith("FOUND"))
    texts = json.loads(line.removeprefix("FOUND"))
    return {name: json.loads(text) for name, text in texts.items() if text}


def test_the_dag_shows_writes_keeps_overwrites_and_refuses(airflow: AirflowHome) -> None:
    declared = read_declarations({}).documents()
    assert "+ dbt_configs.threads: 4" in run(airflow, dry_run=True)
    assert stored(airflow) == {}

    run(airflow)
    assert stored(airflow) == {**declared, WRITTEN: declared}
    of_all = [
        entry["source"] for entries in declared["table_configs"].values() for entry in entries
    ]
    tables = load_dbt_project(ROOT / "dbt_project", {}).tables
    assert set(of_all) == {table.source.written for table in tables}
    assert "nothing differs from what the repository declares" in run(airflow)

    edited = airflow.python(EDIT)
    assert edited.status == 0, edited.stderr
    told = f"{DAG_ID}.public.users.batch_size: 123 stays, an operator changed it (not declared)"
    assert told in run(airflow)
    assert stored(airflow) != {**declared, WRITTEN: declared}

    assert "batch_size: 123  (an operator's change goes)" in run(airflow, overwrite=True)
    assert stored(airflow) == {**declared, WRITTEN: declared}

    done = airflow.python(BREAK)
    assert done.status == 0, done.stderr
    done = airflow.airflow("dags", "test", "variable_setup_dag", timeout=120)
    assert done.status != 0
    assert 'dbt_configs.thread: no such key; did you mean "threads"?' in done.stdout
    assert "Nothing was written." in done.stdout
    assert stored(airflow)["dbt_configs"] == {"thread": 1}
