"""What analysts put on a raw table stays, and never costs a row: indexes, foreign keys, grants."""

from typing import Any

import pytest

from extract_load.errors import TargetError
from extract_load.runner import Run, RunOptions
from extract_load.selection import resolve_all
from tests.support.landing import assert_equal, environment, land, land_one, settings
from tests.support.servers import Database

TABLE: dict[str, Any] = {"source": "public.t", "sync_mode": "xmin_incremental"}
RAW = "raw_data.digitalocean_t"
EVERY_MODE = pytest.mark.parametrize("mode", ["full_sync", "xmin_incremental"])


@pytest.fixture
def codes(source: Database, target: Database) -> Database:
    """Ten rows with a place each, landed."""
    source.execute(
        "CREATE TABLE public.t (id int PRIMARY KEY, place int, name text);"
        "INSERT INTO public.t SELECT i, i, 'row ' || i FROM generate_series(1, 10) AS i"
    )
    land_one(source, target, TABLE)
    return source


def failure(source: Database, target: Database, table: dict[str, Any]) -> TargetError:
    """The error of a landing that must change nothing."""
    before = target.execute(f"SELECT * FROM {RAW} ORDER BY id")
    (result,) = land(source, target, table).tables
    assert isinstance(result.error, TargetError)
    assert result.error.retryable is False
    assert "Nothing was published." in result.error.detail
    assert target.execute(f"SELECT * FROM {RAW} ORDER BY id") == before
    return result.error


# ---------------------------------------------------------------- unique indexes


@EVERY_MODE
@pytest.mark.parametrize(
    "index",
    [
        f"CREATE UNIQUE INDEX places ON {RAW} (place)",
        f"ALTER TABLE {RAW} ADD EXCLUDE USING gist (int4range(place, place + 1) WITH &&)",
    ],
    ids=["unique", "exclusion"],
)
def test_rows_that_changed_places_meet_an_analysts_index(
    index: str, mode: str, codes: Database, target: Database
) -> None:
    """An UPDATE is checked row by row: in the middle two rows hold one place."""
    target.execute(index)
    target.execute(
        f"ALTER TABLE {RAW} ADD COLUMN note text, ADD COLUMN number int GENERATED ALWAYS AS"
        f" IDENTITY, ADD COLUMN twice int GENERATED ALWAYS AS (place * 2) STORED"
    )
    target.execute(f"UPDATE {RAW} SET note = 'mine ' || id")
    before = target.execute(f"SELECT id, number, note FROM {RAW} ORDER BY id")
    codes.execute("UPDATE public.t SET place = 3 - place WHERE id < 3")
    codes.execute("DELETE FROM public.t WHERE id = 10; INSERT INTO public.t VALUES (11, 10, 'new')")
    result = land_one(codes, target, {**TABLE, "sync_mode": mode})

    assert (result.rows_updated, result.rows_inserted, result.rows_deleted) == (2, 1, 1)
    assert_equal(codes, target, TABLE)
    after = target.execute(f"SELECT id, number, note FROM {RAW} WHERE id < 10 ORDER BY id")
    assert after == before[:9]
    assert target.execute(f"SELECT count(*) FROM {RAW} WHERE twice <> place * 2") == [(0,)]
    # Of one publish: those that changed, and no others.
    fresh = f"SELECT id FROM {RAW} WHERE _loaded_at = (SELECT max(_loaded_at) FROM {RAW})"
    assert target.execute(f"{fresh} ORDER BY id") == [(1,), (2,), (11,)]


def test_deleted_rows_come_back_into_exchanged_places(codes: Database, target: Database) -> None:
    table = {**TABLE, "deletes": "soft"}
    codes.execute("DELETE FROM public.t WHERE id = 1")
    land_one(codes, target, table)
    target.execute(f"CREATE UNIQUE INDEX places ON {RAW} (place) WHERE _deleted_at IS NULL")
    codes.execute(
        "INSERT INTO public.t VALUES (1, 2, 'back'); UPDATE public.t SET place = 1 WHERE id = 2"
    )
    land_one(codes, target, table)

    assert_equal(codes, target, table)


