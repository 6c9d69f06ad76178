"""What a table is made of: partitions, children, views; each leaf is read by itself."""

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from extract_load.errors import SnapshotLost, SourceError
from extract_load.runner import Run, RunOptions
from extract_load.selection import resolve_all
from tests.support.landing import environment, land, land_one, settings
from tests.support.servers import Database

EVENTS = """
CREATE TABLE public.events (
    id int NOT NULL, day date NOT NULL, body text, updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (id, day)
) PARTITION BY RANGE (day);
CREATE TABLE public.events_01 PARTITION OF public.events
    FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');
CREATE TABLE public.events_02 PARTITION OF public.events
    FOR VALUES FROM ('2026-02-01') TO ('2026-03-01') PARTITION BY HASH (id);
CREATE TABLE public.events_02_even PARTITION OF public.events_02
    FOR VALUES WITH (modulus 2, remainder 0);
CREATE TABLE public.events_02_odd PARTITION OF public.events_02
    FOR VALUES WITH (modulus 2, remainder 1);
INSERT INTO public.events
SELECT i, date '2026-01-01' + i % 58, 'row ' || i, timestamptz '2026-01-01' + i * interval '1 s'
FROM generate_series(1, 3000) AS i;
ANALYZE public.events
"""
MARCH = """
CREATE TABLE public.events_03 (
    body text, dropped int, updated_at timestamptz NOT NULL DEFAULT now(),
    day date NOT NULL, id int NOT NULL
);
ALTER TABLE public.events_03 DROP COLUMN dropped;
INSERT INTO public.events_03 (id, day, body, updated_at)
SELECT i, '2026-03-05', 'march ' || i, '2020-01-01' FROM generate_series(1, 40) AS i
"""
ATTACH = (
    "ALTER TABLE public.events ATTACH PARTITION public.events_03 "
    "FOR VALUES FROM ('2026-03-01') TO ('2026-04-01')"
)

FULL: dict[str, Any] = {"source": "public.events", "sync_mode": "full_sync", "batch_size": 400}
INCREMENTAL: dict[str, Any] = {
    **FULL,
    "sync_mode": "incremental_sync",
    "incremental_field": "updated_at",
    "deletes": "hard",
}
XMIN: dict[str, Any] = {**FULL, "sync_mode": "xmin_incremental"}
EVERY_MODE = pytest.mark.parametrize(
    "table", [FULL, INCREMENTAL, XMIN], ids=["full", "incremental", "xmin"]
)
RAW = "raw_data.digitalocean_events"


@pytest.fixture
def events(source: Database) -> Database:
    source.execute(EVENTS)
    return source


def assert_same_rows(
    source: Database, target: Database, what: str = "public.events", raw: str = RAW
) -> None:
    """Asserts that both sides show the same rows, each as often."""
    columns = ", ".join(
        name
        for (name,) in source.execute(
            "SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass "
            "AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
            (what,),
        )
    )
    ours, theirs = (
        Counter(database.execute(f"SELECT {columns} FROM {table}"))
        for database, table in ((source, what), (target, raw))
    )
    assert ours - theirs == theirs - ours == Counter()
    assert ours


@EVERY_MODE
def test_partitions_of_any_depth_are_one_table(
    events: Database, target: Database, table: dict[str, Any]
) -> None:
    first = land_one(events, target, table)
    assert (first.rows_read, first.rows_inserted) == (3000, 3000)
    assert first.chunks > 3
    assert_same_rows(events, target)

    events.execute("UPDATE public.events SET body = 'new', updated_at = now() WHERE id <= 30")
    # Moves rows to another leaf: deleted there, inserted here.
    events.execute(
        "UPDATE public.events SET day = '2026-02-27', updated_at = now() WHERE day = '2026-01-03'"
    )
    events.execute("DELETE FROM public.events WHERE id BETWEEN 100 AND 120")
    second = land_one(events, target, table)

    assert not second.baseline
    assert second.rows_deleted > 20
    assert_same_rows(events, target)


@EVERY_MODE
def test_an_attached_partition_brings_its_old_rows(
    events: Database, target: Database, table: dict[str, Any]
) -> None:
    """Neither their xmin nor their cursor is new; only the list of leaves is."""
    events.execute(MARCH)
    land_one(events, target, table)
    events.execute(ATTACH)
    result = land_one(events, target, table)

    assert result.rows_inserted == 40
    assert table is FULL or result.rows_read < 3000
    assert_same_rows(events, target)


