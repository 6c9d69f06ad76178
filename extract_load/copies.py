"""The two ends of what is copied, before they are run."""

import io
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from psycopg2 import sql

from extract_load.connection import Session
from extract_load.stream import PipeReader, PipeWriter
from extract_load.tee import Tee


@dataclass(frozen=True)
class CopyTo:
    """A COPY TO of a source."""

    reader: Session
    query: sql.Composable
    doing: str
    """For the message where it fails."""
    holding: Callable[[], AbstractContextManager[None]]
    """Holds what it reads still, for the length of a block."""

    def write(self, stream: "PipeWriter | io.BufferedWriter[Tee]") -> int:
        """Writes its rows by way of libpq; returns how many."""
        with self.holding():
            rows = self.reader.copy(self.query, stream, self.doing)
            stream.flush()  # or the last bytes would wait until the lock is freed
            return rows


@dataclass(frozen=True)
class CopyFrom:
    """A COPY FROM of a target."""

    session: Session
    query: sql.Composable
    doing: str
    """For the message where it fails."""

    def read(self, stream: PipeReader) -> int:
        """Takes all rows by way of libpq; returns how many."""
        return self.session.copy(self.query, stream, self.doing)
