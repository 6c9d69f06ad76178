"""What a custom_where may call, at which time it reads, and under which path."""

from typing import Any

import pytest

from extract_load.runner import RunOptions, run
from extract_load.table_plan import TablePlan
from tests.support.command import extract_load, write_settings
from tests.support.landing import each_once, environment, land, land_one, settings
from tests.support.servers import Database
from tests.support.tables import FULL, MODES, RAW, XMIN, create_items

HARM = """
CREATE TABLE public.called (by text);
CREATE FUNCTION public.write(text) RETURNS boolean LANGUAGE sql VOLATILE
    AS 'SELECT pg_notify($1, $1) IS NOT NULL';
CREATE FUNCTION public.fine(int) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT $1 > 990';
CREATE FUNCTION public.either(int) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT true';
CREATE FUNCTION public.either(text) RETURNS boolean LANGUAGE sql VOLATILE AS 'SELECT true';
CREATE FUNCTION public.few(int, int DEFAULT 1) RETURNS boolean LANGUAGE sql AS 'SELECT true';
CREATE FUNCTION public.many(VARIADIC int[]) RETURNS boolean LANGUAGE sql AS 'SELECT true';
CREATE FUNCTION public.whole(public.items) RETURNS boolean LANGUAGE sql AS 'SELECT true';
CREATE FUNCTION public.worse(int, int) RETURNS boolean LANGUAGE sql VOLATILE AS 'SELECT true';
CREATE OPERATOR public.<<>> (LEFTARG = int, RIGHTARG = int, FUNCTION = public.worse);
CREATE TYPE public.pair AS (a int, b int);
CREATE FUNCTION public.paired(int) RETURNS public.pair LANGUAGE sql VOLATILE
    AS 'SELECT row($1, $1)::public.pair';
CREATE CAST (int AS public.pair) WITH FUNCTION public.paired(int);
CREATE FUNCTION public.checked(int) RETURNS boolean LANGUAGE sql VOLATILE AS 'SELECT true';
CREATE DOMAIN public.guarded AS int CHECK (public.checked(VALUE));
"""


@pytest.fixture
def items(source: Database) -> Database:
    create_items(source, 1_000)
    source.execute(HARM)
    return source


def refusal(items: Database, target: Database, where: str, **keys: Any) -> Any:
    (failed,) = land(items, target, {**FULL, "custom_where": where, **keys}).tables
    assert failed.error is not None, where
    assert failed.rows_read == 0
    assert target.execute("SELECT to_regclass(%s)", [RAW]) == [(None,)]
    return failed.error


# ---------------------------------------------------------------- what it may call


