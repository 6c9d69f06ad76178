"""A COMMIT arrives and its answer does not: any COMMIT of a run, one after the other."""

from dataclasses import replace

import pytest

from tests.support.landing import assert_equal, land
from tests.support.proxy import wire_to
from tests.support.servers import Database
from tests.support.tables import MODES, create_items, leftovers

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
