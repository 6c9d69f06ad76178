"""Tables that several tests land."""

from typing import Any

from tests.support.servers import Database

FULL: dict[str, Any] = {"source": "public.items", "sync_mode": "full_sync"}
INCREMENTAL: dict[str, Any] = {
    "source": "public.items",
    "sync_mode": "incremental_sync",
    "incremental_field": "updated_at",
    "deletes": "hard",
}
XMIN: dict[str, Any] = {"source": "public.items", "sync_mode": "xmin_incremental"}
MODES = {"full": FULL, "incremental": INCREMENTAL, "xmin": XMIN}
RAW = "raw_data.digitalocean_items"


def create_items(source: Database, rows: int) -> None:
    """Makes `public.items`: about 60 rows a block, a cursor without an index."""
    source.execute(
        "CREATE TABLE public.items (id int PRIMARY KEY, body text NOT NULL,"
        " amount numeric(12, 2), updated_at timestamptz NOT NULL DEFAULT now());"
        "INSERT INTO public.items SELECT i, repeat(md5(i::text), 3), i,"
        f" timestamptz '2026-01-01' + i * interval '1 second' FROM generate_series(1, {rows}) AS i;"
        "ANALYZE public.items"
    )


def change_items(source: Database) -> None:
    """Updates, inserts and deletes some rows, in one transaction each."""
    source.execute("UPDATE public.items SET body = 'new', updated_at = now() WHERE id % 10 = 3")
    source.execute(
        "INSERT INTO public.items SELECT -i, 'inserted', i FROM generate_series(1, 200) AS i"
    )
    source.execute("DELETE FROM public.items WHERE id % 50 = 7")


def leftovers(target: Database) -> list[tuple[str, int]]:
    """Returns what a finished run must not leave: scratch tables, checkpoints, leases."""
    found = target.execute(
        "SELECT 'scratch tables', count(*)::int FROM pg_class WHERE relname LIKE '\\_el\\_%' "
        "AND relkind = 'r' UNION ALL "
        "SELECT 'checkpoints', count(*)::int FROM extract_load.chunks UNION ALL "
        "SELECT 'scratch checkpoints', count(*)::int FROM extract_load_scratch.chunks UNION ALL "
        "SELECT 'leases', count(*)::int FROM extract_load.leases"
    )
    return [(what, count) for what, count in found if count]