@pytest.mark.parametrize(
    ("where", "named", "why"),
    [
        ("pg_read_file('PG_VERSION') > ''", "function pg_catalog.pg_read_file", "volatile"),
        ("pg_read_binary_file('x', 0, 1) > ''", "function pg_read_binary_file", "acts"),
        ("pg_cancel_backend(1)", "function pg_catalog.pg_cancel_backend", "volatile"),
        ("set_config('a.b', 'c', false) = 'c'", "function set_config", "acts"),
        ("current_setting('port') = '1'", "function pg_catalog.current_setting", "acts"),
        ("pg_sleep(0) IS NULL", "function pg_catalog.pg_sleep", "volatile"),
        ("pg_advisory_lock(1) IS NULL", "function pg_catalog.pg_advisory_lock", "volatile"),
        ("pg_try_advisory_xact_lock(1, 2)", "function pg_try_advisory_xact_lock", "acts"),
        ("pg_notify('a', 'b') IS NULL", "function pg_notify", "acts"),
        ("pg_backend_pid() = id", "function pg_backend_pid", "acts"),
        ("txid_current() > 1", "function txid_current", "acts"),
        ("pg_current_xact_id() IS NULL", "function pg_current_xact_id", "acts"),
        ("pg_stat_reset() IS NULL", "function pg_stat_reset", "acts"),
        ("pg_switch_wal() IS NULL", "function pg_switch_wal", "acts"),
        ("(SELECT count(*) FROM pg_ls_dir('.')) > 0", "function pg_catalog.pg_ls_dir", "volatile"),
        ("lo_get(1) IS NULL", "function pg_catalog.lo_get", "volatile"),
        ("nextval('s') > 1", "function pg_catalog.nextval", "volatile"),
        ("query_to_xml('SELECT 1', true, true, '') IS NULL", "function query_to_xml", "acts"),
        ("random() < 0.5", "function random", "acts"),
        ("dblink('a', 'b') IS NULL", "function dblink", "acts"),
        ("inet_server_port() = 1", "function inet_server_port", "acts"),
        ("gen_random_uuid() IS NULL", "function pg_catalog.gen_random_uuid", "volatile"),
        ("write('a')", "function public.write", "volatile"),
        ("public.write('a')", "function public.write", "volatile"),
        ("CASE WHEN false THEN write('a') ELSE true END", "function public.write", "volatile"),
        ("id IN (SELECT 1 WHERE write('a'))", "function public.write", "volatile"),
        ("either(id)", "function public.either", "volatile"),
        ("few(id)", "function public.few", "volatile"),
        ("many(id, id, id)", "function public.many", "volatile"),
        ("items.whole", "function public.whole", "volatile"),
        ("(items).whole", "function public.whole", "volatile"),
        ("id <<>> 1", "operator public.<<>>", "volatile"),
        ("id OPERATOR(public.<<>>) 1", "operator public.<<>>", "volatile"),
        ("id <<>> ANY (ARRAY[1])", "operator public.<<>>", "volatile"),
        ("id <<>> ALL (SELECT 1)", "operator public.<<>>", "volatile"),
        ("id::pair IS NULL", "type public.pair", "volatile"),
        ("pair(id) IS NULL", "type public.pair", "volatile"),
        ("id::guarded > 1", "type public.guarded", "volatile"),
    ],
)
def test_what_may_act_is_refused_by_name(
    items: Database, target: Database, where: str, named: str, why: str
) -> None:
    error = refusal(items, target, where)

    name = f'custom_where of "public.items" may not call {named}'
    assert error.primary.replace("type public.paired", "type public.pair") == name
    assert why in error.detail
    assert "immutable and stable functions" in error.hint
    assert not error.retryable


def test_an_implicit_cast_that_acts_is_refused(items: Database, target: Database) -> None:
    items.execute(
        "CREATE FUNCTION public.texted(public.pair) RETURNS text LANGUAGE sql"
        " AS 'SELECT ''x''';"
        "CREATE CAST (public.pair AS text) WITH FUNCTION public.texted AS IMPLICIT"
    )
    error = refusal(items, target, "id > 1")
    assert error.primary.endswith("may not call implicit cast public.text")


def test_nothing_of_a_refused_predicate_is_executed(
    items: Database, target: Database, tmp_path: Any
) -> None:
    """Even a read-only transaction would end the session; so would planning the query."""
    victim = items.connect()
    pid = victim.info.backend_pid
    path = write_settings(
        tmp_path / "tables.yml",
        {**FULL, "target": RAW, "custom_where": f"pg_terminate_backend({pid})"},
    )
    for command in ("plan", "run"):
        done = extract_load(command, "--config", str(path), environment=environment(items, target))
        assert done.status == 1, done.stderr
        assert "may not call function pg_catalog.pg_terminate_backend" in done.stdout + done.stderr
    with victim.cursor() as cursor:
        cursor.execute("SELECT 1")
    victim.close()


@pytest.mark.parametrize(
    "where",
    [
        "fine(id)",
        "public.fine(id) AND items.body LIKE '%' AND id BETWEEN 1 AND 999",
        "coalesce(nullif(id, 3), 1) IN (995, 996) OR body SIMILAR TO 'x%'",
        "extract(year FROM updated_at) = 2026 AND id > 990",
        "pg_typeof(id) = 'integer'::regtype AND pg_column_size(id) = 4 AND id > 990",
        "(updated_at AT TIME ZONE 'Asia/Seoul')::date > '2020-01-01' AND id > 990",
        "id > ALL (SELECT x FROM (VALUES (990)) AS v (x))",
    ],
)
def test_what_only_looks_at_the_row_is_welcome(
    items: Database, target: Database, where: str
) -> None:
    (expected,) = items.execute(f"SELECT count(*) FROM public.items WHERE {where}")[0]
    landed = land_one(items, target, {**FULL, "custom_where": where}).rows_inserted
    assert landed == expected > 0


def test_a_function_there_is_not_is_told_by_the_source(items: Database, target: Database) -> None:
    error = refusal(items, target, "nowhere(id)")
    assert error.primary == 'could not use custom_where of "public.items"'
    assert "nowhere(integer) does not exist" in error.detail


