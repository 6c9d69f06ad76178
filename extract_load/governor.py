"""Being considerate to a source: how fast it is read, and when reading waits.

The arithmetic is pure; `Governor` is what all readers of one source share.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from extract_load import log
from extract_load.config import RunSettings, duration_text
from extract_load.errors import SourceBusy
from extract_load.memory import MemoryBudget

_ASK_SECONDS = 1.0
"""The source is asked how it fares at most this often."""
_URGENT_SECONDS = 0.1
"""So long a pause goes on before it is asked whether it has become urgent."""
WAIT_LIMIT_SECONDS = 600.0
"""A source that is not calm for so long ends the table; the next run goes on from its chunks."""

logger = log.get_logger(__name__)


@dataclass
class Bucket:
    """How many bytes may pass, as time goes by (a token bucket that holds one second).

    Example:
        >>> bucket = Bucket(rate=100.0, at=0.0)
        >>> bucket.take(100, at=0.0), bucket.take(50, at=0.0), bucket.take(50, at=2.0)
        (0.0, 0.5, 0.0)
    """

    rate: float
    """Bytes a second."""
    at: float
    """Seconds on some clock: when it was last looked at."""
    left: float = 0.0

    def __post_init__(self) -> None:
        self.left = self.rate

    def take(self, size: int, at: float) -> float:
        """Returns how many seconds to wait before these bytes may pass."""
        self.left = min(self.rate, self.left + (at - self.at) * self.rate) - size
        self.at = at
        return max(0.0, -self.left / self.rate)


@dataclass(frozen=True)
class Fares:
    """How a source fares just now."""

    lag: timedelta | None
    """The largest replay lag of its standbys; None where it has none, or does not tell."""
    active: int | None
    """Sessions that do something and are not ours; None where the role may not see them."""

    def strain(self, run: RunSettings) -> str | None:
        """Returns what is above a limit, for people; None where nothing is."""
        longest, most = run.max_replica_lag, run.max_active_sessions
        if longest is not None and self.lag is not None and self.lag > longest:
            limit = duration_text(longest)
            return f"a standby lags {duration_text(self.lag)} behind, max_replica_lag is {limit}"
        if most is not None and self.active is not None and self.active > most:
            return f"{self.active} sessions are active, max_active_sessions is {most}"
        return None


class Governor:
    """What all readers of one source share: its bandwidth, its moments of calm, our memory."""

    def __init__(self, conn_id: str, run: RunSettings, memory: MemoryBudget) -> None:
        """Begins.

        Args:
            conn_id: The source.
            run: Its limits.
            memory: What streams may take.
        """
        self.run = run
        self.memory = memory
        self._conn_id = conn_id
        self._lock = threading.Lock()
        self._asking = threading.Lock()
        self._asked_at = -_ASK_SECONDS
        self._strained: str | None = None
        self._blind: set[str] = set()
        rate = run.throttle_mb_per_second
        self._bucket = Bucket(rate * 2**20, time.monotonic()) if rate else None

    def pace(self, size: int, is_urgent: Callable[[], bool]) -> None:
        """Waits until so many bytes may pass.

        Args:
            size: How many.
            is_urgent: Whether they pass at once; who comes after them waits for longer.
        """
        if self._bucket is None:
            return
        with self._lock:
            now = time.monotonic()
            until = now + self._bucket.take(size, now)
        while not is_urgent() and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, _URGENT_SECONDS))

    def wait_until_calm(self, ask: Callable[[], Fares]) -> None:
        """Waits while the source is above a limit.

        Args:
            ask: Returns how it fares.

        Raises:
            SourceBusy: If it stays above it for ten minutes.
        """
        if self.run.max_replica_lag is None and self.run.max_active_sessions is None:
            return
        deadline = time.monotonic() + WAIT_LIMIT_SECONDS
        told = False
        while (strain := self._strain(ask)) is not None:
            if not told:
                logger.info("waits for the source", extra={"why": strain})
                told = True
            if time.monotonic() >= deadline:
                raise SourceBusy(
                    f'source "{self._conn_id}" did not become calm',
                    f"For {WAIT_LIMIT_SECONDS:g} s {strain}. Nothing was published.",
                    "Run again at a calmer hour, or raise the limit.",
                )
            time.sleep(_ASK_SECONDS)

    def _strain(self, ask: Callable[[], Fares]) -> str | None:
        """What is above a limit: asked once a second; who comes meanwhile waits for the answer."""
        with self._asking:
            if time.monotonic() >= self._asked_at + _ASK_SECONDS:
                fares = ask()
                for key in ("max_active_sessions", "max_replica_lag"):
                    self._tell_blind(key, fares.active)
                self._strained = fares.strain(self.run)
                self._asked_at = time.monotonic()
            return self._strained

    def _tell_blind(self, key: str, found: object) -> None:
        if getattr(self.run, key) is None or found is not None or key in self._blind:
            return
        self._blind.add(key)
        logger.warning(
            "a limit cannot be kept",
            extra={"key": key, "why": "the role does not see other sessions: grant pg_monitor"},
        )
