"""Which transactions a snapshot may not see ended, and how long they have been running.

Rows of a transaction carry times from its begin on, and become visible when it commits. A cursor
that went on from the snapshot would pass them by.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from extract_load.connection import READ_CONSISTENT, Session
from extract_load.sql import queries


@dataclass(frozen=True)
class OpenTransactions:
    """What was known of open transactions just before a snapshot."""

    since: str | None
    """When the oldest that can be seen began: at the latest, when they were asked for. None where
    none can be seen."""
    why_unknown: str
    """Why there may be older ones, for people; empty where there are none."""

    def open_for(self, cut_at: str) -> timedelta | None:
        """Returns how long the oldest had run by the snapshot; None where nobody can tell."""
        if self.since is None:
            return None
        # Never below zero: a server's clock that was set back must not raise a bound.
        age = datetime.fromisoformat(cut_at) - datetime.fromisoformat(self.since)
        return max(age, timedelta())


def read_open_transactions(session: Session) -> OpenTransactions:
    """Returns what is known of the transactions that run now. To be asked BEFORE the snapshot.

    Asked after it, one that ended in between would be in neither. Running transactions come
    before prepared ones: one that is prepared in between is then in the first answer; in the
    other order it could be in none.

    Args:
        session: To the source, outside a transaction.
    """
    doing = "look for open transactions"
    with session.transaction(READ_CONSISTENT):
        why_unknown, since = session.execute(queries("catalog")["open_transactions"], doing=doing)[
            0
        ]
        prepared = session.execute(queries("catalog")["prepared_transactions"], doing=doing)[0][0]
    if why_unknown:
        return OpenTransactions(None, why_unknown)
    if prepared:
        return OpenTransactions(
            since, f"prepared transactions do not say when they began ({prepared} of them)"
        )
    return OpenTransactions(since, "")
