"""The client's end of one connection: bytes from the wire become answers to the requests that wait for them.

Until ``begin_transmission`` received bytes are handed out by ``take`` (the option phase). From then on they are
parsed as replies; the data of a read goes from the socket straight into the buffer of whoever asked for it.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from revolume.host.network import Wire
from revolume.host.receive_buffer import Inbox
from revolume.nbd.wire import client_codec
from revolume.nbd.wire.client_codec import ReplyHeader
from revolume.nbd.wire.constants import CHUNK_ERROR_BIT, Chunk, Errno
from revolume.nbd.wire.errors import Disconnected, ExportError, ProtocolError

_INBOX_BYTES: Final = 256 << 10
_BACKLOG_BYTES_MAX: Final = 8 << 20

Extents = list[tuple[int, int]]
"""(length, flags) pairs."""


@dataclass(slots=True)
class Pending:
    """A request that is not answered yet."""

    done: asyncio.Future[None]
    offset: int
    buffer: memoryview | None = None  # where a read's data goes
    error: ExportError | None = None
    statuses: dict[int, Extents] = field(default_factory=dict)  # by context id


class ClientConnection:
    """The receiver of a client's wire."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self._inbox = Inbox(_INBOX_BYTES)
        self._sink: memoryview | None = None  # the rest of the data of a read
        self._sunk: Pending | None = None  # the request that is answered when it has come
        self._pending: dict[int, Pending] = {}  # by cookie
        self._next_cookie = 1
        self._contexts: Mapping[int, str] = {}
        self._transmitting = False
        self.ended: Exception | None = None
        self._changed = asyncio.Event()  # something came, was sent, or ended

    # --- the option phase --------------------------------------------------------------------------------

    async def take(self, count: int) -> bytes:
        """The next ``count`` bytes, waiting for them. Disconnected when the connection ends first."""
        inbox = self._inbox
        while inbox.end - inbox.start < count:
            if self.ended is not None:
                raise self.ended
            self._changed.clear()
            await self._changed.wait()
        data = bytes(inbox.view[inbox.start : inbox.start + count])
        inbox.start += count
        return data

    @property
    def unread(self) -> bool:
        """Whether bytes have come that nobody has taken."""
        return self._inbox.end != self._inbox.start

    def begin_transmission(self, contexts: Mapping[int, str]) -> None:
        """What comes from here on are replies. ``contexts``: the selected ones, by id."""
        self._contexts = contexts
        self._transmitting = True
        self._parse()

    # --- requests ----------------------------------------------------------------------------------------

    async def send_slot(self) -> int:
        """A cookie for the next request, as soon as the wire takes more. Disconnected at the connection's end."""
        while self.ended is None and self.wire.backlog > _BACKLOG_BYTES_MAX:
            self._changed.clear()
            await self._changed.wait()
        if self.ended is not None:
            raise self.ended
        cookie = self._next_cookie
        self._next_cookie += 1
        return cookie

    async def exchange(
        self, cookie: int, offset: int, request: list[bytes | memoryview], buffer: memoryview | None
    ) -> Pending:
        """Send a request and wait for its answer; a read's data fills ``buffer``, which begins at ``offset`` of
        the export. ExportError when it fails, Disconnected when the connection ends before the answer."""
        pending = Pending(asyncio.get_running_loop().create_future(), offset, buffer)
        self._pending[cookie] = pending
        self.wire.send(request)
        await pending.done
        return pending

    # --- the wire's receiver -----------------------------------------------------------------------------

    def buffer(self) -> memoryview:
        return self._sink if self._sink else self._inbox.tail()

    def received(self, n: int) -> None:
        if self._sink:
            self._sink = self._sink[n:]
            if self._sink:
                return
            sunk, self._sunk = self._sunk, None
            if sunk is not None:
                _resolve(sunk)
        else:
            self._inbox.end += n
        if self._transmitting:
            self._parse()
        else:
            self._changed.set()

    def writable(self) -> None:
        self._changed.set()

    def closed(self, error: Exception | None) -> None:
        """The connection has ended: whoever waits for an answer gets Disconnected."""
        if self.ended is None:
            self.ended = Disconnected("The connection to the NBD server ended.")
        self._changed.set()
        pending, self._pending = self._pending, {}
        for entry in [*pending.values(), *([self._sunk] if self._sunk else [])]:
            if not entry.done.done():
                entry.done.set_exception(self.ended)

    def _parse(self) -> None:
        try:
            while not self._sink and self._parse_one():
                pass
        except ProtocolError as error:
            self.ended = error
            self.wire.abort()

    def _parse_one(self) -> bool:
        """Take one reply or chunk out of the inbox; False when more bytes are needed."""
        inbox = self._inbox
        found = client_codec.parse_reply(inbox.buffer, inbox.start, inbox.end)
        if found is None:
            return False
        header, at = found
        pending = self._pending.get(header.cookie)
        if pending is None:
            raise ProtocolError("the server answers a request that was not made")
        if header.simple:
            return self._finish_simple(header, pending, at)
        if header.kind == Chunk.OFFSET_DATA:
            return self._receive_data(header, pending, at)
        if header.length > client_codec.CHUNK_BYTES_MAX:
            raise ProtocolError("a reply is too long")
        if inbox.end - at < header.length:
            if inbox.size < at - inbox.start + header.length:
                inbox.resize(at - inbox.start + header.length)
            inbox.needed = at - inbox.start + header.length
            return False
        self._take_chunk(header, pending, bytes(inbox.view[at : at + header.length]))
        inbox.start = at + header.length
        inbox.needed = 0
        self._finish(header, pending)
        return True

    def _finish_simple(self, header: ReplyHeader, pending: Pending, at: int) -> bool:
        self._inbox.start = at
        if header.errno:
            pending.error = _failure(header.errno, "")
        elif pending.buffer is not None:
            self._pour(pending.buffer)
        self._finish(header, pending)
        return True

    def _receive_data(self, header: ReplyHeader, pending: Pending, at: int) -> bool:
        inbox = self._inbox
        if inbox.end - at < 8:
            return False
        offset = int.from_bytes(inbox.view[at : at + 8], "big") - pending.offset
        length = header.length - 8
        if pending.buffer is None or offset < 0 or length <= 0 or offset + length > len(pending.buffer):
            raise ProtocolError("the server sends data that was not asked for")
        inbox.start = at + 8
        self._pour(pending.buffer[offset : offset + length])
        self._finish(header, pending)
        return True

    def _pour(self, target: memoryview) -> None:
        """Fill ``target`` with what is here; the wire receives the rest into it directly."""
        inbox = self._inbox
        count = min(len(target), inbox.end - inbox.start)
        target[:count] = inbox.view[inbox.start : inbox.start + count]
        inbox.start += count
        self._sink = target[count:] if count < len(target) else None

    def _take_chunk(self, header: ReplyHeader, pending: Pending, data: bytes) -> None:
        if header.kind & CHUNK_ERROR_BIT:
            pending.error = _failure(*client_codec.parse_error(data))
        elif header.kind in (Chunk.BLOCK_STATUS, Chunk.BLOCK_STATUS_EXT):
            number, extents = client_codec.parse_extents(data, header.kind == Chunk.BLOCK_STATUS_EXT)
            if number not in self._contexts:
                raise ProtocolError("block status for a context that was not selected")
            pending.statuses[number] = extents
        elif header.kind == Chunk.OFFSET_HOLE and pending.buffer is not None and len(data) == 12:
            offset, length = struct.unpack(">QI", data)
            at = offset - pending.offset
            if at < 0 or at + length > len(pending.buffer):
                raise ProtocolError("a hole that was not asked for")
            pending.buffer[at : at + length] = bytes(length)
        elif header.kind != Chunk.NONE:
            raise ProtocolError(f"an unknown chunk, type {header.kind}")

    def _finish(self, header: ReplyHeader, pending: Pending) -> None:
        """The last chunk ends the request, as soon as its data have come."""
        if not header.last:
            return
        del self._pending[header.cookie]
        if self._sink:
            self._sunk = pending
        else:
            _resolve(pending)


def _resolve(pending: Pending) -> None:
    if pending.done.done():
        return
    if pending.error is not None:
        pending.done.set_exception(pending.error)
    else:
        pending.done.set_result(None)


def _failure(errno: int, said: str) -> ExportError:
    known = Errno(errno) if errno in set(Errno) else Errno.EINVAL
    return ExportError(f"nbd-{known.name.lower()}", said or f"The server answers {known.name}.", errno=known)
