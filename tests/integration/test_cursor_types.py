"""Every type of cursor: what becomes its watermark, and which rows the next run reads."""

from typing import Any

import pytest

from extract_load.extract import copy_out_query
from extract_load.look import look_and_plan
from tests.support.landing import assert_equal, land, land_one, prepared_run, settings
from tests.support.servers import Database
from tests.support.tables import RAW

BY_CURSOR: dict[str, Any] = {
    "source": "public.items",
    "sync_mode": "incremental_sync",
    "incremental_field": "c",
    "deletes": "ignore",
}
DAYS = {**BY_CURSOR, "incremental_field_type": "yyyymmdd"}
WATERMARK = "SELECT cursor_value FROM extract_load.watermarks"
UUIDS = (
    "(lpad(to_hex((extract(epoch FROM now() + {0}) * 1000)::bigint), 12, '0')"
    " || '7' || '000800000000' || lpad(i::text, 7, '0'))::uuid"
)


def create(source: Database, type_text: str, *values: str) -> None:
    """Makes `public.items` with one row for each SQL expression, numbered from 1."""
    source.execute(f"CREATE TABLE public.items (id int PRIMARY KEY, v text, c {type_text})")
    for number, value in enumerate(values, start=1):
        source.execute(
            f"INSERT INTO public.items SELECT i, 'a', {value} FROM (SELECT {number}) x(i)"
        )


def watermark(target: Database) -> Any:
    return target.execute(WATERMARK)[0][0]


def explained(source: Database, target: Database, table: dict[str, Any]) -> str:
    """What the source does for the first chunk of the next run."""
    run = prepared_run(source, target, table)
    chosen = settings(table).tables[0]
    snapshot = run._source(chosen)
    parameters = run._connections[chosen.target_connection]
    with run._registry.opened(parameters, "target") as session:
        plan = look_and_plan(chosen, snapshot, session)
    raw = snapshot.holder._raw
    query = copy_out_query(plan, plan.chunks[0]).as_string(raw)
    body = query[len("COPY (") : query.rindex(") TO STDOUT")]
    lines = snapshot.holder.execute("EXPLAIN " + body)
    snapshot.close()
    return "\n".join(line for (line,) in lines)


# ---------------------------------------------------------------- what becomes a watermark


@pytest.mark.parametrize(
    ("type_text", "values", "expected"),
    [
        ("timestamptz", ["'2026-01-01 00:00:00.123457Z'"], "2026-01-01 00:00:00.123457+00"),
        ("timestamp", ["'2026-01-01 00:00:00.000001'"], "2026-01-01 00:00:00.000001"),
        ("timestamptz", ["'2026-01-01Z'", "'infinity'", "'-infinity'"], "2026-01-01 00:00:00+00"),
        ("timestamptz", ["'2026-01-01Z'", "now() + '1 year'"], "2026-01-01 00:00:00+00"),
        ("timestamptz", ["'-infinity'"], None),
        ("date", ["'2026-01-01'", "'infinity'", "'9999-12-31'", "NULL"], "2026-01-01"),
        ("smallint", ["-32768", "5"], "5"),
        ("bigint", ["9223372036854775807", "5"], "9223372036854775807"),
        ("numeric", ["5.50", "'NaN'", "'Infinity'", "'-Infinity'"], "5.50"),
        ("text", ["'b'", "'a'", "'B'", "'é'"], "é"),
        ("varchar(9)", ["'b'", "'C'"], "b"),
        ("char(9)", ["'b'", "'C'"], "b"),
        ("uuid", ["'00000000-0000-4000-8000-000000000000'", "gen_random_uuid()"], None),
    ],
)
def test_the_largest_value_that_tells_a_time_is_the_watermark(
    source: Database, target: Database, type_text: str, values: list[str], expected: str | None
) -> None:
    create(source, type_text, *values)
    land_one(source, target, BY_CURSOR)
    found = watermark(target)
    assert (found.rstrip() if found else found) == expected
    source.execute("UPDATE public.items SET v = 'b'")
    source.execute(f"INSERT INTO public.items VALUES (99, 'new', {values[0]})")
    # Each value of these tables is at the watermark, or tells nothing, or lies below it for good.
    land_one(source, target, BY_CURSOR, since=None if expected is None else _lowest(type_text))
    assert_equal(source, target, BY_CURSOR)


