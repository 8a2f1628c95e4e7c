"""The network as the rest of the project sees it: listeners that hand out wires.

A ``Wire`` is one connection whatever carries it (TCP, a unix socket, either under TLS). Bytes in: it
receives into a buffer that its ``Receiver`` lends and says how many came. Bytes out: ``send`` passes on
what the kernel takes now and queues the rest by reference, in order.

Everything happens in the loop's thread. ``closed`` is called exactly once for every wire that has been
started, however it ends, and nothing is called after it.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from revolume.host.disk import Buffer, File


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end, as far as the wire can tell.

    ``uid`` is what the kernel vouches for on a unix socket; ``certificate_name`` is what a certificate
    that we *verified* says (its common name, else its first alternative name)."""

    transport: str  # "tcp" | "unix"
    address: str
    uid: int | None = None
    certificate_name: str | None = None
    loopback: bool = False
    encrypted: bool = False


class Receiver(Protocol):
    """The session's side of a wire."""

    def buffer(self) -> memoryview:
        """Where to receive: writable, of bytes, never empty."""

    def received(self, n: int) -> None:
        """``n`` bytes lie at the beginning of the last ``buffer``."""

    def closed(self, error: Exception | None) -> None:
        """The end, both ways. None: the peer's orderly end, or our own doing."""

    def writable(self) -> None:
        """The backlog had reached the low-water mark and has fallen below it."""


class Wire(Protocol):
    """One connection. Nothing is received before ``start``."""

    @property
    def peer(self) -> Peer: ...

    @property
    def backlog(self) -> int:
        """Bytes sent but not yet taken by the kernel."""

    def start(self, receiver: Receiver) -> None: ...

    def send(self, buffers: Sequence[Buffer]) -> None:
        """Never waits, never raises: a broken wire is told by ``closed``. What the kernel does not take
        now stays referenced, so a buffer that was sent is not to be changed afterwards."""

    def send_file(self, file: File, offset: int, length: int, head: Sequence[Buffer] = ()) -> None:
        """As ``send``: ``head``, then a stretch of a file, in order with all that was sent before, without
        a copy where the wire is plain. The file stays open and the stretch as it is until it has been
        taken. It is read in the loop, so it is for what lies in memory; what a disk may have to be waited
        for is read in a thread, and sent. A file that cannot give all of it ends the wire."""

    def pause(self) -> None:
        """Receives nothing more, from this moment on, even within ``received``."""

    def resume(self) -> None: ...

    def poll(self) -> bool:
        """Receives now what has arrived already. False: the end was met, and ``closed`` has been called.
        A wire that cannot take more (paused, or under TLS) and whose peer has hung up is ended as well;
        what the peer still sent on it is thrown away unseen."""

    async def start_tls(self, context: ssl.SSLContext, server_hostname: str | None = None) -> None:
        """Turns encrypted, after all that was sent so far; as server if the connection was accepted, as
        client if it was made. ``pause`` must come *before* the peer is told to begin, or its first
        encrypted bytes are taken for plain ones; ``resume`` when the state from before is wiped.
        OSError if the handshake fails; the wire is closed then."""

    async def drain_and_close(self) -> None:
        """Sends the backlog, then ends in order: the peer gets all that was sent even if it is sending
        itself. As long as the peer takes to read: whoever calls it bounds it."""

    def abort(self) -> None:
        """Ends it at once; ``closed`` follows from the loop."""


class Listener(Protocol):
    @property
    def addresses(self) -> list[str]:
        """As bound, e.g. ``unix:/path``, ``127.0.0.1:10809``."""

    def close(self) -> None:
        """Takes no more connections; those that it handed out stay."""

    async def wait_closed(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Activated:
    """A listening socket that a service manager opened for us (socket activation)."""

    fd: int
    name: str
    address: str


class Network(Protocol):
    async def listen(self, address: str, accept: Callable[[Wire], None]) -> Listener:
        """``unix:PATH``, ``HOST:PORT``, ``[::1]:PORT``; port 0 is any, an empty host all addresses. A unix
        socket that nobody answers on is replaced; it is removed at close. RevolumeError."""

    def activated(self) -> list[Activated]:
        """What a service manager passed to this very process; empty without one."""

    def adopt(self, activated: Activated, accept: Callable[[Wire], None]) -> Listener: ...

    async def connect(
        self, address: str, *, tls: ssl.SSLContext | None = None, server_hostname: str | None = None
    ) -> Wire:
        """OSError if it cannot be reached, UsageError if it is no address. With ``tls``, encrypted from
        the first byte; ``server_hostname`` is who the peer must prove to be (else the address's host)."""