# ---------------------------------------------------------------- the time it reads


@pytest.mark.parametrize(
    "now",
    [
        "now()",
        "clock_timestamp()",
        "statement_timestamp()",
        "pg_catalog.transaction_timestamp( /* ) */ )",
        "current_timestamp",
        "CURRENT_TIMESTAMP(3)",
        "localtimestamp",
        "(current_date + localtime)",
        "(current_date + current_time)",
    ],
)
def test_the_time_is_that_of_the_snapshot_for_every_worker(
    items: Database, target: Database, now: str
) -> None:
    """Chunks, counts and keys are read one after another, each under a later clock."""
    items.execute(
        "UPDATE public.items SET updated_at = clock_timestamp() + (id - 1) * interval '10 ms'"
    )
    where = f"'한' <> 'a' AND updated_at <= {now} AND NOT (id = 0) IS NULL"
    table = {**FULL, "custom_where": where, "batch_size": 100, "parallel_workers": 2}

    first = land_one(items, target, table)

    cut = first.window_high
    assert items.execute(
        "SELECT count(*) FROM public.items WHERE updated_at <= %s::timestamptz(3)", [cut]
    )[0][0] in range(first.rows_inserted - 1, first.rows_inserted + 2)
    items.execute("UPDATE public.items SET updated_at = updated_at - interval '5 s'")
    second = land_one(items, target, table)
    assert second.rows_inserted + first.rows_inserted >= 500


def test_the_day_is_that_of_utc_whatever_the_source_says(items: Database, target: Database) -> None:
    items.execute(f"ALTER DATABASE {items.name} SET timezone = 'Pacific/Kiritimati'")
    items.execute("ALTER TABLE public.items ADD day date DEFAULT (now() AT TIME ZONE 'UTC')::date")
    found = land_one(items, target, {**FULL, "custom_where": "day = current_date"})
    assert found.rows_inserted == 1_000


@pytest.mark.parametrize("mode", ["xmin_incremental", "incremental_sync"])
@pytest.mark.parametrize(
    ("where", "what"),
    [
        ("updated_at > now() - interval '1 day'", "the present time"),
        ("updated_at::date < CURRENT_DATE", "the present time"),
        ("id IN (SELECT 1)", "a sub-query"),
    ],
)
def test_a_mode_that_reads_changes_refuses_what_changes_by_itself(
    tmp_path: Any, mode: str, where: str, what: str
) -> None:
    table = {**XMIN, "sync_mode": mode, "incremental_field": "updated_at", "target": RAW}
    path = write_settings(tmp_path / "t.yml", {**table, "custom_where": where})
    done = extract_load("plan", "--config", str(path))
    assert done.status == 2
    assert (
        f"public.items.custom_where: {what} is possible in full_sync only: in {mode} rows would "
        "enter it unseen." in done.stderr
    )


@pytest.mark.parametrize(
    ("where", "told"),
    [
        ("d > 'today'", "holds 'today', which is another day in each session"),
        ("d > date ' Tomorrow '", "another day in each session"),
        ("d = ANY ('{2026-01-01,yesterday}')", "another day in each session"),
        ("d <@ '[2026-01-01,now)'::tsrange", "another day in each session"),
        ("ctid < '(5,1)'", "asks for 'ctid', which changes without the row being written"),
        ("age(d) > '1 day'", "depends on the session or on chance"),
        ("timeofday() > ''", "depends on the session or on chance"),
        ("current_user = 'a'", "depends on the session or on chance"),
        ("id IN (SELECT id FROM t TABLESAMPLE system (1))", "depends on the session or on chance"),
    ],
)
def test_what_is_another_in_each_session_is_refused(tmp_path: Any, where: str, told: str) -> None:
    path = write_settings(tmp_path / "t.yml", {**FULL, "target": RAW, "custom_where": where})
    done = extract_load("plan", "--config", str(path))
    assert done.status == 2
    assert told in done.stderr


def test_a_text_that_says_today_is_a_text(items: Database, target: Database) -> None:
    items.execute("UPDATE public.items SET body = 'today' WHERE id = 5")
    table = {**FULL, "custom_where": "body = 'today'::text"}
    assert land_one(items, target, table).rows_inserted == 1


# ---------------------------------------------------------------- the path it runs under

