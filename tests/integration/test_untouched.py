"""full_sync reads what changed only where nobody wrote into the raw table; else every row."""

from typing import Any

import pytest

from tests.support.landing import assert_equal, land_one
from tests.support.servers import Database
from tests.support.tables import FULL, RAW, change_items, create_items, leftovers

ROWS = 2_000
CHUNKS = {**FULL, "batch_size": 300}
SOFT = {**CHUNKS, "deletes": "soft"}


def landed(source: Database, target: Database, table: dict[str, Any] = CHUNKS) -> None:
    create_items(source, ROWS)
    land_one(source, target, table)


def why(target: Database) -> list[str]:
    """What the last run was about, as its lines tell."""
    rows = target.execute("SELECT baseline FROM extract_load.table_runs ORDER BY started_at")
    return ["all" if baseline else "changes" for (baseline,) in rows]


@pytest.mark.parametrize("table", [CHUNKS, SOFT], ids=["hard", "soft"])
def test_an_unchanged_table_is_not_read(
    source: Database, target: Database, table: dict[str, Any]
) -> None:
    landed(source, target, table)
    for _ in range(2):
        again = land_one(source, target, table)
        assert (again.rows_read, again.rows_inserted, again.rows_updated) == (0, 0, 0)
        assert not again.baseline
    assert_equal(source, target, table)
    assert leftovers(target) == []


@pytest.mark.parametrize("table", [CHUNKS, SOFT], ids=["hard", "soft"])
def test_only_changes_are_read(source: Database, target: Database, table: dict[str, Any]) -> None:
    landed(source, target, table)
    for number in range(3):
        source.execute(f"UPDATE public.items SET amount = -1 - {number} WHERE id % 100 = {number}")
        source.execute(f"DELETE FROM public.items WHERE id % 100 = {number + 50}")
        source.execute(f"INSERT INTO public.items VALUES (-{number} - 1, 'new', 1)")
        result = land_one(source, target, table)
        assert (result.rows_read, result.rows_updated, result.rows_deleted) == (21, 20, 20)
        assert result.rows_inserted == 1
        assert_equal(source, target, table)
    assert why(target) == ["all", "changes", "changes", "changes"]


EDITS = {
    "an update": "UPDATE {raw} SET amount = 0 WHERE id = 12",
    "an update of every row": "UPDATE {raw} SET amount = 0",
    "an insert": "INSERT INTO {raw} SELECT -1000, 'x', 1, now(), now()",
    "a delete": "DELETE FROM {raw} WHERE id = 12",
    "a row for another": (
        "DELETE FROM {raw} WHERE id = 12; INSERT INTO {raw} SELECT 12, 'x', 1, now(), now()"
    ),
    "a copy in the place of a row": (
        "WITH gone AS (DELETE FROM {raw} WHERE id = 12 RETURNING *)"
        " INSERT INTO {raw} SELECT id, 'x', amount, updated_at, _loaded_at FROM gone"
    ),
    "a truncate": "TRUNCATE {raw}",
    "a truncate and other rows": (
        f"TRUNCATE {{raw}}; INSERT INTO {{raw}} SELECT i, 'x', 1, now(), now() FROM"
        f" generate_series(1, {ROWS}) AS i"
    ),
    "columns that exchange their names": (
        "ALTER TABLE {raw} RENAME updated_at TO other; ALTER TABLE {raw} RENAME _loaded_at TO"
        " updated_at; ALTER TABLE {raw} RENAME other TO _loaded_at"
    ),
    "a column that lost its values": (
        "ALTER TABLE {raw} DROP COLUMN amount; ALTER TABLE {raw} ADD COLUMN amount numeric(12, 2)"
    ),
    "a rewrite": "ALTER TABLE {raw} ALTER body TYPE text USING 'x'",
    "savepoints": (
        "BEGIN; SAVEPOINT one; UPDATE {raw} SET amount = 0 WHERE id = 12; RELEASE one;"
        " SAVEPOINT two; DELETE FROM {raw} WHERE id = 8; ROLLBACK TO two; COMMIT"
    ),
    "an edit and VACUUM": "UPDATE {raw} SET amount = 0 WHERE id = 12; VACUUM (FREEZE) {raw}",
    "an edit and VACUUM FULL": "UPDATE {raw} SET amount = 0 WHERE id = 12; VACUUM FULL {raw}",
}


def edit(target: Database, statements: str) -> None:
    for statement in statements.format(raw=RAW).split("; "):
        if statement == "BEGIN":
            break
        target.execute(statement)
    else:
        return
    session = target.connect()
    session.autocommit = True
    with session.cursor() as cursor:
        for statement in statements.format(raw=RAW).split("; "):
            cursor.execute(statement)
    session.close()


@pytest.mark.parametrize("statements", EDITS.values(), ids=EDITS)
@pytest.mark.parametrize("is_first", [True, False], ids=["after a first load", "after a refresh"])
def test_what_somebody_wrote_into_the_raw_table_is_healed(
    source: Database, target: Database, statements: str, *, is_first: bool
) -> None:
    landed(source, target)
    if not is_first:
        change_items(source)
        land_one(source, target, CHUNKS)
    edit(target, statements)
    source.execute("DELETE FROM public.items WHERE id = 8")  # as if counts were to cancel

    result = land_one(source, target, CHUNKS, allow_deletes=True)

    assert result.baseline
    assert_equal(source, target, CHUNKS)
    assert land_one(source, target, CHUNKS).rows_read == 0


