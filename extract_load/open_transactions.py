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

    since: str
    """When the oldest began: at the latest, when they were asked for."""
    why_unknown: str
    """Why that cannot be told, for people; empty where it can."""

    def open_for(self, cut_at: str) -> timedelta | None:
        """Returns how long the oldest had run by the snapshot; None where nobody can tell."""
        if self.why_unknown:
            return None
        return datetime.fromisoformat(cut_at) - datetime.fromisoformat(self.since)


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
    if prepared and not why_unknown:
        why_unknown = f"prepared transactions do not say when they began ({prepared} of them)"
    return OpenTransactions(since, why_unknown or "")