def _lowest(type_text: str) -> str:
    if type_text.startswith(("timestamp", "date")):
        return "0001-01-01"
    return "" if type_text.startswith(("text", "varchar", "char")) else "-32768"


def test_values_that_tell_nothing_are_read_in_every_run(source: Database, target: Database) -> None:
    for type_text, silent in {
        "timestamptz": ["NULL", "'infinity'", "'-infinity'", "now() + '5 years'"],
        "timestamp": ["NULL", "'infinity'", "'-infinity'"],
        "date": ["NULL", "'infinity'", "'-infinity'"],
        "numeric": ["NULL", "'NaN'", "'Infinity'", "'-Infinity'"],
    }.items():
        ordinary = "5" if type_text == "numeric" else "'2026-01-01'"
        create(source, type_text, ordinary, *silent)
        land_one(source, target, BY_CURSOR)
        source.execute("UPDATE public.items SET v = 'b' WHERE id > 1")

        assert land_one(source, target, BY_CURSOR).rows_updated == len(silent), type_text
        assert_equal(source, target, BY_CURSOR)
        source.execute("DROP TABLE public.items")
        target.execute(f"DROP TABLE {RAW}; DELETE FROM extract_load.watermarks")


@pytest.mark.parametrize("type_text", ["timestamptz", "uuid", "numeric", "text"])
def test_a_domain_is_its_base(source: Database, target: Database, type_text: str) -> None:
    value = {"timestamptz": "now()", "uuid": UUIDS.format("'0'::interval"), "numeric": "7"}
    source.execute(
        f"CREATE DOMAIN public.stamp AS {type_text}; CREATE DOMAIN public.s AS public.stamp"
    )
    create(source, "public.s", value.get(type_text, "'x'"))
    table = {**BY_CURSOR, "incremental_field_type": type_text}
    land_one(source, target, table)
    source.execute("UPDATE public.items SET v = 'b'")

    found = land_one(source, target, table)
    assert (found.baseline, found.rows_updated) == (False, 1)


def test_an_integer_at_the_end_of_its_range_has_a_low_bound(
    source: Database, target: Database
) -> None:
    for type_text, value in {"integer": -(1 << 31), "bigint": -(1 << 63)}.items():
        create(source, type_text, f"'{value}'")
        table = {**BY_CURSOR, "lookback": 10}
        land_one(source, target, table)
        assert land_one(source, target, table).rows_read == 1
        source.execute("DROP TABLE public.items")
        target.execute(f"DROP TABLE {RAW}; DELETE FROM extract_load.watermarks")


# ---------------------------------------------------------------- uuid of version 7


def test_a_uuid_is_read_by_the_time_it_begins_with(source: Database, target: Database) -> None:
    ages = ["'-1 hour'", "'-11 minutes'", "'-9 minutes'", "'0'", "'1 day'"]
    create(source, "uuid UNIQUE NOT NULL", *(UUIDS.format(f"interval {age}") for age in ages))
    source.execute(
        "INSERT INTO public.items VALUES (9, 'v4', 'ffffffff-ffff-4fff-8fff-ffffffffffff')"
    )
    land_one(source, target, BY_CURSOR)
    newest = source.execute("SELECT c::text FROM public.items WHERE id = 4")[0][0]
    assert watermark(target) == newest

    source.execute("UPDATE public.items SET v = 'b'")
    found = land_one(source, target, BY_CURSOR)
    assert found.rows_updated == 4, "9 minutes, now, the future, and version 4 above them"
    assert land_one(source, target, BY_CURSOR, since=newest).rows_read == 4
    moment = source.execute("SELECT (now() - interval '30 min')::text")[0][0]
    assert land_one(source, target, BY_CURSOR, since=moment).rows_read == 5


# ---------------------------------------------------------------- texts