def test_an_index_that_the_sources_rows_break_is_named(codes: Database, target: Database) -> None:
    target.execute(f"CREATE UNIQUE INDEX places ON {RAW} (place)")
    codes.execute("UPDATE public.t SET place = 1 WHERE id = 2")
    error = failure(codes, target, TABLE)

    assert error.primary == (
        'raw_data."digitalocean_t" in target "postgres_default" has an index that does not '
        "take the source's rows"
    )
    assert 'unique constraint "places" (Key (place)=(1) already exists.)' in error.detail
    assert "where _deleted_at is null" in error.hint


def test_a_soft_deleted_row_keeps_its_place(codes: Database, target: Database) -> None:
    table = {**TABLE, "deletes": "soft"}
    land_one(codes, target, table)
    target.execute(f"CREATE UNIQUE INDEX places ON {RAW} (place)")
    codes.execute("DELETE FROM public.t WHERE id = 1; INSERT INTO public.t VALUES (12, 1, 'x')")
    assert "has an index that does not take" in failure(codes, target, table).primary

    target.execute("DROP INDEX raw_data.places")
    target.execute(f"CREATE UNIQUE INDEX places ON {RAW} (place) WHERE _deleted_at IS NULL")
    land_one(codes, target, table)
    assert_equal(codes, target, table)


def test_places_are_not_exchanged_under_a_foreign_key(codes: Database, target: Database) -> None:
    """Taking rows out and in would be a delete for the key that refers to them."""
    target.execute(
        f"CREATE UNIQUE INDEX places ON {RAW} (place);"
        f"CREATE TABLE public.mine (t int REFERENCES {RAW} ON DELETE CASCADE);"
        "INSERT INTO public.mine VALUES (1)"
    )
    codes.execute("UPDATE public.t SET place = 3 - place WHERE id < 3")
    error = failure(codes, target, TABLE)

    assert error.primary.endswith(
        "has a unique index and a foreign key, and its rows changed places"
    )
    assert '"places"' in error.detail
    assert '"mine_t_fkey" of public.mine (ON DELETE CASCADE, ON UPDATE NO ACTION)' in error.detail
    assert target.execute("SELECT t FROM public.mine") == [(1,)]


# ---------------------------------------------------------------- foreign keys


@EVERY_MODE
def test_a_row_that_is_referred_to_is_not_deleted(
    mode: str, codes: Database, target: Database
) -> None:
    table = {**TABLE, "sync_mode": mode}
    target.execute(
        f"CREATE TABLE public.mine (t int REFERENCES {RAW});INSERT INTO public.mine VALUES (1)"
    )
    codes.execute("UPDATE public.t SET name = 'x' WHERE id = 1; DELETE FROM public.t WHERE id = 2")
    land_one(codes, target, table)
    assert_equal(codes, target, table)

    codes.execute("DELETE FROM public.t WHERE id = 1")
    error = failure(codes, target, table)
    assert error.primary.endswith("has rows that are gone or changed, and a foreign key holds them")
    assert 'foreign key constraint "mine_t_fkey" on table "mine"' in error.detail
    assert "(Key (id)=(1) is still referenced" in error.detail
    assert error.hint.startswith("Drop the foreign key")

    land_one(codes, target, {**table, "deletes": "soft"})
    assert target.execute(f"SELECT count(*) FROM {RAW} WHERE _deleted_at IS NOT NULL") == [(1,)]


@pytest.mark.parametrize("action", ["CASCADE", "SET NULL", "SET DEFAULT"])
def test_no_delete_spreads_to_tables_that_are_not_ours(
    action: str, codes: Database, target: Database
) -> None:
    target.execute(
        f"CREATE TABLE public.mine (t int REFERENCES {RAW} ON DELETE {action});"
        "INSERT INTO public.mine VALUES (1)"
    )
    codes.execute("UPDATE public.t SET name = 'x' WHERE id = 1")
    land_one(codes, target, TABLE)
    codes.execute("DELETE FROM public.t WHERE id = 1")
    error = failure(codes, target, TABLE)

    assert error.primary.endswith(
        "has rows that are gone, and a foreign key would spread the delete"
    )
    assert f'"mine_t_fkey" of public.mine (ON DELETE {action}, ON UPDATE NO ACTION)' in error.detail
    assert target.execute("SELECT t FROM public.mine") == [(1,)]


