"""The tests of the three modes, unchanged, by every way to a database."""

from tests.integration.test_three_modes import *  # noqa: F403
from tests.integration.test_three_modes import orders  # noqa: F401 - a fixture
