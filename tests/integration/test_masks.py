"""Masked columns: what the source computes, and that neither values nor salt leave it."""

import hashlib
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from extract_load import chunk_copy, chunk_loading
from extract_load.errors import ConfigError
from extract_load.extract import copy_out_query
from extract_load.runner import RunOptions, run
from tests.support.command import extract_load
from tests.support.landing import SOURCE_ID, TARGET_ID, prepared_run, settings
from tests.support.servers import Database

SALT = "소금 %s'\"\\ & more"
MASK = {"email": "sha256", "phone": None, "mood": "null", "born": "sha256"}
TABLE: dict[str, Any] = {"source": "public.people", "sync_mode": "xmin_incremental", "mask": MASK}
RAW = "raw_data.digitalocean_people"


@pytest.fixture
def people(source: Database) -> Database:
    source.execute(
        "CREATE TYPE public.mood AS ENUM ('sad', 'ok');"
        "CREATE TABLE public.people (id int PRIMARY KEY, email text NOT NULL, phone text NOT NULL,"
        " mood public.mood, born date, seen interval);"
        "INSERT INTO public.people VALUES (1, 'a@b.c', '010-1', 'ok', '2000-01-31', '1 day'),"
        " (2, '김@나라.kr', '010-2', 'sad', NULL, NULL), (3, '', '', NULL, NULL, NULL)"
    )
    return source


def environment(source: Database, target: Database, salt: str | None = SALT) -> dict[str, str]:
    extra = f"?{urlencode({'mask_salt': salt})}" if salt else ""
    return {
        f"AIRFLOW_CONN_{SOURCE_ID.upper()}": source.uri + extra,
        f"AIRFLOW_CONN_{TARGET_ID.upper()}": target.uri,
    }


def land_people(source: Database, target: Database, salt: str | None = SALT, **keys: Any) -> Any:
    report = run(settings({**TABLE, **keys}), environment(source, target, salt), RunOptions())
    return report.tables[0]


def digest(text: str, salt: str = SALT) -> str:
    return hashlib.sha256((salt + text).encode()).hexdigest()


@pytest.mark.parametrize("keys", [{}, {"exclude_columns": ["seen"]}], ids=["text", "binary"])
def test_values_are_hashed_or_nulled_by_the_source(
    people: Database, target: Database, keys: dict[str, Any]
) -> None:
    assert land_people(people, target, **keys).error is None

    assert target.execute(f"SELECT id, email, phone, mood, born FROM {RAW} ORDER BY id") == [
        (1, digest("a@b.c"), None, None, digest("2000-01-31")),
        (2, digest("김@나라.kr"), None, None, None),
        (3, digest(""), None, None, None),
    ]
    assert target.execute(
        "SELECT attname::text, format_type(atttypid, atttypmod), attnotnull FROM pg_attribute "
        "WHERE attrelid = %s::regclass AND attnum BETWEEN 2 AND 5 ORDER BY attnum",
        (RAW,),
    ) == [
        ("email", "text", True),
        ("phone", "text", False),
        ("mood", "text", False),
        ("born", "text", False),
    ]


def test_another_salt_or_another_mask_is_a_baseline(people: Database, target: Database) -> None:
    assert land_people(people, target).baseline
    assert not land_people(people, target).baseline

    other = land_people(people, target, salt="other")
    assert other.baseline
    assert target.execute(f"SELECT email FROM {RAW} WHERE id = 1") == [(digest("a@b.c", "other"),)]

    unmasked = land_people(people, target, salt="other", mask={**MASK, "phone": "sha256"})
    assert unmasked.baseline
    assert target.execute(f"SELECT phone FROM {RAW} WHERE id = 1") == [(digest("010-1", "other"),)]


def test_the_salt_is_nowhere_to_be_seen(
    people: Database, target: Database, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    salt = "very-secret-salt"
    result = land_people(people, target, salt=salt)
    prepared = prepared_run(people, target, {**TABLE, "mask": {}})
    snapshot = next(iter(prepared._sources.values()))
    parameters = replace(snapshot.parameters, mask_salt=salt)
    prepared._close_sources()
    path = tmp_path / "tables.json"
    document = settings(TABLE).document
    path.write_text(json.dumps({**document, "source_connection": SOURCE_ID}), encoding="utf-8")
    shown = [
        extract_load(*command, "--config", str(path), environment=environment(people, target, salt))
        for command in (["plan"], ["plan", "--output", "json"], ["run", "--debug"], ["status"])
    ]
    ledger = target.execute(
        "SELECT row_to_json(w)::text FROM extract_load.watermarks AS w UNION ALL "
        "SELECT row_to_json(t)::text FROM extract_load.table_runs AS t"
    )

    assert [done.status for done in shown] == [0, 0, 0, 0]
    assert "email: text lands as text, masked" in shown[0].stdout
    everything = [repr(parameters), str(result), repr(asdict(result)), caplog.text, str(ledger)]
    everything += [done.stdout + done.stderr for done in shown]
    assert [text for text in everything if salt in text] == []


def test_no_statement_of_a_read_holds_the_salt(
    people: Database, target: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A COPY runs for hours in pg_stat_activity, and is logged when it fails."""
    statements: list[str] = []
    original = chunk_copy.load_chunk

    def watched(
        session: Any, snapshot: Any, loading: Any, chunk: Any, *rest: Any, **how: Any
    ) -> Any:
        with snapshot.reader() as reader:
            statements.append(copy_out_query(loading.plan, chunk).as_string(reader._raw))
        return original(session, snapshot, loading, chunk, *rest, **how)

    monkeypatch.setattr(chunk_loading, "load_chunk", watched)
    assert land_people(people, target).error is None

    assert "current_setting" in statements[0]
    assert SALT[:2] not in statements[0]


def test_a_hash_needs_a_salt(people: Database, target: Database) -> None:
    with pytest.raises(ConfigError) as caught:
        land_people(people, target, salt=None)
    assert caught.value.primary == f'connection "{SOURCE_ID}" has no mask_salt'
    assert '"born" of "public.people" is masked with sha256' in caught.value.detail

    assert land_people(people, target, salt=None, mask={"email": None}).error is None


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        (
            {"mask": {"id": "sha256"}},
            '"id" of "public.people" is masked, and rows are told apart by it',
        ),
        ({"mask": {"emial": "sha256"}}, '"public.people" has no column "emial"'),
    ],
    ids=["the source's own key", "a typo"],
)
def test_what_a_table_cannot_mask(
    people: Database, target: Database, keys: dict[str, Any], told: str
) -> None:
    """A mask that fits no column fails: it would leave a renamed one bare."""
    result = land_people(people, target, **keys)
    assert result.error is not None
    assert result.error.primary == told
    assert target.execute("SELECT to_regclass(%s)", (RAW,)) == [(None,)]


def test_a_masked_column_that_is_renamed_never_lands_bare(
    people: Database, target: Database
) -> None:
    assert land_people(people, target).error is None
    people.execute("ALTER TABLE public.people RENAME email TO mail")

    result = land_people(people, target)

    assert result.error is not None
    assert result.error.primary == '"public.people" has no column "email"'