@EVERY_MODE
def test_a_partition_swapped_for_another_of_its_size(
    events: Database, target: Database, table: dict[str, Any]
) -> None:
    """Equal counts prove nothing once the leaves are others."""
    events.execute(MARCH)
    events.execute(ATTACH)
    land_one(events, target, table)
    events.execute(
        "ALTER TABLE public.events DETACH PARTITION public.events_03;"
        "CREATE TABLE public.other PARTITION OF public.events "
        "FOR VALUES FROM ('2026-03-01') TO ('2026-04-01');"
        "INSERT INTO public.other (id, day, body, updated_at)"
        " SELECT id + 500, day, body, updated_at FROM public.events_03"
    )
    result = land_one(events, target, table)

    assert (result.rows_inserted, result.rows_deleted) == (40, 40)
    assert_same_rows(events, target)


@EVERY_MODE
def test_a_detached_partition_takes_its_rows_along(
    events: Database, target: Database, table: dict[str, Any]
) -> None:
    land_one(events, target, table)
    events.execute("ALTER TABLE public.events_02 DETACH PARTITION public.events_02_odd")
    land_one(events, target, {**table, "max_delete_ratio": 1})

    assert_same_rows(events, target)


def test_a_leaf_with_a_default_of_its_own_is_read_whole(events: Database, target: Database) -> None:
    """A column that a partition got earlier than its parent has missing values of its own."""
    events.execute(MARCH)
    events.execute("ALTER TABLE public.events_03 ADD COLUMN extra text DEFAULT 'old'")
    events.execute("ALTER TABLE public.events ADD COLUMN extra text")
    events.execute(ATTACH)
    land_one(events, target, XMIN)
    assert_same_rows(events, target)
    events.execute(
        "ALTER TABLE public.events DETACH PARTITION public.events_03;"
        "ALTER TABLE public.events_03 DROP COLUMN extra;"
        "ALTER TABLE public.events_03 ADD COLUMN extra text DEFAULT 'new';" + ATTACH
    )
    result = land_one(events, target, XMIN)

    assert (result.rows_updated, result.baseline) == (40, False)
    assert_same_rows(events, target)


def test_a_partitioned_table_without_partitions_is_empty(
    source: Database, target: Database
) -> None:
    source.execute(
        "CREATE TABLE public.events (id int, day date, PRIMARY KEY (id, day))"
        " PARTITION BY LIST (day)"
    )
    result = land_one(source, target, FULL)

    assert (result.rows_read, result.chunks) == (0, 0)
    assert target.execute(f"SELECT count(*) FROM {RAW}") == [(0,)]


def test_a_predicate_may_name_the_partitioned_table(events: Database, target: Database) -> None:
    table = {**FULL, "custom_where": "events.id % 2 = 0"}
    assert land_one(events, target, table).rows_read == 1500


def test_a_run_does_not_see_a_partition_attached_after_its_snapshot(
    events: Database, target: Database
) -> None:
    events.execute(MARCH)

    def attach(done: int) -> None:
        if done == 1:
            events.execute(ATTACH)

    (result,) = land(events, target, XMIN, after_chunk=attach).tables
    assert (result.error, result.rows_inserted) == (None, 3000)

    assert land_one(events, target, XMIN).rows_inserted == 40
    assert_same_rows(events, target)


@pytest.mark.parametrize("max_retries", [0, 3])
def test_a_truncated_leaf_needs_another_snapshot(
    events: Database, target: Database, max_retries: int
) -> None:
    table = {**FULL, "max_retries": max_retries}

    def truncate(done: int) -> None:
        if done == 1:
            events.execute("TRUNCATE public.events_02_odd")

    (result,) = land(events, target, table, after_chunk=truncate).tables

    if not max_retries:
        assert isinstance(result.error, SnapshotLost)
        assert result.error.primary.endswith(
            'events_02_odd" was truncated, rewritten or replaced during the run'
        )
        result = land_one(events, target, table)
        assert result.chunks_resumed > 0
    assert (result.error, result.retries) == (None, 1 if max_retries else 0)
    assert_same_rows(events, target)


@pytest.mark.parametrize(
    "change",
    [
        "DROP TABLE public.events_02_odd",
        "ALTER TABLE public.events_02_odd RENAME TO events_old",
        "CREATE SCHEMA old; ALTER TABLE public.events_02_odd SET SCHEMA old",
    ],
)
def test_a_leaf_that_is_dropped_or_renamed_needs_another_snapshot(
    events: Database, target: Database, change: str
) -> None:
    def take_away(done: int) -> None:
        if done == 1:
            events.execute(change)

    (result,) = land(events, target, FULL, after_chunk=take_away).tables

    assert (result.error, result.retries) == (None, 1)
    assert_same_rows(events, target)


