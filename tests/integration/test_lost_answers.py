"""A COMMIT arrives and its answer does not: any COMMIT of a run, one after the other."""

import threading
from dataclasses import replace

import pytest

from tests.support.interrupted import broken_off
from tests.support.landing import assert_equal, land, land_one
from tests.support.own_servers import wait_for
from tests.support.proxy import wire_to
from tests.support.servers import Database
from tests.support.tables import FULL, MODES, create_items, leftovers

ROWS = 1_000


@pytest.mark.parametrize("table", MODES.values(), ids=MODES)
def test_every_commit_may_lose_its_answer(
    source: Database, target: Database, table: dict[str, str]
) -> None:
    """The run ends well by itself: what was committed counts, what was not is done again."""
    create_items(source, ROWS)
    lost = 0
    with wire_to(target.port) as wire:
        for number in range(1, 100):
            source.execute(f"UPDATE public.items SET amount = -{number}, updated_at = now()")
            wire.commits, wire.lose_commit = 0, number
            (result,) = land(
                source, replace(target, port=wire.port), {**table, "batch_size": 300}
            ).tables
            if wire.commits < number:
                break
            lost += 1
            assert result.error is None, f"COMMIT {number}: {result.error}"
            assert result.rows_inserted + result.rows_updated == ROWS, f"COMMIT {number}"
            assert_equal(source, target, table)
    assert lost > 10
    assert leftovers(target) == []


def test_what_a_lost_chunk_still_does_is_waited_for(source: Database, target: Database) -> None:
    """Its COMMIT may come when its checkpoint was looked for; here that takes a chunk away."""
    create_items(source, ROWS)
    table = {**FULL, "batch_size": 200}
    loaded = broken_off(source, target, table, after=3)
    ((chunk, start, stop),) = target.execute(
        "SELECT chunk, start_block, stop_block FROM extract_load.chunks ORDER BY chunk LIMIT 1"
    )
    place = f"ctid >= '({start},0)' AND ctid < '({stop},0)'"
    ids = [one for (one,) in source.execute(f"SELECT id FROM public.items WHERE {place}")]
    ((scratch,),) = target.execute(
        "SELECT oid::regclass::text FROM pg_class WHERE relname LIKE '\\_el\\_%' AND relkind = 'r'"
    )
    lost = target.connect()
    lost.autocommit = False
    with lost.cursor() as cursor:
        cursor.execute(f"DELETE FROM {scratch} WHERE id = ANY (%s)", [ids])
        assert cursor.rowcount == len(ids) > 0
        cursor.execute("DELETE FROM extract_load.chunks WHERE chunk = %s", [chunk])

    def commit_late() -> None:
        waiting = "SELECT count(*) > 0 FROM pg_locks WHERE NOT granted"
        wait_for(lambda: target.execute(waiting) == [(True,)], "a run that waits")
        lost.commit()
        lost.close()

    thread = threading.Thread(target=commit_late)
    thread.start()
    result = land_one(source, target, table)
    thread.join(60)

    assert (result.chunks_resumed, result.retries) == (loaded - 1, 0)
    assert_equal(source, target, FULL)