@pytest.mark.parametrize("action", ["SET NULL", "SET DEFAULT"])
def test_no_update_makes_rows_of_others_refer_to_nothing(
    action: str, codes: Database, target: Database
) -> None:
    target.execute(
        f"ALTER TABLE {RAW} ADD UNIQUE (place);"
        f"CREATE TABLE public.mine (p int REFERENCES {RAW} (place) ON UPDATE {action});"
        "INSERT INTO public.mine VALUES (1)"
    )
    codes.execute("UPDATE public.t SET name = 'x' WHERE id = 1")
    land_one(codes, target, TABLE)
    codes.execute("UPDATE public.t SET place = 99 WHERE id = 1")
    error = failure(codes, target, TABLE)

    assert error.primary.endswith("a foreign key would change what refers to them")
    assert f"(ON DELETE NO ACTION, ON UPDATE {action})" in error.detail
    assert target.execute("SELECT p FROM public.mine") == [(1,)]


def test_a_reference_follows_where_it_says_so(codes: Database, target: Database) -> None:
    target.execute(
        f"ALTER TABLE {RAW} ADD UNIQUE (place);"
        f"CREATE TABLE public.mine (p int REFERENCES {RAW} (place) ON UPDATE CASCADE);"
        "INSERT INTO public.mine VALUES (1)"
    )
    codes.execute("UPDATE public.t SET place = 99 WHERE id = 1")
    land_one(codes, target, TABLE)

    assert target.execute("SELECT p FROM public.mine") == [(99,)]


def test_a_value_that_is_referred_to_does_not_change(codes: Database, target: Database) -> None:
    target.execute(
        f"ALTER TABLE {RAW} ADD UNIQUE (place);"
        f"CREATE TABLE public.mine (p int REFERENCES {RAW} (place));"
        "INSERT INTO public.mine VALUES (1)"
    )
    codes.execute("UPDATE public.t SET place = 99 WHERE id = 1")
    error = failure(codes, target, TABLE)

    assert error.primary.endswith("has rows that are gone or changed, and a foreign key holds them")


@pytest.mark.parametrize(
    ("ddl", "said"),
    [
        (
            f"CREATE TABLE public.mine (t int REFERENCES {RAW} DEFERRABLE INITIALLY DEFERRED);"
            "INSERT INTO public.mine VALUES (1)",
            "a foreign key holds them",
        ),
        (
            f"ALTER TABLE {RAW} ADD UNIQUE (place) DEFERRABLE INITIALLY DEFERRED",
            "has an index that does not take the source's rows",
        ),
    ],
    ids=["foreign key", "unique"],
)
def test_deferred_constraints_are_explained_too(
    ddl: str, said: str, codes: Database, target: Database
) -> None:
    target.execute(ddl)
    codes.execute("DELETE FROM public.t WHERE id = 1; UPDATE public.t SET place = 3 WHERE id = 2")
    assert failure(codes, target, TABLE).primary.endswith(said)


def test_a_new_key_spreads_no_delete_either(codes: Database, target: Database) -> None:
    """Rows without the new key are removed whatever `deletes` says."""
    target.execute(
        f"ALTER TABLE {RAW} ADD UNIQUE (place);"
        f"CREATE TABLE public.mine (p int REFERENCES {RAW} (place) ON DELETE CASCADE);"
        "INSERT INTO public.mine VALUES (1)"
    )
    codes.execute("ALTER TABLE public.t DROP CONSTRAINT t_pkey, ADD COLUMN key serial PRIMARY KEY")
    (result,) = land(
        codes, target, {**TABLE, "deletes": "soft"}, allow_rewrite=True, allow_deletes=True
    ).tables

    assert isinstance(result.error, TargetError)
    assert result.error.primary.endswith("a foreign key would spread the delete")
    assert target.execute("SELECT p FROM public.mine") == [(1,)]


def test_plan_warns_of_triggers_and_rules(codes: Database, target: Database) -> None:
    target.execute(
        "CREATE FUNCTION public.f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';"
        f"CREATE TRIGGER mine BEFORE INSERT ON {RAW} FOR EACH ROW EXECUTE FUNCTION public.f();"
        f"CREATE RULE too AS ON DELETE TO {RAW} DO ALSO SELECT 1"
    )
    chosen = settings(TABLE)
    connections = resolve_all(chosen.tables, environment(codes, target), None)
    (planned,) = Run(chosen, chosen.tables, connections, RunOptions()).plan_all()

    assert planned.plan is not None
    told = " ".join(planned.plan.warnings)
    assert "row triggers of the raw table see every change, and may alter it: mine" in told
    assert "rules of the raw table may alter every change: too" in told