@pytest.mark.parametrize("rewrite", ["VACUUM (FREEZE)", "VACUUM FULL", "ANALYZE", "REINDEX TABLE"])
def test_what_keeps_every_row_version_is_no_edit(
    source: Database, target: Database, rewrite: str
) -> None:
    landed(source, target)
    target.execute(f"{rewrite} {RAW}")
    source.execute(f"{rewrite} public.items")
    assert land_one(source, target, CHUNKS).rows_read == 0
    assert_equal(source, target, CHUNKS)


@pytest.mark.parametrize(
    "write",
    [
        "UPDATE {raw} SET amount = 0 WHERE id = 12",
        "SAVEPOINT one; UPDATE {raw} SET amount = 0 WHERE id = 12; RELEASE one",
        "INSERT INTO {raw} SELECT -1007, 'x', 1, now(), now()",
    ],
    ids=["an update", "in a subtransaction", "an insert"],
)
def test_a_transaction_that_was_open_over_the_publish_is_seen(
    source: Database, target: Database, write: str
) -> None:
    """Its id is older than that of the publish, which does not see its rows."""
    landed(source, target)
    session = target.connect()
    session.autocommit = True
    with session.cursor() as cursor:
        cursor.execute("BEGIN; SELECT pg_current_xact_id()")
        for statement in write.format(raw=RAW).split("; "):
            cursor.execute(statement)
        source.execute("UPDATE public.items SET amount = 1 WHERE id = 9")
        land_one(source, target, CHUNKS)
        source.execute("UPDATE public.items SET amount = 2 WHERE id = 9")
        land_one(source, target, CHUNKS)
        cursor.execute("COMMIT")
    session.close()

    assert land_one(source, target, CHUNKS).baseline
    assert_equal(source, target, CHUNKS)


def test_a_row_that_changed_places_is_ours(source: Database, target: Database) -> None:
    """The publish writes some rows in a subtransaction: of its own, not of somebody else's."""
    landed(source, target)
    target.execute(f"CREATE UNIQUE INDEX analysts ON {RAW} (body)")
    source.execute(
        "UPDATE public.items SET body = CASE id WHEN 1 THEN (SELECT body FROM public.items"
        " WHERE id = 2) ELSE (SELECT body FROM public.items WHERE id = 1) END WHERE id IN (1, 2)"
    )
    result = land_one(source, target, CHUNKS)
    assert (result.rows_read, result.rows_updated) == (2, 2)
    assert land_one(source, target, CHUNKS).rows_read == 0
    assert_equal(source, target, CHUNKS)


TOLD_NOTHING: dict[str, tuple[str, dict[str, Any]]] = {
    "no key": ("ALTER TABLE public.items DROP CONSTRAINT items_pkey", {}),
    "a declared key": (
        "ALTER TABLE public.items DROP CONSTRAINT items_pkey",
        {"primary_key": "id"},
    ),
    "a view": (
        "ALTER TABLE public.items RENAME TO kept; CREATE VIEW public.items AS TABLE public.kept",
        {"primary_key": "id"},
    ),
    "the time": ("", {"custom_where": "updated_at < now()"}),
    "a sub-query": ("", {"custom_where": "id > (SELECT 0)"}),
    "a function that may read tables": (
        "CREATE FUNCTION public.is_long(text) RETURNS boolean STABLE LANGUAGE sql"
        " AS 'SELECT length($1) > 0'",
        {"custom_where": "public.is_long(body)"},
    ),
    "names of the catalog": ("ALTER TABLE public.items ADD place regclass DEFAULT 'pg_class'", {}),
}


@pytest.mark.parametrize(("ddl", "keys"), TOLD_NOTHING.values(), ids=TOLD_NOTHING)
def test_every_row_is_read_where_row_versions_do_not_tell(
    source: Database, target: Database, ddl: str, keys: dict[str, Any]
) -> None:
    create_items(source, ROWS)
    for statement in filter(None, ddl.split("; ")):
        source.execute(statement)
    table = {**CHUNKS, **keys}
    for _ in range(2):
        assert land_one(source, target, table).rows_read == ROWS


def test_every_row_is_read_while_a_trigger_may_alter_them(
    source: Database, target: Database
) -> None:
    landed(source, target)
    target.execute(
        "CREATE FUNCTION public.alter_it() RETURNS trigger LANGUAGE plpgsql AS"
        " 'BEGIN NEW.amount = 0; RETURN NEW; END';"
        f"CREATE TRIGGER analysts BEFORE UPDATE ON {RAW} FOR EACH ROW"
        " EXECUTE FUNCTION public.alter_it()"
    )
    source.execute("UPDATE public.items SET amount = 5 WHERE id = 9")
    assert land_one(source, target, CHUNKS).rows_read == ROWS
    target.execute(f"DROP TRIGGER analysts ON {RAW}")
    assert land_one(source, target, CHUNKS).rows_read == ROWS
    assert_equal(source, target, CHUNKS)
    assert land_one(source, target, CHUNKS).rows_read == 0


def test_full_refresh_reads_every_row(source: Database, target: Database) -> None:
    landed(source, target)
    assert land_one(source, target, CHUNKS, full_refresh=True).rows_read == ROWS


def test_a_foreign_write_is_told(
    source: Database, target: Database, caplog: pytest.LogCaptureFixture
) -> None:
    landed(source, target)
    target.execute(f"UPDATE {RAW} SET amount = 0 WHERE id = 12")
    with caplog.at_level("WARNING"):
        land_one(source, target, CHUNKS)
    (told,) = [one for one in caplog.records if one.getMessage() == "reads every row"]
    assert told.__dict__["why"] == (
        'somebody wrote into raw_data."digitalocean_items" since its last publish'
    )
