"""Random histories against random schedules of runs: the target ends as the source, always."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import HealthCheck, given, settings

from demo.embedded_server import EmbeddedServer
from tests.histories.drawn import histories
from tests.histories.steps import History
from tests.histories.world import World
from tests.support.servers import fresh_database

SEVERAL_MINUTES = pytest.mark.timeout(3600)
"""Five hundred take a quarter of an hour; a failure is shrunk for up to five minutes."""
HISTORIES = settings(
    deadline=None,
    database=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)


@contextmanager
def new_world(source: EmbeddedServer, target: EmbeddedServer) -> Iterator[World]:
    """Yields a world between two servers."""
    with fresh_database(source, "source") as ours, fresh_database(target, "target") as theirs:
        yield World(ours, theirs)


@pytest.fixture(scope="module")
def world(source_server: EmbeddedServer, target_server: EmbeddedServer) -> Iterator[World]:
    with new_world(source_server, target_server) as world:
        yield world


@SEVERAL_MINUTES
@given(history=histories())
@settings(HISTORIES, max_examples=60)
def test_sixty_histories(world: World, history: History) -> None:
    world.happen(history)


@pytest.mark.slow
@SEVERAL_MINUTES
@given(history=histories())
@settings(HISTORIES, max_examples=500)
def test_five_hundred_histories(world: World, history: History) -> None:
    world.happen(history)
