"""The encrypted half of a wire: asyncio's TLS over a socket that was plain before.

asyncio holds the socket and the cipher state; this adapter lends it the session's buffer
(``BufferedProtocol``: decrypted bytes land where the session wants them) and feeds it what is sent, in
pieces of bounded size. The feeding matters twice. asyncio encrypts at once whatever it is given, so a
64 MiB answer to a slow reader would lie there whole, encrypted and uncounted; and each call to it makes
a record, so that many small answers are joined into one.

A slice of a file is read when its turn has come, a piece at a time.

What asyncio holds beyond our sight is at most one piece and its own low buffer, 128 KiB together;
``backlog`` counts all the rest.
"""

from __future__ import annotations

import asyncio
import dataclasses
import socket
import ssl
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from revolume.host.disk import Buffer, File
from revolume.host.file_slice import FileSlice
from revolume.host.network import Peer, Receiver

PIECE = 64 << 10
HANDSHAKE_SECONDS = 10.0
SHUTDOWN_SECONDS = 10.0
"""How long an orderly end may take: what asyncio has not passed on by then is dropped."""


class TlsStream(asyncio.BufferedProtocol):
    """``ended`` is the wire's: it is told once, and tells the session."""

    def __init__(self, ended: Callable[[Exception | None], None], peer: Peer, low_water: int) -> None:
        self.peer = peer
        self.open = True
        self._ended = ended
        self._low_water = low_water
        self._receiver: Receiver | None = None
        self._transport: asyncio.Transport | None = None
        self._making: asyncio.Task[Any] | None = None
        self._paused = False
        self._full = False  # asyncio holds enough
        self._high = False  # the backlog has reached the low-water mark since it was last below
        self._closing = False
        self._sending = True
        self._queue: deque[memoryview | FileSlice] = deque()
        self._queued = 0
        self._gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    # Beginning

    async def accept(self, sock: socket.socket, context: ssl.SSLContext) -> None:
        await self._make(
            asyncio.get_running_loop().connect_accepted_socket(
                lambda: self,
                sock,
                ssl=context,
                ssl_handshake_timeout=HANDSHAKE_SECONDS,
                ssl_shutdown_timeout=SHUTDOWN_SECONDS,
            )
        )

    async def connect(self, sock: socket.socket, context: ssl.SSLContext, hostname: str | None) -> None:
        await self._make(
            asyncio.get_running_loop().create_connection(
                lambda: self,
                sock=sock,
                ssl=context,
                server_hostname=hostname or "",
                ssl_handshake_timeout=HANDSHAKE_SECONDS,
                ssl_shutdown_timeout=SHUTDOWN_SECONDS,
            )
        )

    async def _make(self, handshake: Any) -> None:
        """As a task of its own, so that an abort can stop it."""
        self._making = asyncio.ensure_future(handshake)
        try:
            await self._making
        except asyncio.CancelledError:
            if self.open:  # ours was cancelled, not the handshake
                raise
            raise ConnectionError("the connection ended during the TLS handshake") from None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        if not self.open:
            transport.abort()
            return
        transport.set_write_buffer_limits(high=PIECE, low=PIECE // 2)
        name = certificate_name(transport.get_extra_info("peercert"))
        self.peer = dataclasses.replace(self.peer, encrypted=True, certificate_name=name)
        transport.writelines([])  # our last handshake record: asyncio sends none while reading is paused
        self._hold()

    # Receiving

    def start(self, receiver: Receiver | None) -> None:
        self._receiver = receiver
        self._hold()

    def pause(self) -> None:
        self._paused = True
        self._hold()

    def resume(self) -> None:
        self._paused = False
        self._hold()

    def _hold(self) -> None:
        """Reading follows what is wanted; asking for what is already so is harmless."""
        if self._transport is None or self._transport.is_closing():
            return
        if self._paused or self._receiver is None:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def get_buffer(self, sizehint: int) -> memoryview:
        assert self._receiver is not None
        return self._receiver.buffer()

    def buffer_updated(self, nbytes: int) -> None:
        if self._receiver is not None:
            self._receiver.received(nbytes)

    def eof_received(self) -> None:
        """None: asyncio closes, and ``connection_lost`` follows."""

    # Sending

    @property
    def backlog(self) -> int:
        held = 0 if self._transport is None else self._transport.get_write_buffer_size()
        return self._queued + held

    def send(self, buffers: Sequence[Buffer]) -> None:
        self._enqueue([memoryview(buffer).cast("B") for buffer in buffers])

    def send_file(self, file: File, offset: int, length: int, head: Sequence[Buffer]) -> None:
        views = [memoryview(buffer).cast("B") for buffer in head]
        self._enqueue([*views, FileSlice(file, offset, length)])

    def _enqueue(self, parts: Sequence[memoryview | FileSlice]) -> None:
        if not self.open or self._closing or not self._sending:
            return
        for part in parts:
            if len(part):
                self._queue.append(part)
                self._queued += len(part)
        self._pump()
        self._high = self._high or self.backlog >= self._low_water

    def _pump(self) -> None:
        if self._transport is None:
            return
        try:
            while self._queue and not self._full and self.open and self._sending:
                self._transport.write(self._next_piece())
        except OSError as error:  # of a file: what was begun can't be completed; told from the loop
            self._sending = False
            asyncio.get_running_loop().call_soon(self.end, error)

    def _next_piece(self) -> Buffer:
        """A slice of something large, or several small parts joined."""
        piece = self._take_front()
        if self._queue and len(piece) + len(self._queue[0]) <= PIECE:
            piece = self._joined(piece)
        self._queued -= len(piece)
        return piece

    def _take_front(self) -> memoryview:
        """At most a piece of the first part, which leaves the queue when nothing of it is left."""
        first = self._queue[0]
        if isinstance(first, FileSlice):
            piece = first.take(min(len(first), PIECE))
            if not first:
                self._queue.popleft()
            return piece
        if len(first) > PIECE:
            self._queue[0] = first[PIECE:]
            return first[:PIECE]
        self._queue.popleft()
        return first

    def _joined(self, first: memoryview) -> memoryview:
        parts, size = [first], len(first)
        while self._queue and size + len(self._queue[0]) <= PIECE:
            parts.append(self._take_front())
            size += len(parts[-1])
        return memoryview(b"".join(parts))

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        self._pump()
        if self._closing and not self._queue and self._transport is not None:
            self._transport.close()
        if self._high and self.backlog < self._low_water:
            self._high = False
            if self._receiver is not None:
                self._receiver.writable()

    # Ending

    async def drain_and_close(self) -> None:
        self._closing = True
        self._receiver = DiscardingReceiver()
        self.resume()  # what the peer still sends, and its end, must be read
        if self._transport is None:
            self.end(None)
        elif not self._queue:
            self._transport.close()
        await asyncio.shield(self._gone)

    def connection_lost(self, exc: Exception | None) -> None:
        self.end(None if self._closing else exc)

    def end(self, error: Exception | None) -> None:
        if not self.open:
            return
        self.open = False
        self._queue.clear()
        self._queued = 0
        self._receiver = None
        if self._transport is not None:
            self._transport.abort()
        if self._making is not None:
            self._making.cancel()
        if not self._gone.done():
            self._gone.set_result(None)
        self._ended(error)


class DiscardingReceiver:
    """Receives, and drops, what comes after a session has ended its side."""

    def __init__(self) -> None:
        self._buffer = memoryview(bytearray(64 << 10))

    def buffer(self) -> memoryview:
        return self._buffer

    def received(self, n: int) -> None: ...

    def closed(self, error: Exception | None) -> None: ...

    def writable(self) -> None: ...


def certificate_name(certificate: dict[str, Any] | None) -> str | None:
    """The subject's common name, else the first alternative name; None for none that was verified."""
    if not certificate:
        return None
    for part in certificate.get("subject", ()):
        for key, value in part:
            if key == "commonName":
                return str(value)
    for _, value in certificate.get("subjectAltName", ()):
        return str(value)
    return None