# ---------------------------------------------------------------- everything else


def test_what_analysts_made_survives_every_publish(codes: Database, target: Database) -> None:
    """OID, grants, comments, views on views, indexes, statistics, storage, foreign keys."""
    role = f"analyst_{target.name}"
    target.execute(
        f"CREATE ROLE {role}; GRANT SELECT ON {RAW} TO {role};"
        f"GRANT UPDATE (name) ON {RAW} TO {role};"
        f"COMMENT ON TABLE {RAW} IS 'ours'; COMMENT ON COLUMN {RAW}.name IS 'a name';"
        f"CREATE VIEW public.one AS SELECT id, name FROM {RAW};"
        "CREATE VIEW public.two AS SELECT name FROM public.one;"
        "CREATE MATERIALIZED VIEW public.kept AS SELECT * FROM public.two;"
        f"CREATE INDEX by_name ON {RAW} (lower(name));"
        f"CREATE STATISTICS seen ON id, name FROM {RAW};"
        f"ALTER TABLE {RAW} SET (fillfactor = 70), ALTER COLUMN name SET STATISTICS 500,"
        " ALTER COLUMN name SET STORAGE EXTERNAL, REPLICA IDENTITY FULL;"
        f"CREATE TABLE public.mine (t int REFERENCES {RAW}); INSERT INTO public.mine VALUES (1);"
        f"CREATE PUBLICATION out_of_here FOR TABLE {RAW}"
    )
    before = catalog(target)
    for n in range(3):
        codes.execute(f"UPDATE public.t SET name = 'run {n}' WHERE id < 5")
        codes.execute(f"INSERT INTO public.t VALUES ({100 + n}, 0, 'new')")
        codes.execute(f"DELETE FROM public.t WHERE id = {5 + n}")
        mode = ["full_sync", "xmin_incremental", "full_sync"][n]
        land_one(codes, target, {**TABLE, "sync_mode": mode}, full_refresh=n == 1)

    assert catalog(target) == before
    seen = target.execute("SELECT count(*) FROM public.two WHERE name = 'run 2'")
    assert seen == [(4,)]
    target.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


def catalog(target: Database) -> list[tuple[Any, ...]]:
    """What the catalog says about the raw table, apart from its rows and its statistics."""
    return target.execute(
        "SELECT c.oid, c.relacl::text, c.reloptions, c.relreplident, c.relpersistence,"
        " obj_description(c.oid),"
        " array(SELECT (attname, attacl::text, attstattarget, attstorage, attnotnull,"
        "   col_description(c.oid, attnum))::text FROM pg_attribute WHERE attrelid = c.oid"
        "   AND attnum > 0 ORDER BY attnum),"
        " array(SELECT (indexrelid, pg_get_indexdef(indexrelid))::text FROM pg_index"
        "   WHERE indrelid = c.oid ORDER BY indexrelid),"
        " array(SELECT pg_get_constraintdef(oid) FROM pg_constraint"
        "   WHERE c.oid IN (conrelid, confrelid) ORDER BY oid),"
        " array(SELECT (oid, stxname)::text FROM pg_statistic_ext WHERE stxrelid = c.oid),"
        " array(SELECT pg_get_viewdef(v) FROM unnest(array["
        "   'public.one'::regclass, 'public.two', 'public.kept']) AS v)"
        f" FROM pg_class AS c WHERE c.oid = '{RAW}'::regclass"
    )


def test_a_limit_on_transactions_ends_no_publish(codes: Database, target: Database) -> None:
    """A role or a database may have a `transaction_timeout` (17 and later) for its people."""
    target.execute(
        "CREATE FUNCTION public.linger() RETURNS trigger LANGUAGE plpgsql AS"
        " 'BEGIN PERFORM pg_sleep(0.4); RETURN NULL; END';"
        f"CREATE TRIGGER linger AFTER UPDATE ON {RAW} EXECUTE FUNCTION public.linger()"
    )
    target.execute(f"ALTER DATABASE {target.name} SET transaction_timeout = '200ms'")
    codes.execute("UPDATE public.t SET name = 'changed'")

    assert land_one(codes, target, TABLE).retries == 0
    assert_equal(codes, target, TABLE)
