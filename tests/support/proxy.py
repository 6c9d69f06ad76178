"""A wire that can be cut, or go silent: a TCP proxy in front of a server."""

import select
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

_BLOCK = 1 << 16
_POLL_SECONDS = 0.1


@dataclass
class Wire:
    """What happens on every connection through a proxy."""

    port: int = 0
    """Where it listens."""
    silent: threading.Event = field(default_factory=threading.Event)
    """Set: nothing is forwarded any more, and nothing closed."""
    quiet_after: int | None = None
    """After so many bytes from the server the wire goes silent, once."""
    cut_after: int | None = None
    """After so many bytes from the server all connections are cut, once."""
    lose_commit: int | None = None
    """The number of the COMMIT whose answer is lost: it arrives, and the connection is cut."""
    hole_after: int | None = None
    """After so many bytes to the server on one connection nothing of it is forwarded any more,
    once: neither side ever hears that the other has gone."""
    to_server_per_second: float | None = None
    """How many bytes go to the server in a second, on each connection."""
    from_server: int = 0
    commits: int = 0
    holes: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    open: set[socket.socket] = field(default_factory=set)

    def cut(self) -> None:
        """Cuts every connection."""
        with self.lock:
            found = list(self.open)
        for one in found:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def passed(self, size: int) -> None:
        """Counts bytes from the server, and does what is due."""
        with self.lock:
            self.from_server += size
            is_quiet = self.quiet_after is not None and self.from_server >= self.quiet_after
            is_cut = self.cut_after is not None and self.from_server >= self.cut_after
            self.quiet_after = None if is_quiet else self.quiet_after
            self.cut_after = None if is_cut else self.cut_after
        if is_quiet:
            self.silent.set()
        if is_cut:
            self.cut()

    def swallows(self, sent: int) -> bool:
        """Whether a connection that has sent so much is a black hole from now on."""
        with self.lock:
            is_hole = self.hole_after is not None and sent >= self.hole_after
            self.hole_after = None if is_hole else self.hole_after
            self.holes += is_hole
        return is_hole

    def is_lost(self, data: bytes) -> bool:
        """Whether the answer to what a client sends gets lost."""
        if b"Q\x00\x00\x00\x0bCOMMIT\x00" not in data:
            return False
        with self.lock:
            self.commits += 1
            return self.commits == self.lose_commit


@contextmanager
def wire_to(port: int, host: str = "127.0.0.1") -> Iterator[Wire]:
    """Yields a wire to a server; every connection through it ends with the block."""
    wire = Wire()
    ended = threading.Event()
    with socket.create_server((host, 0)) as listener:
        wire.port = listener.getsockname()[1]
        accepting = threading.Thread(
            target=_accept, args=(listener, wire, (host, port), ended), daemon=True
        )
        accepting.start()
        try:
            yield wire
        finally:
            ended.set()
            wire.silent.clear()
            wire.cut()
            accepting.join(5)


def _accept(
    listener: socket.socket, wire: Wire, server: tuple[str, int], ended: threading.Event
) -> None:
    listener.settimeout(_POLL_SECONDS)
    while not ended.is_set():
        try:
            client, _ = listener.accept()
        except TimeoutError:
            continue
        try:
            upstream = socket.create_connection(server)
        except OSError:
            client.close()
            continue
        with wire.lock:
            wire.open |= {client, upstream}
        threading.Thread(target=_pump, args=(client, upstream, wire, ended), daemon=True).start()


def _pump(client: socket.socket, server: socket.socket, wire: Wire, ended: threading.Event) -> None:
    """Forwards both ways until one side ends."""
    drops_answers = False
    sent = 0
    with suppress(OSError):
        while not ended.is_set():
            if wire.silent.is_set():
                ended.wait(_POLL_SECONDS)
                continue
            ready, _, _ = select.select([client, server], [], [], _POLL_SECONDS)
            if client in ready:
                data = client.recv(_BLOCK)
                if not data:
                    break
                sent += len(data)
                if wire.swallows(sent):
                    ended.wait()
                    break
                drops_answers = drops_answers or wire.is_lost(data)
                if wire.to_server_per_second is not None:
                    time.sleep(len(data) / wire.to_server_per_second)
                server.sendall(data)
            if server in ready:
                data = server.recv(_BLOCK)
                if not data or drops_answers:
                    break
                client.sendall(data)
                wire.passed(len(data))
    with wire.lock:
        wire.open -= {client, server}
    client.close()
    server.close()
