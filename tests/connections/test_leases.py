"""A lease behind a pooler: its backends serve others too, and come and go."""

import pytest

from extract_load import lease, ledger
from extract_load.connection import Session
from extract_load.connection_parameters import resolve_connection
from extract_load.errors import LeaseHeld
from extract_load.identifiers import parse_table_name
from tests.support.landing import TARGET_ID, environment
from tests.support.servers import Database

TABLE = parse_table_name("raw_data.items")


def test_a_run_that_lives_is_not_taken_for_gone(
    way: str, source: Database, target: Database
) -> None:
    """Its backend may be closed by the pooler; only its silence tells that it is gone."""
    parameters = resolve_connection(TARGET_ID, environment(source, target))
    with (
        Session(parameters, "target", lease.application_name("one")) as one,
        Session(parameters, "target", lease.application_name("two")) as two,
    ):
        ledger.migrate(one)
        lease.acquire(one, TABLE, "one", 0)
        ((backend,),) = two.execute("SELECT backend_pid FROM extract_load.leases")
        is_pooled = way in ("pooled target", "pooled both")
        assert (backend == 0) == is_pooled

        with pytest.raises(LeaseHeld):
            lease.acquire(two, TABLE, "two", 0)
        two.execute("UPDATE extract_load.leases SET heartbeat_at = now() - interval '1 minute'")
        assert lease.acquire(two, TABLE, "two", 0).run_id == "two"
