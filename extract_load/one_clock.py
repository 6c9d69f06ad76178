"""The one session whose `now()` counts for all that may ask for the time: views, functions.

Sessions that share a snapshot show the same rows, but `now()` is the begin of each one's own
transaction, and nothing sets it.
"""

import threading
from collections.abc import Callable
from contextlib import suppress

from extract_load.connection import Session
from extract_load.errors import ExtractLoadError, SnapshotLost

HOLD_LOCKS = "SAVEPOINT looking"
FREE_LOCKS = "ROLLBACK TO SAVEPOINT looking; RELEASE SAVEPOINT looking"
"""A reader's locks go with its savepoint; the snapshot stays."""


class OneClock:
    """A reader of a snapshot that keeps its slot; when it is lost no other takes its place."""

    def __init__(
        self, slots: threading.Semaphore, open_reader: Callable[[], Session], *, is_only: bool
    ) -> None:
        """Opens nothing yet.

        Args:
            slots: Of all readers.
            open_reader: Returns a session in the snapshot.
            is_only: Whether there is one slot: then whatever else is read shares the reader.
        """
        self.turn = slots if is_only else threading.Semaphore(1)
        """Who reads by this clock, one at a time."""
        self.session: Session | None = None
        self._slots = None if is_only else slots
        self._open_reader = open_reader
        self._is_lost = False

    @property
    def shared(self) -> Session | None:
        """The session, where it is the only reader that there may be."""
        return self.session if self._slots is None else None

    def reader(self) -> Session:
        """Returns the session; whoever asks has the turn.

        Raises:
            SnapshotLost: If it was lost: what was read by its time cannot be gone on with.
        """
        if self._is_lost:
            raise SnapshotLost(
                "the session is lost that views and stable functions were read in",
                "They may ask for the time, and another session would tell them another.",
                "Run again: it reads them from the start, in a new snapshot.",
            )
        if self.session is None:
            if self._slots is not None:
                self._slots.acquire()
            try:
                self.session = self._open_reader()
            except BaseException:
                self._free_slot()
                raise
        return self.session

    def goes_on(self, session: Session) -> bool:
        """Returns whether a session in which a statement failed is this one, and still works."""
        if session is not self.session:
            return False
        with suppress(ExtractLoadError):
            session.execute(FREE_LOCKS)
            return True
        return False

    def lose(self, session: Session) -> None:
        """Takes note that a session was closed."""
        if session is self.session:
            self.session, self._is_lost = None, True
            self._free_slot()

    def _free_slot(self) -> None:
        if self._slots is not None:
            self._slots.release()
