"""What a server says below libpq: messages of a type, a length and a body each.

"Frontend/Backend Protocol" in PostgreSQL's manual, sections "Message Formats" and "Error and Notice
Message Fields".
"""

import struct
from types import SimpleNamespace
from typing import Any

import psycopg2

from extract_load.wire import Wire

BLOCK_BYTES = 1 << 18
"""What is received at a time, at most."""
HELD_BYTES = 1 << 14
"""What is held back beside it: the end of a COPY stands there, or the error that ended it."""
ROOM_BYTES = BLOCK_BYTES + HELD_BYTES
PROTOCOL_VIOLATION = "08P01"
"""The SQLSTATE of messages that cannot be read, here or by the target."""
MESSAGE_HEAD = struct.Struct("!ci")
"""Of a message: its type, and its length without the type."""


class ReportedError(psycopg2.DatabaseError):
    """An error that a server reported, as psycopg2 would raise it."""

    def __init__(self, report: bytes) -> None:
        """Reads the report: fields of one letter and a text each."""
        fields = [field.decode(errors="replace") for field in report.split(b"\0") if field]
        self._fields = {field[0]: field[1:] for field in fields}
        super().__init__(self._fields.get("M", "an error without a message"))

    @classmethod
    def unreadable(cls, what: str) -> "ReportedError":
        """Returns the error of a server whose messages are not those that were expected."""
        return cls(f"C{PROTOCOL_VIOLATION}\0M{what}\0".encode())

    @property
    def pgcode(self) -> str | None:  # type: ignore[override]
        """The SQLSTATE."""
        return self._fields.get("C")

    @property
    def diag(self) -> Any:  # type: ignore[override]
        """What error messages are made of."""
        return SimpleNamespace(
            message_primary=self._fields.get("M"),
            message_detail=self._fields.get("D"),
            context=self._fields.get("W"),
        )


class ServerMessages:
    """What a server says, message by message."""

    def __init__(self, wire: Wire, room: bytearray | None = None) -> None:
        """Asks for nothing yet.

        Args:
            wire: The server's.
            room: ROOM_BYTES that nobody else uses meanwhile; None: of its own.
        """
        self._wire = wire
        self._buffer = bytearray(ROOM_BYTES) if room is None else room
        self._view = memoryview(self._buffer)
        self._filled = 0

    def message(self) -> tuple[bytes, bytes]:
        """Returns the next one, its type and its body; waits for it.

        Raises:
            ReportedError: If it cannot be one.
            WireBroken: If the connection ended.
        """
        while self._filled < MESSAGE_HEAD.size:
            self._receive()
        kind, length = MESSAGE_HEAD.unpack_from(self._buffer)
        if not 4 <= length < BLOCK_BYTES:
            raise ReportedError.unreadable(f"a message of {length} bytes cannot be read")
        while self._filled < 1 + length:
            self._receive()
        body = bytes(self._view[MESSAGE_HEAD.size : 1 + length])
        self._drop(1 + length)
        return kind, body

    def _drop(self, size: int) -> None:
        """Forgets so many bytes at the front."""
        left = self._filled - size
        self._view[:left] = self._view[size : self._filled]
        self._filled = left

    def _receive(self) -> None:
        self._filled += self._wire.receive_into(self._view[self._filled :])
