"""Raw tables that this project did not create: left alone, or taken over where that is safe."""

from typing import Any

import pytest

from extract_load.runner import RunOptions, run
from tests.support.landing import (
    assert_equal,
    environment,
    land,
    land_one,
    loaded_at,
    settings,
)
from tests.support.servers import Database
from tests.support.tables import MODES, RAW, create_items

EVERY_MODE = pytest.mark.parametrize("table", MODES.values(), ids=MODES)
TABLE: dict[str, Any] = {"source": "public.items", "adopt": True}
COLUMNS = "id int PRIMARY KEY, body text, amount numeric(12, 2), updated_at timestamptz NOT NULL"
FACTS = f"SELECT '{RAW}'::regclass::oid, count(*), max(remark) FROM {RAW}"


@pytest.fixture
def items(source: Database) -> Database:
    create_items(source, 200)
    return source


def create_theirs(target: Database, columns: str = COLUMNS, after: str = "") -> None:
    target.execute(f"CREATE SCHEMA raw_data; CREATE TABLE {RAW} ({columns}); {after}")


def refused(source: Database, target: Database, **keys: Any) -> Any:
    (result,) = land(source, target, {**TABLE, **keys}).tables
    assert result.error is not None
    return result.error


@EVERY_MODE
def test_a_table_that_fits_is_taken_over_with_its_rows(
    items: Database, target: Database, table: dict[str, Any]
) -> None:
    """Equal rows are not touched, and extra columns keep what they hold."""
    create_theirs(
        target,
        f"remark text DEFAULT 'none', {COLUMNS}, seen timestamptz NOT NULL DEFAULT now()",
        f"INSERT INTO {RAW} (id, body, amount, updated_at, remark) SELECT i, repeat(md5(i::text),"
        " 3), i, timestamptz '2026-01-01' + i * interval '1 second', 'mine'"
        f" FROM generate_series(1, 190) AS i; UPDATE {RAW} SET amount = 0 WHERE id <= 5;"
        f"INSERT INTO {RAW} (id, body, updated_at) VALUES (1000, 'not in the source', now());"
        f"CREATE VIEW public.seen AS SELECT id, remark FROM {RAW}",
    )
    oid = target.execute(FACTS)[0][0]

    result = land_one(items, target, {**table, "adopt": True})

    changes = (result.rows_inserted, result.rows_updated, result.rows_deleted)
    assert changes == (10, 5, 1)
    assert target.execute(FACTS) == [(oid, 200, "none")]
    kept = f"SELECT count(*) FROM {RAW} WHERE remark = 'mine' AND seen IS NOT NULL"
    assert target.execute(kept) == [(190,)]
    assert_equal(items, target, table)
    times = loaded_at(target, RAW)
    assert None not in times.values()
    assert len({times[key] for key in range(1, 6)} | {times[200]}) == 1
    assert times[6] < times[200]
    later = land_one(items, target, table)  # it is ours from now on
    assert later.rows_updated == 0


def test_loaded_at_goes_on_where_it_was(items: Database, target: Database) -> None:
    create_theirs(
        target,
        f"{COLUMNS}, _loaded_at timestamptz",
        f"INSERT INTO {RAW} VALUES (1, 'old', 1, now(), '2999-01-01'),"
        " (2, 'old', 1, now(), 'infinity')",
    )

    land_one(items, target, TABLE)

    newest = f"SELECT DISTINCT _loaded_at::text FROM {RAW}"
    assert target.execute(newest) == [("2999-01-01 00:00:00.000001+00",)]
    assert_equal(items, target, TABLE)


def test_deletes_of_an_adopted_table_are_guarded(items: Database, target: Database) -> None:
    create_theirs(
        target,
        after=f"INSERT INTO {RAW} SELECT i, 'theirs', i, now() FROM generate_series(1, 900) i",
    )

    assert type(refused(items, target)).__name__ == "GuardTripped"
    assert target.execute(f"SELECT count(*) FROM {RAW} WHERE body = 'theirs'") == [(900,)]


@EVERY_MODE
@pytest.mark.parametrize("full_refresh", [True, False])
def test_without_adopt_nothing_touches_it(
    items: Database, target: Database, table: dict[str, Any], full_refresh: bool
) -> None:
    create_theirs(target, "id int", f"INSERT INTO {RAW} VALUES (1)")
    facts = f"SELECT oid, relfilenode, relname FROM pg_class WHERE oid = '{RAW}'::regclass"
    before = target.execute(facts)

    report = land(items, target, table, full_refresh=full_refresh, allow_rewrite=True)

    assert report.failed[0].error is not None
    assert "is somebody else's" in report.failed[0].error.primary
    assert target.execute(facts) == before
    assert target.execute(f"SELECT * FROM {RAW}") == [(1,)]


def test_a_table_put_in_the_place_of_ours_may_be_adopted(items: Database, target: Database) -> None:
    land_one(items, target, MODES["xmin"])
    target.execute(f"ALTER TABLE {RAW} RENAME TO mine; CREATE TABLE {RAW} ({COLUMNS})")

    result = land_one(items, target, {**MODES["xmin"], "adopt": True})

    assert result.baseline
    assert_equal(items, target, MODES["xmin"])
    assert target.execute("SELECT count(*) FROM raw_data.mine") == [(200,)]