LOUD = """
CREATE SCHEMA loud;
CREATE FUNCTION loud.same(text, text) RETURNS boolean LANGUAGE sql IMMUTABLE
    AS 'SELECT pg_catalog.upper($1) OPERATOR(pg_catalog.=) pg_catalog.upper($2)';
CREATE FUNCTION loud.is_word(text) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT true';
CREATE OPERATOR loud.= (LEFTARG = text, RIGHTARG = text, FUNCTION = loud.same);
UPDATE public.items SET body = CASE id % 2 WHEN 0 THEN 'Word' ELSE 'word' END;
"""


def test_an_operator_is_found_where_the_table_says(items: Database, target: Database) -> None:
    """As with citext: under another path the same text keeps other rows."""
    items.execute(LOUD)
    table = {**FULL, "custom_where": "body = 'word'"}
    paths = {"usual": 500, "loud, pg_catalog": 1_000, "pg_catalog, loud": 500}
    for number, (path, rows) in enumerate(paths.items()):
        keys = {} if path == "usual" else {"search_path": path}
        landed = land_one(items, target, {**table, **keys, "target": f"raw_data.t{number}"})
        assert landed.rows_inserted == rows, path


def test_another_path_is_another_beginning(items: Database, target: Database) -> None:
    """The rows that belong to the table change, and no xmin does."""
    items.execute(LOUD)
    table = {**XMIN, "custom_where": "body = 'word'"}
    land_one(items, target, table)
    assert not land_one(items, target, table).baseline

    found = land_one(items, target, {**table, "search_path": ["loud", "pg_catalog"]})

    assert (found.baseline, found.rows_inserted) == (True, 500)


def test_two_entries_with_another_path_each_share_no_read(
    items: Database, target: Database
) -> None:
    """Their COPY is the same to the letter."""
    items.execute(LOUD)
    table = {**FULL, "custom_where": "body = 'word'", "verify": "off", "batch_size": 100}
    others = {"search_path": "loud, pg_catalog", "target": "raw_data.loud"}

    usual, loud = land(
        items, target, {**table, "target": "raw_data.usual"}, {**table, **others}
    ).tables

    assert (usual.rows_inserted, loud.rows_inserted) == (500, 1_000)


CHOSEN = """
CREATE OR REPLACE FUNCTION public.chosen(int) RETURNS boolean LANGUAGE sql IMMUTABLE
    AS 'SELECT $1 % 2 = {}'
"""


@pytest.mark.parametrize("table", MODES.values(), ids=MODES)
def test_a_function_that_was_replaced_is_another_beginning(
    items: Database, target: Database, table: dict[str, Any]
) -> None:
    """As many rows enter as leave: no count tells it, and no xmin."""
    items.execute(CHOSEN.format(0))
    chosen = {**table, "custom_where": "chosen(id)", "max_delete_ratio": 1}
    land_one(items, target, chosen)
    items.execute("GRANT EXECUTE ON FUNCTION public.chosen TO PUBLIC")
    assert not land_one(items, target, chosen).baseline
    items.execute(CHOSEN.format(1))

    found = land_one(items, target, chosen)

    assert found.baseline
    assert (found.rows_inserted, found.rows_deleted) == (500, 500)
    assert not land_one(items, target, chosen).baseline


def test_a_function_behind_an_operator_counts_and_a_nearer_one_too(
    items: Database, target: Database
) -> None:
    items.execute(
        "CREATE FUNCTION public.odd(int, int) RETURNS boolean LANGUAGE sql IMMUTABLE"
        " AS 'SELECT $1 % 2 = $2';"
        "CREATE OPERATOR public.### (LEFTARG = int, RIGHTARG = int, FUNCTION = public.odd)"
    )
    table = {**XMIN, "custom_where": "id ### 1 AND even(id)", "max_delete_ratio": 1}
    items.execute(
        "CREATE FUNCTION public.even(bigint) RETURNS boolean LANGUAGE sql IMMUTABLE"
        " AS 'SELECT true'"
    )
    land_one(items, target, table)
    items.execute(
        "CREATE OR REPLACE FUNCTION public.odd(int, int) RETURNS boolean LANGUAGE sql IMMUTABLE"
        " AS 'SELECT $1 % 2 <> $2'"
    )
    assert land_one(items, target, table).rows_deleted == 500
    items.execute(
        "CREATE FUNCTION public.even(int) RETURNS boolean LANGUAGE sql IMMUTABLE"
        " AS 'SELECT $1 % 4 = 0'"
    )
    assert land_one(items, target, table).rows_deleted == 250


