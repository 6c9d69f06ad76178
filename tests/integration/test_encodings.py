"""Sources of another encoding, time zone or form of dates: the raw table is UTF-8, and equal."""

import pytest

from demo.embedded_server import EmbeddedServer
from tests.support.landing import assert_equal, land, land_one
from tests.support.servers import Database, fresh_database

TABLE = {"source": "public.t", "sync_mode": "xmin_incremental"}
RAW = "raw_data.digitalocean_t"
ROWS = (
    "CREATE TYPE public.mood AS ENUM ('좋음', 'bad');"
    'CREATE TABLE public.t (id int PRIMARY KEY, "이름" text, mood public.mood, words text[]);'
    "INSERT INTO public.t VALUES (1, '한글', '좋음', '{가,나}'), (2, 'plain', 'bad', NULL)"
)


@pytest.mark.parametrize("encoding", ["EUC_KR", "SQL_ASCII"])
def test_text_arrives_as_utf8(
    encoding: str, source_server: EmbeddedServer, target: Database
) -> None:
    """A database in SQL_ASCII converts nothing: what is UTF-8 in it stays so."""
    with fresh_database(source_server, "source", encoding) as source:
        source.execute(ROWS)
        land_one(source, target, TABLE)
        source.execute(
            "SET client_encoding = UTF8; UPDATE public.t SET \"이름\" = '둘' WHERE id = 2"
        )
        land_one(source, target, TABLE)

        assert_equal(source, target, TABLE)
    found = target.execute(f'SELECT "이름", mood, words FROM {RAW} ORDER BY id')
    assert found == [("한글", "좋음", ["가", "나"]), ("둘", "bad", None)]


@pytest.mark.parametrize("column", ["text", "text[]"], ids=["binary", "array"])
def test_bytes_that_are_no_utf8_end_the_run(
    column: str, source_server: EmbeddedServer, target: Database
) -> None:
    """SQL_ASCII keeps any bytes; which text they were meant to be nobody knows."""
    with fresh_database(source_server, "source", "SQL_ASCII") as source:
        value = "E'\\xc7\\xd1'" if column == "text" else "ARRAY[E'\\xc7\\xd1']"
        source.execute(f"CREATE TABLE public.t (id int PRIMARY KEY, v {column})")
        source.execute(f"INSERT INTO public.t VALUES (1, {value})")
        (result,) = land(source, target, TABLE).tables

    assert result.error is not None
    assert result.error.retryable is False
    assert result.error.primary == 'could not copy blocks 0 to the end of "public.t"'
    assert 'invalid byte sequence for encoding "UTF8": 0xc7 0xd1' in result.error.detail
    assert target.execute(f"SELECT to_regclass('{RAW}')") == [(None,)]


def test_the_servers_own_forms_of_values_do_not_matter(source: Database, target: Database) -> None:
    """Values that a session writes differently in another zone, style or precision."""
    for database, zone, dates, intervals in (
        (source, "Asia/Seoul", "German, DMY", "sql_standard"),
        (target, "America/New_York", "SQL, MDY", "iso_8601"),
    ):
        for name, value in {
            "TimeZone": zone,
            "DateStyle": dates,
            "IntervalStyle": intervals,
            "extra_float_digits": "-5",
            "bytea_output": "escape",
            "array_nulls": "off",
        }.items():
            database.execute(f"ALTER DATABASE {database.name} SET \"{name}\" = '{value}'")
    source.execute(
        "CREATE TABLE public.t (id int PRIMARY KEY, at timestamptz, day date, span interval,"
        " ratio float8, bytes bytea, local timestamp, spans interval[], words text[]);"
        "INSERT INTO public.t VALUES (1, '2026-11-01 01:30:00.000001-04', '2026-02-03',"
        " '-1 mon +2 days 03:04:05.6', 0.1::float8 + 0.2, '\\x00ff5c', '2026-11-01 01:30',"
        " '{1 day,-2 mons}', '{x,NULL,\"NULL\"}')"
    )
    for mode in ("full_sync", "xmin_incremental"):
        table = {**TABLE, "sync_mode": mode}
        land_one(source, target, table)
        assert_equal(source, target, table)
    query = (
        "SELECT extract(epoch FROM at), day - '2026-02-01'::date, ratio = 0.1::float8 + 0.2 FROM "
    )
    assert source.execute(query + "public.t") == target.execute(query + RAW)