def test_a_run_that_dies_while_it_adopts_is_gone_on_with(items: Database, target: Database) -> None:
    create_theirs(target)

    def end(_chunks: int) -> None:
        msg = "killed"
        raise KeyError(msg)

    (result,) = land(items, target, TABLE, after_chunk=end).tables
    assert result.error is not None
    assert target.execute(f"SELECT count(_loaded_at) FROM {RAW}") == [(0,)]

    land_one(items, target, TABLE)

    assert_equal(items, target, TABLE)


@pytest.mark.parametrize(
    ("columns", "after", "told"),
    [
        (COLUMNS.replace(" PRIMARY KEY", ""), "", "No unique index on columns that are NOT NULL"),
        (
            COLUMNS.replace(" PRIMARY KEY", " NOT NULL"),
            f"CREATE UNIQUE INDEX ON {RAW} (id) WHERE id > 0",
            "No unique index on columns that are NOT NULL",
        ),
        ("id int PRIMARY KEY", "", 'It has no column "body": add it as text.'),
        (COLUMNS.replace("12, 2", "12, 3"), "", 'Column "amount" is numeric(12,3): make it'),
        (f"{COLUMNS}, x int NOT NULL", "", 'Column "x" is NOT NULL, and the source has no value'),
        (COLUMNS.replace("int", "int GENERATED ALWAYS AS IDENTITY"), "", "ALWAYS AS IDENTITY"),
        (
            COLUMNS.replace("body text", "body text GENERATED ALWAYS AS ('x') STORED"),
            "",
            'Column "body" is generated',
        ),
        (
            COLUMNS,
            "CREATE FUNCTION public.f() RETURNS trigger LANGUAGE plpgsql"
            " AS 'BEGIN RETURN new; END';"
            f"CREATE TRIGGER t BEFORE INSERT ON {RAW} FOR EACH ROW EXECUTE FUNCTION public.f()",
            'Row triggers would change what is landed: "t"',
        ),
        (
            COLUMNS,
            f"CREATE RULE r AS ON DELETE TO {RAW} DO INSTEAD NOTHING",
            'Rules would change what is landed: "r"',
        ),
        (COLUMNS, f"ALTER TABLE {RAW} FORCE ROW LEVEL SECURITY", "It forces row security"),
        (COLUMNS, f"ALTER TABLE {RAW} SET UNLOGGED", "It is unlogged"),
        (COLUMNS, f"CREATE TABLE public.child () INHERITS ({RAW})", "It is part of a partitioned"),
    ],
    ids=[
        *("no key", "partial key", "missing column", "other type", "needed column", "identity"),
        *("generated", "trigger", "rule", "row security", "unlogged", "parent"),
    ],
)
def test_a_table_that_does_not_fit_is_refused_and_left_alone(
    items: Database, target: Database, columns: str, after: str, told: str
) -> None:
    create_theirs(target, columns, after)

    error = refused(items, target)

    assert error.primary.endswith("cannot be adopted")
    assert told in error.detail
    assert target.execute(
        "SELECT count(*) FROM pg_attribute "
        f"WHERE attrelid = '{RAW}'::regclass AND attname = '_loaded_at'"
    ) == [(0,)]


@pytest.mark.parametrize(
    ("ddl", "told"),
    [
        (f"CREATE VIEW {RAW} AS SELECT 1 AS id", "It is a view"),
        (f"CREATE MATERIALIZED VIEW {RAW} AS SELECT 1 AS id", "It is a materialized view"),
        (f"CREATE TABLE {RAW} ({COLUMNS}) PARTITION BY HASH (id)", "It is a partitioned table"),
    ],
    ids=["view", "materialized view", "partitioned"],
)
def test_only_a_plain_table_is_adopted(
    items: Database, target: Database, ddl: str, told: str
) -> None:
    target.execute(f"CREATE SCHEMA raw_data; {ddl}")
    assert told in refused(items, target).detail


def test_statement_triggers_and_disabled_ones_are_no_hindrance(
    items: Database, target: Database
) -> None:
    create_theirs(
        target,
        after="CREATE FUNCTION public.f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL;"
        f" END'; CREATE TRIGGER t AFTER INSERT ON {RAW} EXECUTE FUNCTION public.f();"
        f"CREATE TRIGGER r BEFORE INSERT ON {RAW} FOR EACH ROW EXECUTE FUNCTION public.f();"
        f"ALTER TABLE {RAW} DISABLE TRIGGER r",
    )
    land_one(items, target, TABLE)
    assert_equal(items, target, TABLE)


def test_each_target_adopts_and_follows_by_itself(items: Database, target: Database) -> None:
    """One target's table is refused; the other's is taken over, and follows the source."""
    target.execute(
        "CREATE SCHEMA raw_data;"
        f"CREATE TABLE raw_data.one ({COLUMNS}); CREATE TABLE raw_data.two ({COLUMNS})"
    )
    two = [
        {"conn_id": "postgres_default", "table": "raw_data.one", "adopt": True},
        {"conn_id": "postgres_default", "table": "raw_data.two"},
    ]
    chosen = settings({"source": "public.items", "targets": two})

    report = run(chosen, environment(items, target), RunOptions())

    assert [table.status for table in report.tables] == ["done", "failed"]
    items.execute("ALTER TABLE public.items ADD COLUMN extra int DEFAULT 7")
    report = run(chosen, environment(items, target), RunOptions())
    assert [table.status for table in report.tables] == ["done", "failed"]
    assert target.execute("SELECT DISTINCT extra FROM raw_data.one") == [(7,)]