@pytest.mark.parametrize("table", MODES.values(), ids=MODES)
def test_a_function_that_is_replaced_while_rows_are_read_is_read_again(
    items: Database, target: Database, table: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """It runs as it is now, in whichever snapshot: chunks of both would be published."""
    items.execute(CHOSEN.format(0))
    chosen = {**table, "custom_where": "chosen(id)", "batch_size": 100, "verify": "off"}

    def replace_it(chunks: int) -> None:
        if chunks == 3:
            items.execute(CHOSEN.format(1))

    with caplog.at_level("INFO", "extract_load"):
        (result,) = land(items, target, chosen, after_chunk=replace_it).tables

    assert result.error is None
    assert result.retries == 1
    told = 'a function that custom_where of "public.items" calls was replaced'
    assert told in [getattr(one, "why", "") for one in caplog.records]
    assert target.execute(f"SELECT count(*), count(*) FILTER (WHERE id % 2 = 1) FROM {RAW}") == [
        (500, 500)
    ]


def test_a_function_replaced_under_a_snapshot_is_never_taken_for_the_snapshots_own(
    items: Database, target: Database
) -> None:
    """A run's later table is judged as its snapshot has it, and read with what is there now."""
    items.execute(CHOSEN.format(0))
    items.execute("CREATE TABLE public.before AS SELECT 1 AS id")

    def replace_it(plan: TablePlan, _chunks: int) -> None:
        if plan.settings.source.table == "before":
            items.execute(CHOSEN.format(1).replace("IMMUTABLE", "VOLATILE"))

    first = {"source": "public.before", "sync_mode": "full_sync"}
    one_by_one = settings(
        first, {**FULL, "custom_where": "chosen(id)", "verify": "off"}, tables_in_parallel=1
    )
    options = RunOptions(progress=each_once(replace_it))
    before, result = run(one_by_one, environment(items, target), options).tables

    assert before.error is None
    assert result.error is not None
    assert result.error.primary.endswith("may not call function public.chosen")
    assert result.retries == 1, "it was read, and not published"
    assert target.execute("SELECT to_regclass(%s)", [RAW]) == [(None,)]


def test_our_own_conditions_do_not_follow_the_path(items: Database, target: Database) -> None:
    """An operator of the table's path that is never true must hide no row from us."""
    items.execute(LOUD)
    for left, right in (("bigint", "bigint"), ("bigint", "int"), ("tid", "tid")):
        sides = f"LEFTARG = {left}, RIGHTARG = {right}, FUNCTION = loud.never"
        items.execute(
            f"CREATE FUNCTION loud.never({left}, {right}) RETURNS boolean IMMUTABLE"
            " LANGUAGE sql AS 'SELECT false';"
            f"CREATE OPERATOR loud.< ({sides}); CREATE OPERATOR loud.>= ({sides})"
        )
    table = {**XMIN, "search_path": ["loud", "pg_catalog"], "batch_size": 100}
    first = land_one(items, target, table)
    items.execute("UPDATE public.items SET body = 'new' WHERE id = 1")
    second = land_one(items, target, table)

    assert (first.rows_inserted, second.rows_updated) == (1000, 1)


def test_public_is_on_the_usual_path_and_may_be_taken_off(
    items: Database, target: Database
) -> None:
    error = refusal(items, target, "fine(id)", search_path="pg_catalog")
    assert "fine(integer) does not exist" in error.detail
    assert land_one(items, target, {**FULL, "custom_where": "fine(id)"}).rows_inserted == 10


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("a", ("a",)),
        (" a , B ", ("a", "B")),
        ('"a, b","c ""d"""', ("a, b", 'c "d"')),
        (["a b", "c"], ("a b", "c")),
        ('"$user", public', ("$user", "public")),
    ],
)
def test_a_path_is_a_list_or_a_text(written: Any, meant: tuple[str, ...]) -> None:
    assert settings({**FULL, "search_path": written}).tables[0].search_path == meant


@pytest.mark.parametrize("written", ["", "a b", "a,,b", 5, [5], "pg_temp", ["x" * 64]])
def test_a_path_that_is_none_is_a_problem(tmp_path: Any, written: Any) -> None:
    path = write_settings(tmp_path / "t.yml", {**FULL, "target": RAW, "search_path": written})
    done = extract_load("plan", "--config", str(path))
    assert done.status == 2
    assert "public.items.search_path: " in done.stderr
