"""A million rows: what finding a few deletes moves, and one changed byte. Figures are printed."""

import logging
import sys
import time
from collections.abc import Callable

import pytest
from psycopg2 import sql

from extract_load.digests import Buckets
from tests.integration.test_key_buckets import keys_read
from tests.integration.test_verify import counts, verify
from tests.support.landing import land_one
from tests.support.servers import Database
from tests.support.tables import RAW, XMIN, create_items

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
ROWS = 1_000_000


@pytest.fixture
def tell(capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    def write(line: str) -> None:
        with capsys.disabled():
            sys.stdout.write(f"\n{line}\n")

    return write


@pytest.fixture
def million(source: Database, target: Database) -> Database:
    create_items(source, ROWS)
    land_one(source, target, XMIN)
    return source


def test_a_hundred_deletes_move_few_keys(
    million: Database,
    target: Database,
    tell: Callable[[str], None],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level(logging.DEBUG, logger="extract_load.deletes")
    million.execute("DELETE FROM public.items WHERE id % 10000 = 7")
    result = land_one(million, target, XMIN)
    keys, bytes_ = keys_read(caplog)
    assert result.rows_deleted == 100

    million.execute("DELETE FROM public.items WHERE id % 10000 = 8")
    monkeypatch.setattr(Buckets, "number", lambda *_: sql.SQL("0"))
    whole = land_one(million, target, XMIN)
    all_keys, all_bytes = keys_read(caplog)

    assert (whole.rows_deleted, all_keys) == (100, ROWS - 200)
    assert bytes_ < all_bytes / 10
    tell(
        f"100 deletes of {ROWS} rows: {keys} keys, {bytes_ / all_bytes:.1%} of all keys' bytes, "
        f"{result.seconds:.1f} s; by one bucket, so with all keys: {whole.seconds:.1f} s"
    )


def test_one_changed_byte_is_found_and_its_key_named(
    million: Database, target: Database, tell: Callable[[str], None]
) -> None:
    target.execute(f"UPDATE {RAW} SET body = overlay(body PLACING 'X' FROM 50) WHERE id = 777777")
    started = time.monotonic()

    verdict = verify(million, target, XMIN)

    assert (verdict.status, counts(verdict)) == ("different", (0, 0, 1, 0))
    assert verdict.found is not None
    assert verdict.found.different == (("777777",),)
    tell(f"one changed byte in {ROWS} rows: found in {time.monotonic() - started:.1f} s")
