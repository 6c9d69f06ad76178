"""The README's commands, as somebody types them, in a state directory of their own."""

import fcntl
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
import pytest

from demo.embedded_server import HOST, SUPERUSER
from demo.state import ROOT, State, load_state
from extract_load import load_dbt_project
from tests.support.landing import assert_equal
from tests.support.servers import Database

ROWS = 4000
Rows = dict[tuple[str, ...], tuple[str, datetime]]
"""Content and `_loaded_at` of a raw table's rows, by key."""

KEYS = {
    "users": ("id",),
    "products": ("id",),
    "orders": ("id",),
    "order_items": ("order_id", "line_number"),
    "events": ("id",),
    "stocks": ("시장구분", "종목코드", "기준일자", "통화"),
}


@dataclass(frozen=True)
class Story:
    """What came out of `up`, `up` again and `day`, and what stood in the warehouse between."""

    state: State
    outputs: tuple[str, str, str]
    evening: dict[str, Rows]
    next_evening: dict[str, Rows]

    @property
    def source(self) -> Database:
        """The shop."""
        return self._database(self.state.source.port, "shop")

    @property
    def warehouse(self) -> Database:
        """The warehouse."""
        return self._database(self.state.warehouse.port, "warehouse")

    @property
    def second_warehouse(self) -> Database:
        """Where tables with several targets land too."""
        return self._database(self.state.warehouse.port, "fs2")

    def _database(self, port: int, name: str) -> Database:
        password = self.state.variables["DEMO_SUPERUSER_PASSWORD"]
        return Database(HOST, port, name, SUPERUSER, password)


@pytest.fixture(scope="module")
def story(servers_directory: Path) -> Iterator[Story]:
    directory = servers_directory / "demo"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DEMO_STATE_DIR", str(directory))
        patch.setenv("DEMO_ROWS", str(ROWS))
        try:
            first, second = _succeed("up"), _succeed("up")
            told = Story(load_state(), (first, second, ""), {}, {})
            evening = _raw_rows(told.warehouse)
            day = _succeed("day")
            yield Story(told.state, (first, second, day), evening, _raw_rows(told.warehouse))
        finally:
            down = _succeed("down")
            assert not [p for p in psutil.pids() if _works_in(p, directory)], down
            _succeed("clean")
            assert not directory.exists()


def test_every_table_is_landed_and_three_things_are_shown(story: Story) -> None:
    report, _, following = story.outputs[0].partition("Three things to look at next")
    landed = {
        target: [line.split()[-1] for line in report.splitlines() if f" {target} " in line]
        for target in ("postgres_default", "fs2_postgres")
    }
    assert landed == {"postgres_default": ["done"] * 7, "fs2_postgres": ["done"]}
    assert "make demo-day" in following
    assert (story.state.directory / "docs" / "index.html").stat().st_size > 1_000_000


def test_every_table_is_equal_on_both_sides(story: Story) -> None:
    tables = load_dbt_project(ROOT / "dbt_project", {}).tables
    assert len(tables) == 8
    warehouses = {"postgres_default": story.warehouse, "fs2_postgres": story.second_warehouse}
    for table in tables:
        keys = {"source": str(table.source), "target": str(table.target)}
        if table.custom_where:
            keys["custom_where"] = table.custom_where.written
        assert_equal(story.source, warehouses[table.target_connection], keys)


def test_going_on_from_what_stands_moves_nothing(story: Story) -> None:
    runs = _moved(story)
    assert len(runs) == 4
    assert runs[0] > 0
    assert runs[1] == 0


def test_of_the_late_commit_only_its_own_rows_are_new(story: Story) -> None:
    """One order, two lines and one event, whose times lie below the watermark of the run before."""
    assert _moved(story)[3] == 4
    late = story.warehouse.execute(
        "SELECT updated_at < (SELECT max(updated_at) FROM raw_data.digitalocean_orders) "
        "FROM raw_data.digitalocean_orders WHERE note = 'committed late'"
    )
    assert late == [(True,)]
    assert "late commit" in story.outputs[2]


@pytest.mark.parametrize("table", sorted(KEYS))
def test_untouched_rows_keep_the_time_they_were_loaded(story: Story, table: str) -> None:
    before, after = story.evening[table], story.next_evening[table]
    kept = before.keys() & after.keys()
    changed = {key for key in kept if before[key][0] != after[key][0]}

    assert len(kept - changed) > len(changed)
    for key in kept:
        assert (before[key][1] == after[key][1]) == (key not in changed), key
    newest = max(loaded_at for _, loaded_at in before.values())
    assert all(after[key][1] > newest for key in after.keys() - before.keys())
    assert after.keys() - before.keys() or table == "products"


@pytest.mark.parametrize("table", ["users", "products", "stocks"])
def test_deleted_rows_are_gone(story: Story, table: str) -> None:
    assert story.evening[table].keys() - story.next_evening[table].keys()


@pytest.mark.parametrize("table", ["orders", "order_items"])
def test_rows_deleted_softly_stay_with_the_time_of_their_end(story: Story, table: str) -> None:
    assert story.evening[table].keys() <= story.next_evening[table].keys()
    (deleted,) = story.warehouse.execute(
        f"SELECT count(*) FROM raw_data.digitalocean_{table} WHERE _deleted_at = _loaded_at"
    )
    assert deleted[0] > 0