def test_texts_of_two_encodings_keep_the_sources_order(source: Database, target: Database) -> None:
    """Under the target's order the watermark would hide rows: EUC_KR has 伽 after 힝."""
    name = f"korean_{source.name}"
    source.execute(f"CREATE DATABASE {name} ENCODING 'EUC_KR' LOCALE 'C' TEMPLATE template0")
    korean = Database(source.host, source.port, name, source.user, source.password)
    try:
        korean.execute(
            "SET client_encoding = 'UTF8'; CREATE TABLE public.items"
            " (id int PRIMARY KEY, v text, c text NOT NULL);"
            "INSERT INTO public.items VALUES (1, 'a', '힝'), (2, 'a', '伽')"
        )
        land_one(korean, target, BY_CURSOR)
        assert watermark(target) == "伽"
        korean.execute("SET client_encoding = 'UTF8'; UPDATE public.items SET v = 'b' WHERE id = 2")
        assert land_one(korean, target, BY_CURSOR).rows_updated == 1
    finally:
        source.execute(f"DROP DATABASE {name} WITH (FORCE)")


def test_since_of_a_text_is_ascii(source: Database, target: Database) -> None:
    create(source, "text NOT NULL", "'B'", "'가'")
    land_one(source, target, BY_CURSOR)
    assert land_one(source, target, BY_CURSOR, since="A").rows_read == 2

    (failed,) = land(source, target, BY_CURSOR, since="나").tables
    assert failed.error is not None
    assert 'since "나" cannot bound cursor "c" of "public.items"' in failed.error.primary
    assert failed.error.hint.startswith('Write "since" like 2026-A, ASCII;')


# ---------------------------------------------------------------- days in eight digits


@pytest.mark.parametrize(
    "type_text", ["text", "char(8)", "varchar(20)", "int", "bigint", "numeric(10, 2)"]
)
def test_days_in_digits_read_their_last_days_again(
    source: Database, target: Database, type_text: str
) -> None:
    days = ["20251230", "20251231", "20260101", "99991231", "20261399", "20260231"]
    zero = "00000000" if type_text.startswith(("text", "char", "varchar")) else "0"
    create(source, type_text, *(f"'{day}'" for day in [*days, zero]), "NULL")
    land_one(source, target, DAYS)
    assert watermark(target) == "20260101"

    source.execute("UPDATE public.items SET v = 'b'")
    source.execute("INSERT INTO public.items VALUES (99, 'new', '20260101')")
    found = land_one(source, target, DAYS)
    assert (found.baseline, found.window_low) == (False, "20251231")
    assert (found.rows_updated, found.rows_inserted) == (7, 1), "all but the oldest day"
    back = land_one(source, target, DAYS, since="2025-12-30")
    assert (back.window_low, back.rows_updated) == ("20251230", 1)
    assert_equal(source, target, DAYS)
    assert watermark(target) == "20260101"


@pytest.mark.parametrize(
    ("type_text", "value"),
    [
        ("text", "2026-1-1"),
        ("text", "2026010"),
        ("text", "202601011"),
        ("text", "20260101\n"),
        ("text", ""),
        ("text", "２０２６０１０１"),
        ("int", "260101"),
        ("numeric", "20260101.5"),
        ("numeric", "NaN"),
    ],
)
def test_what_is_no_day_in_digits_is_refused_before_a_row_is_read(
    source: Database, target: Database, type_text: str, value: str
) -> None:
    create(source, type_text, "'20260101'", f"'{value}'")
    (failed,) = land(source, target, DAYS).tables

    error = failed.error
    assert error is not None
    assert error.primary == 'column "c" of "public.items" is no yyyymmdd'
    assert error.detail.startswith(f'A row has "{value}"; only eight digits')
    assert failed.rows_read == 0
    assert target.execute("SELECT to_regclass(%s)", [RAW]) == [(None,)]
    left_out = {**DAYS, "custom_where": "c::text = '20260101'"}
    assert land_one(source, target, left_out).rows_inserted == 1


def test_a_text_that_becomes_a_day_begins_anew(source: Database, target: Database) -> None:
    create(source, "text", "'20260101'")
    land_one(source, target, BY_CURSOR)
    assert land_one(source, target, DAYS).baseline


@pytest.mark.parametrize(
    ("type_text", "declared"),
    [("smallint", "yyyymmdd"), ("date", "yyyymmdd"), ("text", "uuid"), ("jsonb", None)],
)
def test_a_type_that_does_not_fit_is_named(
    source: Database, target: Database, type_text: str, declared: str | None
) -> None:
    create(source, type_text)
    keys = {"incremental_field_type": declared} if declared else {}
    (failed,) = land(source, target, {**BY_CURSOR, **keys}).tables
    assert failed.error is not None
    assert failed.error.primary == 'column "c" of "public.items" cannot be the cursor'
    assert failed.error.detail.startswith(f"It is {type_text}; possible: {declared or 'timestamp'}")


