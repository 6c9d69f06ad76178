"""Whatever breaks in the middle: nothing lost, nothing twice, nothing mixed, nothing left."""

from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path

import pytest

from tests.chaos.faults import FAULTS
from tests.chaos.rounds import Playground, playground

QUICK = list(islice(zip(cycle(FAULTS), range(1, 14), strict=False), 13))
"""Each kind once."""
MORE = list(islice(zip(cycle(FAULTS), range(100, 140), strict=False), 40))


@pytest.fixture(scope="module")
def ground(servers_directory: Path) -> Iterator[Playground]:
    directory = servers_directory / "chaos"
    directory.mkdir()
    directory.chmod(0o777)
    with playground(directory) as made:
        yield made


@pytest.mark.parametrize(("kind", "seed"), QUICK)
def test_one_fault_of_each_kind(ground: Playground, kind: str, seed: int) -> None:
    outcome = ground.happen(kind, seed)
    assert outcome.wrong == ()
    assert outcome.rows > 0


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "seed"), MORE)
def test_forty_faults(ground: Playground, kind: str, seed: int) -> None:
    outcome = ground.happen(kind, seed)
    assert outcome.wrong == ()
    assert outcome.looks > 0
