"""What changes rows without writing them: no xmin and no cursor says so, only the catalog."""

from typing import Any

import pytest

from tests.support.landing import assert_equal, land_one
from tests.support.servers import Database

CREATE = """
CREATE TYPE public.mood AS ENUM ('sad', 'ok');
CREATE TYPE public.pair AS (a int, b text);
CREATE TABLE public.t (
    id int PRIMARY KEY, mood public.mood, both_ public.pair, note text,
    updated_at timestamptz NOT NULL
);
INSERT INTO public.t
SELECT i, 'sad', ROW(i, 'b')::public.pair, 'note ' || i,
    timestamptz '2026-01-01' + i * interval '1 s'
FROM generate_series(1, 300) AS i;
CREATE TABLE public.other (LIKE public.t INCLUDING ALL);
INSERT INTO public.other SELECT id, 'ok', both_, 'other', '2020-01-01' FROM public.t WHERE id > 10
"""
XMIN: dict[str, Any] = {"source": "public.t", "sync_mode": "xmin_incremental"}
INCREMENTAL: dict[str, Any] = {
    "source": "public.t",
    "sync_mode": "incremental_sync",
    "incremental_field": "updated_at",
    "deletes": "hard",
}
CHANGES = {
    "swapped by rename": "ALTER TABLE public.t RENAME TO was;ALTER TABLE public.other RENAME TO t",
    "added default": "ALTER TABLE public.t ADD COLUMN extra text DEFAULT 'for all'",
    "renamed label": "ALTER TYPE public.mood RENAME VALUE 'sad' TO 'blue'",
    "dropped and added": (
        "ALTER TABLE public.t DROP COLUMN note; ALTER TABLE public.t ADD COLUMN note text"
    ),
    "dropped and added with a default": (
        "ALTER TABLE public.t DROP COLUMN note;"
        "ALTER TABLE public.t ADD COLUMN note text DEFAULT 'new'"
    ),
    "added attribute": "ALTER TYPE public.pair ADD ATTRIBUTE c int",
}


@pytest.mark.parametrize("table", [XMIN, INCREMENTAL], ids=["xmin", "incremental"])
@pytest.mark.parametrize("change", CHANGES)
def test_the_raw_table_follows(
    change: str, table: dict[str, Any], source: Database, target: Database
) -> None:
    source.execute(CREATE)
    land_one(source, target, table)
    assert not land_one(source, target, table).baseline

    source.execute(CHANGES[change])
    land_one(source, target, table)

    assert_equal(source, target, table)
    assert not land_one(source, target, table).baseline
