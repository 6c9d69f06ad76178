"""One chunk with its checkpoint, read by its target alone or once for several."""

import io
import time
from contextlib import nullcontext
from dataclasses import dataclass

from extract_load import lease
from extract_load.chunking import Chunk
from extract_load.config import TableSettings
from extract_load.connection import NOT_DURABLE, Session
from extract_load.connection_parameters import ConnectionParameters
from extract_load.copies import CopyFrom, CopyTo
from extract_load.errors import LeftBehind
from extract_load.extract import copy_out_query, gives_rows_only, holding_chunk
from extract_load.load import Load, copy_in_query, move_rows, pace_of
from extract_load.shared_read import NotKept, SharedRead
from extract_load.snapshot import SourceSnapshot
from extract_load.stream import PipeWriter, move_by_libpq
from extract_load.stream_watch import CopyStats, StreamWatch
from extract_load.tee import Tee


def load_chunk(
    session: Session,
    source: SourceSnapshot,
    load: Load,
    chunk: Chunk,
    shared: SharedRead | None = None,
    *,
    may_go_below: bool = True,
) -> CopyStats | None:
    """Returns what a chunk brought, or None when an earlier attempt had loaded it.

    The checkpoint commits with the rows.

    Args:
        session: To the target.
        source: The snapshot.
        load: The table.
        chunk: What of it.
        shared: Where targets meet that read the same; None: this one reads by itself.
        may_go_below: Whether rows may pass below libpq.
    """
    plan = load.plan
    copy_from = CopyFrom(session, copy_in_query(plan, plan.scratch), _doing(chunk))
    reads_alone = shared is None or shared.is_alone(*_asked(load, chunk))
    with (
        shared.turn if reads_alone and shared is not None else nullcontext(),
        session.transaction(settings=NOT_DURABLE, doing="commit a chunk"),
    ):
        lease.hold(session, load.lease)
        if not load.checkpoints.claim(session, chunk.number, load.parts.of(chunk), str(chunk)):
            return None
        if shared is None or reads_alone:
            with source.reader_of(chunk.leaf) as reader:
                stats = move_rows(
                    _copy_to(source, load, chunk, reader),
                    copy_from,
                    source,
                    may_go_below=may_go_below and gives_rows_only(plan, chunk.leaf),
                )
        else:
            part = _Part(source, load, chunk, shared)
            stats = move_by_libpq(
                part.copy_out,
                copy_from.read,
                part.watch(session),
            )
        load.checkpoints.complete(session, chunk.number, rows=stats.rows, bytes_=stats.bytes)
    return stats


def end_part(shared: SharedRead, load: Load, chunk: Chunk) -> None:
    """Says that a target has a chunk, and committed it."""
    shared.done(*_asked(load, chunk))


def member_of(settings: TableSettings) -> object:
    """Returns what tells one target of a source table from another."""
    return settings.target_connection, settings.target.parts


def read_text(load: Load, chunk: Chunk) -> str:
    """Returns what tells one read from another: its snapshot, its COPY and the path it has.

    Under another `search_path` the same words may mean another operator.
    """
    path = chunk.leaf.search_path
    return f"{load.snapshot.id} {path} {copy_out_query(load.plan, chunk)!r}"


def _copy_to(source: SourceSnapshot, load: Load, chunk: Chunk, reader: Session) -> CopyTo:
    """The COPY that reads a chunk."""
    return CopyTo(
        reader,
        copy_out_query(load.plan, chunk),
        _doing(chunk),
        lambda: holding_chunk(source, load.plan, chunk, reader),
    )


def _doing(chunk: Chunk) -> str:
    return f"copy {chunk.range} of {chunk.leaf.name.said}"


def _asked(load: Load, chunk: Chunk) -> tuple[object, str]:
    """Which target asks for which read."""
    return member_of(load.plan.settings), read_text(load, chunk)


@dataclass
class _Part:
    """One target's part in a shared read."""

    source: SourceSnapshot
    load: Load
    chunk: Chunk
    shared: SharedRead

    def __post_init__(self) -> None:
        self._asked = _asked(self.load, self.chunk)

    @property
    def parameters(self) -> ConnectionParameters:
        """Those of the source."""
        return self.source.parameters

    def sever(self) -> None:
        """Cuts the connection to the source over which its rows come."""
        self.shared.cut(*self._asked)

    def copy_out(self, stream: PipeWriter) -> int:
        """Returns the rows that came into a stream."""

        def read(into: "io.BufferedWriter[Tee]") -> int:
            with (
                self.source.reader_of(self.chunk.leaf) as reader,
                into.raw.read_by(reader, pace_of(self.source, reader)),
            ):
                return _copy_to(self.source, self.load, self.chunk, reader).write(into)

        try:
            return self.shared.copy(*self._asked, stream, read)
        except NotKept:
            raise LeftBehind(
                f'target "{self.load.plan.settings.target_connection}" is behind the others',
                "They went on without it, and its rows found no room on disk.",
                "It reads the rest by itself, from this chunk on.",
            ) from None

    def watch(self, session: Session) -> StreamWatch:
        """Returns what the stream to this target may not exceed."""
        return StreamWatch(
            stall_seconds=self._stall_seconds,
            source=self,
            target=session,
            is_source_working=self._is_right_to_wait,
            pace=lambda _: None,  # what is read once is paid once, where it is read
            memory=self.source.governor.memory,
            owns_source=False,
        )

    @property
    def _stall_seconds(self) -> float:
        return self.source.governor.run.stall_timeout.total_seconds()

    def _is_right_to_wait(self) -> bool:
        """Whether no byte comes for a reason: none is read yet, or others take what is read."""
        tee = self.shared.reading(*self._asked)
        reader = None if tee is None else tee.reader
        if tee is None or reader is None or tee.is_writing:
            return True
        is_moving = time.monotonic() < tee.moved_at + self._stall_seconds / 2
        return is_moving or self.source.is_working(reader)