def test_a_leaf_is_read_by_itself_so_the_role_needs_it(events: Database, target: Database) -> None:
    role = f"reader_{events.name}"
    events.execute(
        f"CREATE ROLE {role} LOGIN PASSWORD 'r'; GRANT SELECT ON public.events TO {role}"
    )
    (result,) = land(replace(events, user=role, password="r"), target, FULL).tables

    assert isinstance(result.error, SourceError)
    assert result.error.primary.startswith('the role may not read "public.events"')
    assert 'Its partition "public.events_01" is read by itself' in result.error.detail
    assert result.error.hint.startswith("Run on the source: GRANT SELECT ON")


def test_a_parent_lands_its_own_rows_and_plan_names_its_children(
    source: Database, target: Database
) -> None:
    source.execute(
        "CREATE TABLE public.events (id int PRIMARY KEY, body text);"
        "CREATE TABLE public.child (extra int) INHERITS (public.events);"
        "INSERT INTO public.events VALUES (1, 'own');"
        "INSERT INTO public.child VALUES (2, 'its', 3);"
        "ANALYZE public.child"
    )
    land_one(source, target, XMIN)
    assert target.execute(f"SELECT id FROM {RAW}") == [(1,)]

    chosen = settings(XMIN)
    connections = resolve_all(chosen.tables, environment(source, target), None)
    (planned,) = Run(chosen, chosen.tables, connections, RunOptions()).plan_all()
    assert planned.plan is not None
    assert "not its rows, but tables of their own: public.child (1 rows)" in planned.plan.warnings


def test_an_unlogged_table_lands(source: Database, target: Database) -> None:
    source.execute(
        "CREATE UNLOGGED TABLE public.events (id int PRIMARY KEY);"
        "INSERT INTO public.events VALUES (1)"
    )
    land_one(source, target, XMIN)
    assert_same_rows(source, target)


VIEW = (
    "CREATE TABLE public.base (id int PRIMARY KEY, updated_at timestamptz DEFAULT now());"
    "INSERT INTO public.base SELECT i, '2026-01-01' FROM generate_series(1, 500) AS i;"
    "CREATE {kind} public.events AS SELECT id, updated_at FROM public.base WHERE id % 2 = 0"
)
KINDS = pytest.mark.parametrize("kind", ["VIEW", "MATERIALIZED VIEW"], ids=["view", "matview"])


@KINDS
@pytest.mark.parametrize("mode", [FULL, INCREMENTAL], ids=["full", "incremental"])
def test_a_view_is_read_in_one_pass(
    source: Database, target: Database, kind: str, mode: dict[str, Any]
) -> None:
    source.execute(VIEW.format(kind=kind))
    table = {**mode, "primary_key": "id"}
    assert land_one(source, target, table).chunks == 1
    source.execute(
        "INSERT INTO public.base VALUES (1000, now()); DELETE FROM public.base WHERE id < 9"
    )
    if kind != "VIEW":
        source.execute("REFRESH MATERIALIZED VIEW public.events")
    land_one(source, target, table)

    assert_same_rows(source, target)


@KINDS
def test_rows_without_xmin_are_refused_with_the_mode_to_use(
    source: Database, target: Database, kind: str
) -> None:
    source.execute(VIEW.format(kind=kind))
    (result,) = land(source, target, {**XMIN, "primary_key": "id"}).tables

    assert isinstance(result.error, SourceError)
    assert result.error.primary == (
        f'"public.events" cannot be read by xmin: "public.events" is a {kind.lower()}'
    )
    assert result.error.hint.startswith('Set "sync_mode" to full_sync, or to incremental_sync')
    assert target.execute("SELECT to_regclass('raw_data.digitalocean_events')") == [(None,)]


def test_a_view_over_rewritten_tables_ends_the_run(source: Database, target: Database) -> None:
    """The view has no heap of its own; what it reads has."""
    source.execute(VIEW.format(kind="VIEW"))
    source.execute("CREATE VIEW public.outer_view AS SELECT * FROM public.events")
    table = {**FULL, "source": "public.outer_view", "primary_key": "id", "max_retries": 0}

    def truncate(_done: int) -> None:
        source.execute("TRUNCATE public.base; INSERT INTO public.base VALUES (2)")

    (result,) = land(source, target, table, after_chunk=truncate).tables
    assert isinstance(result.error, SnapshotLost)
    assert (
        result.error.primary
        == '"public.outer_view" was truncated, rewritten or replaced during the run'
    )


def test_a_view_with_another_query_is_read_whole(source: Database, target: Database) -> None:
    source.execute(VIEW.format(kind="VIEW"))
    table = {**INCREMENTAL, "primary_key": "id"}
    land_one(source, target, table)
    source.execute(
        "CREATE OR REPLACE VIEW public.events AS"
        " SELECT id, updated_at FROM public.base WHERE id < 9"
    )
    land_one(source, target, {**table, "max_delete_ratio": 1})

    assert_same_rows(source, target)