# ---------------------------------------------------------------- lookback


@pytest.mark.parametrize(
    ("type_text", "lookback", "wanted"),
    [
        ("bigint", "10 minutes", "a number, such as 1000"),
        ("numeric", "1d", "a number, such as 1000"),
        ("text", 5, "0: nothing lies a span before a text"),
        ("text", "1d", "0: nothing lies a span before a text"),
    ],
)
def test_a_lookback_of_another_kind_is_named(
    source: Database, target: Database, type_text: str, lookback: Any, wanted: str
) -> None:
    create(source, type_text)
    (failed,) = land(source, target, {**BY_CURSOR, "lookback": lookback}).tables
    assert failed.error is not None
    assert failed.error.primary == '"lookback" does not fit cursor "c" of "public.items"'
    assert failed.error.detail.endswith(f"its lookback is {wanted}.")


@pytest.mark.parametrize("type_text", ["timestamptz", "date"])
def test_a_lookback_before_every_calendar_reads_everything(
    source: Database, target: Database, type_text: str
) -> None:
    create(source, f"{type_text} NOT NULL", "'2026-01-01'", "'0001-01-01'")
    table = {**BY_CURSOR, "lookback": 1e300}
    land_one(source, target, table)
    assert land_one(source, target, table).baseline


def test_the_hour_that_autumn_repeats_needs_a_lookback_above_it(
    source: Database, target: Database
) -> None:
    """Local times without a zone: 01:50 comes first in summer time, 01:05 comes later."""
    create(source, "timestamp", "'2025-11-02 01:50'")
    narrow, wide = BY_CURSOR, {**BY_CURSOR, "target": "raw_data.wide", "lookback": "70 minutes"}
    land(source, target, narrow, wide)
    source.execute("INSERT INTO public.items VALUES (2, 'after the change', '2025-11-02 01:05')")

    missed, found = land(source, target, narrow, wide).tables
    assert (missed.rows_inserted, found.rows_inserted) == (0, 1)
    assert_equal(source, target, wide)


def test_local_times_ahead_of_utc_are_read_until_utc_has_come_by(
    source: Database, target: Database
) -> None:
    """A watermark of local time would lie nine hours after the snapshot."""
    create(source, "timestamp", "now() AT TIME ZONE 'Asia/Seoul' - interval '1 day'")
    source.execute("INSERT INTO public.items SELECT 2, 'a', now() AT TIME ZONE 'Asia/Seoul'")
    land_one(source, target, BY_CURSOR)
    source.execute("UPDATE public.items SET v = 'b' WHERE id = 2")
    assert land_one(source, target, BY_CURSOR).rows_updated == 1


# ---------------------------------------------------------------- what it costs the source


@pytest.mark.parametrize(
    ("type_text", "index", "scan"),
    [
        ("timestamptz", "(c)", "Index Cond"),
        ("timestamptz", "(id)", "Filter"),
        ("smallint", "(c)", "Index Cond"),
        ("uuid", "(c)", "Index Cond"),
        ("text", '(c COLLATE "C")', "Index Cond"),
        ("text", "(c)", "Filter"),
    ],
)
def test_the_source_never_sorts_and_uses_the_index_there_is(
    source: Database, target: Database, type_text: str, index: str, scan: str
) -> None:
    value = {
        "timestamptz": "timestamptz '2026-01-01Z' + i * interval '1 min'",
        "smallint": "i",
        "uuid": UUIDS.format("- i * interval '1 min'"),
        "text": "i::text",
    }[type_text]
    source.execute(
        f"CREATE TABLE public.items (id int PRIMARY KEY, v text, c {type_text} NOT NULL);"
        f"INSERT INTO public.items SELECT i, repeat('x', 100), {value}"
        " FROM generate_series(1, 5000) AS i;"
        f"CREATE INDEX ON public.items {index}; ANALYZE public.items"
    )
    land_one(source, target, BY_CURSOR)

    found = explained(source, target, BY_CURSOR)
    assert "Sort" not in found
    assert scan in found