def test_the_snapshots_record_the_deletes(story: Story) -> None:
    deleted_orders = story.warehouse.execute(
        "SELECT id FROM raw_data.digitalocean_orders WHERE _deleted_at IS NOT NULL ORDER BY id"
    )
    assert deleted_orders == story.warehouse.execute(
        "SELECT order_id FROM dev_snapshots.snap_digitalocean__orders "
        "WHERE dbt_is_deleted::boolean ORDER BY order_id"
    )
    gone = story.evening["products"].keys() - story.next_evening["products"].keys()
    assert gone == set(
        story.warehouse.execute(
            "SELECT id::text FROM dev_snapshots.snap_digitalocean__products "
            "WHERE dbt_is_deleted::boolean"
        )
    )


def test_the_incremental_model_loses_the_deleted_keys(story: Story) -> None:
    assert story.warehouse.execute(
        "SELECT order_id, line_number FROM dev_marts.fct_order_items ORDER BY 1, 2"
    ) == story.source.execute("SELECT order_id, line_number FROM public.order_items ORDER BY 1, 2")


def test_passwords_stand_in_one_file_for_its_owner_alone(story: Story) -> None:
    secrets = [v for k, v in story.state.variables.items() if k.endswith("PASSWORD")]
    assert len(secrets) == 4
    assert stat.S_IMODE(story.state.env_file.stat().st_mode) == 0o600
    logs = [path.read_text() for path in (story.state.directory / "logs").iterdir()]
    assert len(logs) >= 5
    for text in (*story.outputs, *logs):
        assert not [secret for secret in secrets if secret in text]


def test_the_reader_of_the_source_can_only_read(story: Story) -> None:
    uri = story.state.variables["AIRFLOW_CONN_DIGITALOCEAN_POSTGRES"]
    password = uri.split(":")[2].split("@")[0]
    reader = Database(HOST, story.state.source.port, "shop", "extract_reader", password)

    assert reader.execute("SELECT count(*) > 0 FROM public.orders") == [(True,)]
    for refused in (
        "DELETE FROM public.orders",
        "CREATE TABLE public.mine ()",
        "CREATE TEMP TABLE mine ()",
    ):
        with pytest.raises(Exception, match="permission denied"):
            reader.execute(refused)


def test_nonsense_for_a_number_of_rows_is_refused_before_anything_starts(tmp_path: Path) -> None:
    done = _demo("up", DEMO_STATE_DIR=str(tmp_path), DEMO_ROWS="many")
    assert done.returncode == 2
    assert done.stderr.splitlines()[:2] == [
        "error: DEMO_ROWS is no number of rows",
        'detail: It is "many".',
    ]
    assert not (tmp_path / ".env").exists()


def test_an_unwritable_directory_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = _demo("up", DEMO_STATE_DIR=str(tmp_path / "file" / "demo"))
    assert done.returncode == 1
    assert done.stderr.startswith(f'error: could not write "{tmp_path}/file/demo"\ndetail: ')
    assert "Traceback" not in done.stderr


def test_no_day_passes_in_a_demo_that_is_not_up(tmp_path: Path) -> None:
    done = _demo("day", DEMO_STATE_DIR=str(tmp_path / "demo"))
    assert done.returncode == 1
    assert done.stderr.startswith("error: the demo is not set up\n")
    assert 'hint: Run "make demo"' in done.stderr


def test_a_second_command_in_the_same_checkout_is_refused(tmp_path: Path) -> None:
    """Two of them would create and fill the same servers."""
    descriptor = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        done = _demo("up", DEMO_STATE_DIR=str(tmp_path))
    finally:
        os.close(descriptor)
    assert done.returncode == 1
    assert done.stderr.startswith("error: another demo command is at work in this checkout\n")


def test_a_broken_file_of_state_is_told_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("POSTGRES_PORT=1\n")
    done = _demo("up", DEMO_STATE_DIR=str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.startswith(f'error: "{tmp_path}/.env" is not complete\ndetail: It has no ')
    assert 'hint: Run "make clean"' in done.stderr


def _demo(command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "demo", command],
        cwd=ROOT,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def _succeed(command: str) -> str:
    done = _demo(command)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _raw_rows(warehouse: Database) -> dict[str, Rows]:
    return {table: _rows_of(warehouse, table, key) for table, key in KEYS.items()}


def _rows_of(warehouse: Database, table: str, key: tuple[str, ...]) -> Rows:
    keys = ", ".join(f'"{name}"::text' for name in key)
    rows: list[tuple[Any, ...]] = warehouse.execute(
        f"SELECT {keys}, (to_jsonb(raw) - '_loaded_at')::text, _loaded_at "
        f"FROM raw_data.digitalocean_{table} AS raw"
    )
    return {row[:-2]: (row[-2], row[-1]) for row in rows}


def _moved(story: Story) -> list[int]:
    """Returns how many rows each run inserted, updated or deleted, in their order."""
    return [
        int(moved)
        for (moved,) in story.warehouse.execute(
            "SELECT sum(rows_inserted + rows_updated + rows_deleted) "
            "FROM extract_load.table_runs JOIN extract_load.runs USING (run_id) "
            "GROUP BY run_id, runs.started_at ORDER BY runs.started_at"
        )
    ]


def _works_in(pid: int, directory: Path) -> bool:
    try:
        return Path(psutil.Process(pid).cwd()).is_relative_to(directory)
    except (psutil.Error, OSError):
        return False
