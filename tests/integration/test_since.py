"""`--since`: a run that reads again from further back, and never from later."""

from typing import Any

import pytest

from tests.support.command import extract_load, write_settings
from tests.support.landing import assert_equal, environment, land, land_one
from tests.support.servers import Database
from tests.support.tables import FULL, INCREMENTAL, RAW, XMIN, create_items

# Deletes are not followed: nothing but the cursor leads to a row.
BY_CURSOR = {**INCREMENTAL, "deletes": "ignore"}
WATERMARK = "SELECT cursor_value FROM extract_load.watermarks"


@pytest.fixture
def items(source: Database) -> Database:
    create_items(source, 2_000)
    return source


def change_behind_the_cursor(items: Database) -> None:
    items.execute("UPDATE public.items SET body = 'silently' WHERE id = 100")


def test_rows_changed_below_the_watermark_are_found_again(
    items: Database, target: Database
) -> None:
    land_one(items, target, BY_CURSOR)
    ((watermark,),) = target.execute(WATERMARK)
    change_behind_the_cursor(items)
    assert land_one(items, target, BY_CURSOR).rows_updated == 0

    found = land_one(items, target, BY_CURSOR, since="2026-01-01 00:01")

    assert (found.baseline, found.rows_updated, found.rows_inserted) == (False, 1, 0)
    assert found.window_low == "2026-01-01 00:01:00+00"
    assert found.rows_read == 1_941  # from second 60 on
    assert_equal(items, target, BY_CURSOR)
    assert target.execute(WATERMARK) == [(watermark,)]
    assert land_one(items, target, BY_CURSOR).rows_read < 700, "only that run reads from there"


def test_a_value_above_the_low_bound_loses_nothing(
    items: Database, target: Database, caplog: pytest.LogCaptureFixture
) -> None:
    land_one(items, target, BY_CURSOR)
    items.execute("INSERT INTO public.items VALUES (-1, 'new', 1, '2026-01-01 00:33')")

    with caplog.at_level("INFO", "extract_load"):
        found = land_one(items, target, BY_CURSOR, since="2100-01-01")

    assert found.rows_inserted == 1
    assert_equal(items, target, BY_CURSOR)
    (note,) = [text for text in caplog.messages if "since" in text]
    assert note.startswith("since is not used: 2100-01-01 00:00:00+00 is not below the low bound ")


def test_the_watermark_never_goes_back(items: Database, target: Database) -> None:
    """The rows next to the watermark may be gone; what they told stays true."""
    land_one(items, target, BY_CURSOR)
    ((watermark,),) = target.execute(WATERMARK)
    items.execute("DELETE FROM public.items WHERE id > 500")

    found = land_one(items, target, BY_CURSOR, since="2026-01-01")

    assert found.rows_read == 500
    assert target.execute(WATERMARK) == [(watermark,)]


@pytest.mark.parametrize(
    ("type_text", "values", "since", "rows_read"),
    [
        ("timestamp", "timestamp '2026-01-01' + i * interval '1 day'", "2026-01-06", 6),
        ("timestamptz", "timestamptz '2026-01-01Z' + i * interval '1 d'", "2026-01-06 03:00+03", 6),
        ("date", "date '2026-01-01' + i", "2026-01-06", 6),
        ("smallint", "i", " 5 ", 6),
        ("integer", "i", "5", 6),
        ("bigint", "i + 5000000000", "5000000005", 6),
        ("numeric", "i / 2.0", "2.5", 6),
    ],
)
def test_the_source_reads_the_value_as_the_cursors_type(
    source: Database, target: Database, type_text: str, values: str, since: str, rows_read: int
) -> None:
    source.execute(
        f"CREATE TABLE public.items (id int PRIMARY KEY, updated_at {type_text} NOT NULL);"
        f"INSERT INTO public.items SELECT i, {values} FROM generate_series(1, 10) AS i"
    )
    no_lookback = {**BY_CURSOR, "lookback": 0}
    land_one(source, target, no_lookback)

    assert land_one(source, target, no_lookback, since=since).rows_read == rows_read


def test_tables_without_a_cursor_and_baselines_ignore_it(
    items: Database, target: Database, caplog: pytest.LogCaptureFixture
) -> None:
    tables = [
        {**keys, "target": f"raw_data.{name}"}
        for name, keys in {"full": FULL, "xmin": XMIN, "cursor": BY_CURSOR}.items()
    ]

    with caplog.at_level("INFO", "extract_load"):
        report = land(items, target, *tables, since="2026-01-01 00:20")

    assert [table.rows_inserted for table in report.tables] == [2_000] * 3
    assert sorted(text for text in caplog.messages if "since" in text) == [
        "since is not used: full_sync reads by no cursor",
        "since is not used: the whole table is read",
        "since is not used: xmin_incremental reads by no cursor",
    ]


@pytest.mark.parametrize("since", ["soon", "", "2026-13-01", "infinity", "9 BC", "1); DROP"])
@pytest.mark.parametrize("is_published", [False, True], ids=["baseline", "delta"])
def test_a_value_of_another_type_fails_the_table_before_a_row_moves(
    items: Database, target: Database, since: str, is_published: bool
) -> None:
    if is_published:
        land_one(items, target, BY_CURSOR)

    (failed,) = land(items, target, BY_CURSOR, since=since).tables

    assert failed.rows_read == 0
    error = failed.error
    assert error is not None
    assert not error.retryable
    assert error.primary == f'since "{since}" cannot bound cursor "updated_at" of "public.items"'
    assert error.detail.startswith("The cursor is timestamptz. The source ")
    assert error.hint.startswith('Write "since" like 2026-01-31 06:00+00;')
    assert target.execute("SELECT to_regclass(%s) IS NOT NULL", [RAW]) == [(is_published,)]


def test_a_number_that_is_no_bound(source: Database, target: Database) -> None:
    source.execute("CREATE TABLE public.items (id int PRIMARY KEY, updated_at numeric)")
    (failed,) = land(source, target, BY_CURSOR, since="NaN").tables
    assert 'The source reads it as "NaN".' in str(failed.error)


def test_the_commands_take_it(items: Database, target: Database, tmp_path: Any) -> None:
    cursor, xmin = {**BY_CURSOR, "target": RAW}, {**XMIN, "target": "raw_data.by_xmin"}
    path = write_settings(tmp_path / "tables.yml", cursor, xmin)
    names = environment(items, target)
    extract_load("run", "--config", str(path), environment=names)
    change_behind_the_cursor(items)
    options = ("--config", str(path), "--since", "2026-01-01")

    plan = extract_load("plan", *options, environment=names)
    run = extract_load("run", *options, "--output", "json", environment=names)

    assert "since lowers the low bound to 2026-01-01 00:00:00+00" in plan.stdout
    assert "since is not used: xmin_incremental reads by no cursor" in plan.stdout
    assert run.status == 0, run.stderr
    assert run.json["tables"][0]["rows_updated"] == 1
    assert run.json["tables"][0]["window"]["low"] == "2026-01-01 00:00:00+00"
    assert "since lowers the low bound" in run.stderr


@pytest.mark.parametrize("command", ["run", "plan"])
def test_without_a_table_to_work_on_it_is_a_wrong_argument(command: str, tmp_path: Any) -> None:
    off = {**BY_CURSOR, "target": RAW, "enabled": False}
    path = write_settings(tmp_path / "tables.yml", {**FULL, "target": "raw_data.full"}, off)

    done = extract_load(command, "--config", str(path), "--since", "2026-01-01")

    assert done.status == 2
    assert "error: --since has no table to work on" in done.stderr
    assert "hint: " in done.stderr
