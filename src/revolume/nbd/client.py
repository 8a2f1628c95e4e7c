"""Our own NBD client: asyncio, many requests in flight on one connection.

    client = await Client.connect(host, "nbd+unix:///vol1?socket=/run/vol1.sock")
    await client.write(0, data)
    await client.flush()
    await client.close()

Requests go out at once and are answered in any order; each method waits for its own answer, so requests
are pipelined by running methods concurrently. What is longer than the server takes is split. The data of
a read goes from the socket straight into the caller's buffer.

A request that the server refuses raises ``ExportError`` with its errno; when the connection ends first,
``Disconnected``: whether the request was done is then unknown.
"""

from __future__ import annotations

import asyncio
import ssl
import struct
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from revolume.host import Host
from revolume.host.inbox import Inbox
from revolume.host.network import Wire
from revolume.nbd import answers, options
from revolume.nbd.answers import ExportInfo, ReplyHeader
from revolume.nbd.constants import (
    CHUNK_ERROR_BIT,
    EXTENDED_REQUEST_MAGIC,
    REPLY_ERROR_BIT,
    REQUEST_MAGIC,
    Chunk,
    Command,
    CommandFlag,
    Errno,
    Info,
    Option,
    Reply,
    TransmissionFlag,
)
from revolume.nbd.errors import Disconnected, ExportError, ProtocolError
from revolume.nbd.handshake import CLIENT_FLAGS, GREETING, Dialect
from revolume.nbd.uri import Place, parse_uri

_COMPACT: Final = struct.Struct(">IHHQQI")
_EXTENDED: Final = struct.Struct(">IHHQQQ")
_INBOX_BYTES: Final = 256 << 10
_BACKLOG_BYTES_MAX: Final = 8 << 20
_COMPACT_RANGE_MAX: Final = 1 << 31  # of zero, trim and status requests; a multiple of every block size
_CLIENT_FLAGS: Final = 3
_WANTED: Final = (Info.NAME, Info.DESCRIPTION, Info.BLOCK_SIZE)

Buffer = bytes | bytearray | memoryview
Extents = list[tuple[int, int]]


@dataclass(slots=True)
class _Pending:
    """A request that is not answered yet."""

    done: asyncio.Future[None]
    offset: int
    buffer: memoryview | None = None  # where a read's data goes
    error: ExportError | None = None
    statuses: dict[int, Extents] = field(default_factory=dict)


class Client:
    """One connection to one export."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self.info = ExportInfo()
        self.dialect = Dialect.SIMPLE
        self.contexts: dict[int, str] = {}
        self._inbox = Inbox(_INBOX_BYTES)
        self._sink: memoryview | None = None  # the rest of the data of a read
        self._sunk: _Pending | None = None  # the request that is answered when it has come
        self._pending: dict[int, _Pending] = {}
        self._next_cookie = 1
        self._transmitting = False
        self._ended: Exception | None = None
        self._changed = asyncio.Event()  # something came, was sent, or ended

    # --- connecting --------------------------------------------------------------------------------------

    @classmethod
    async def connect(
        cls,
        host: Host,
        uri: str,
        *,
        tls: ssl.SSLContext | None = None,
        server_hostname: str | None = None,
        contexts: Sequence[str] = (),
        dialect: Dialect = Dialect.STRUCTURED,
    ) -> Client:
        """Connect and open the export. ``dialect`` is the most that is asked for; old servers get less."""
        place = parse_uri(uri)
        client = await cls._dial(host, place, tls, server_hostname)
        try:
            await client._agree(dialect)
            await client._select(place.name, contexts)
            client.info = await client._open(Option.GO, place.name)
        except BaseException:
            client._wire.abort()
            raise
        client._transmitting = True
        client._parse()
        return client

    @classmethod
    async def list_exports(
        cls, host: Host, uri: str, *, tls: ssl.SSLContext | None = None, server_hostname: str | None = None
    ) -> list[tuple[str, str]]:
        """(name, description) of everything that the server shows."""
        client = await cls._dial(host, parse_uri(uri), tls, server_hostname)
        try:
            found = await client._ask(Option.LIST, options.request(Option.LIST), "LIST")
            listed = [answers.parse_listed(data) for kind, data in found if kind == Reply.SERVER]
            await client._ask(Option.ABORT, options.request(Option.ABORT), "ABORT")
            return listed
        finally:
            client._wire.abort()

    @classmethod
    async def _dial(
        cls, host: Host, place: Place, tls: ssl.SSLContext | None, server_hostname: str | None
    ) -> Client:
        try:
            client = cls(await host.network.connect(place.address))
        except OSError as error:
            raise Disconnected(f"{place.address} cannot be reached: {error.strerror or error}.") from error
        try:
            client._wire.start(client)
            await client._greet()
            if place.tls or tls is not None:
                await client._secure(tls, server_hostname or _hostname(place))
        except BaseException:
            client._wire.abort()
            raise
        return client

    async def _greet(self) -> None:
        answers.check_greeting(await self._take(GREETING.size))
        self._wire.send([CLIENT_FLAGS.pack(_CLIENT_FLAGS)])

    async def _secure(self, context: ssl.SSLContext | None, hostname: str) -> None:
        if context is None:
            raise ExportError("nbd-tls-context", "An nbds URI needs certificates.", "Give a TLS directory.")
        await self._ask(Option.STARTTLS, options.request(Option.STARTTLS), "STARTTLS")
        if self._inbox.end != self._inbox.start:
            raise ProtocolError("the server sent plaintext behind its answer to STARTTLS")
        self._wire.pause()
        try:
            await self._wire.start_tls(context, hostname)
        except OSError as error:
            raise Disconnected(f"The TLS handshake failed: {error}.") from error
        self._wire.resume()

    async def _agree(self, dialect: Dialect) -> None:
        """The best headers that both sides know, up to ``dialect``."""
        ladder = [(Dialect.EXTENDED, Option.EXTENDED_HEADERS), (Dialect.STRUCTURED, Option.STRUCTURED_REPLY)]
        if dialect is Dialect.STRUCTURED:
            ladder.pop(0)
        for wanted, option in ladder if dialect is not Dialect.SIMPLE else []:
            try:
                await self._ask(option, options.request(option), option.name)
            except ExportError:
                continue
            self.dialect = wanted
            return

    async def _select(self, name: str, contexts: Sequence[str]) -> None:
        if not contexts:
            return
        option = Option.SET_META_CONTEXT
        found = await self._ask(option, options.context_request(option, name, contexts), name)
        self.contexts = dict([answers.parse_context(data) for kind, data in found if kind == Reply.META_CONTEXT])

    async def _open(self, option: Option, name: str) -> ExportInfo:
        info = ExportInfo(name=name)
        found = await self._ask(option, options.export_request(option, name, _WANTED), name or "the export")
        for kind, data in found:
            if kind == Reply.INFO:
                info = answers.learn(info, data)
        return info

    async def _ask(self, option: Option, request: bytes, what: str) -> list[tuple[int, bytes]]:
        """Send an option; its replies up to the ACK. ExportError when it is refused."""
        self._wire.send([request])
        replies: list[tuple[int, bytes]] = []
        while True:
            header = answers.parse_option_reply(await self._take(20), option)
            data = await self._take(header.length)
            if header.kind == Reply.ACK:
                return replies
            if header.kind & REPLY_ERROR_BIT:
                raise answers.option_error(header.kind, data, what)
            replies.append((header.kind, data))
            if len(replies) > 100_000:
                raise ProtocolError("the server answers without end")

    async def _take(self, count: int) -> bytes:
        """The next ``count`` bytes of the option phase."""
        inbox = self._inbox
        while inbox.end - inbox.start < count:
            if self._ended is not None:
                raise self._ended
            self._changed.clear()
            await self._changed.wait()
        data = bytes(inbox.view[inbox.start : inbox.start + count])
        inbox.start += count
        return data

    # --- requests ----------------------------------------------------------------------------------------

    @property
    def size(self) -> int:
        """Bytes of the export."""
        return self.info.size

    @property
    def read_only(self) -> bool:
        return bool(self.info.flags & TransmissionFlag.READ_ONLY)

    def can(self, flag: TransmissionFlag) -> bool:
        """Whether the server offers it."""
        return bool(self.info.flags & flag)

    async def read(self, offset: int, length: int) -> bytearray:
        """``length`` bytes from ``offset``."""
        data = bytearray(length)
        await self.read_into(offset, memoryview(data))
        return data

    async def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill ``buffer`` from ``offset`` on."""
        for at, count in _pieces(0, len(buffer), self.info.payload_bytes_max):
            await self._request(Command.READ, offset + at, count, buffer=buffer[at : at + count])

    async def write(self, offset: int, data: Buffer, *, fua: bool = False) -> None:
        """Write ``data``; it must not change before this returns. FUA: durable when it returns."""
        view = memoryview(data).cast("B")
        for at, count in _pieces(0, len(view), self.info.payload_bytes_max):
            await self._request(Command.WRITE, offset + at, count, _fua(fua), payload=view[at : at + count])

    async def zero(
        self, offset: int, length: int, *, fua: bool = False, no_hole: bool = False, fast: bool = False
    ) -> None:
        """Make the range read as zeroes."""
        flags = _fua(fua) | (CommandFlag.NO_HOLE if no_hole else 0) | (CommandFlag.FAST_ZERO if fast else 0)
        await self._over_range(Command.WRITE_ZEROES, offset, length, flags)

    async def trim(self, offset: int, length: int, *, fua: bool = False) -> None:
        """Give the range up."""
        await self._over_range(Command.TRIM, offset, length, _fua(fua))

    async def cache(self, offset: int, length: int) -> None:
        """Hint: the range is going to be read."""
        await self._over_range(Command.CACHE, offset, length, 0)

    async def flush(self) -> None:
        """Everything answered before is durable when this returns."""
        await self._request(Command.FLUSH, 0, 0)

    async def block_status(self, offset: int, length: int, *, one: bool = False) -> dict[str, Extents]:
        """Per selected context the extents from ``offset`` on; they may cover less than ``length``."""
        if self.dialect is not Dialect.EXTENDED:
            length = min(length, _COMPACT_RANGE_MAX)
        flags = CommandFlag.REQ_ONE if one else 0
        pending = await self._request(Command.BLOCK_STATUS, offset, length, flags)
        return {self.contexts[number]: extents for number, extents in pending.statuses.items()}

    async def extents(self, context: str, offset: int, length: int) -> AsyncIterator[tuple[int, int, int]]:
        """(offset, length, flags) of one context over the whole range, neighbours joined."""
        end, held = offset + length, (offset, 0, 0)
        while offset < end:
            for count, flags in (await self.block_status(offset, end - offset))[context]:
                part = min(count, end - offset)
                if flags == held[2]:
                    held = (held[0], held[1] + part, flags)
                else:
                    if held[1]:
                        yield held
                    held = (offset, part, flags)
                offset += part
        if held[1]:
            yield held

    async def close(self) -> None:
        """Say goodbye (DISC) and end the connection. Unanswered requests are answered first."""
        if self._ended is None:
            self._wire.send([self._header(Command.DISC, 0, 0, 0, 0)])
            await self._wire.drain_and_close()

    def abort(self) -> None:
        """End the connection without a word."""
        self._wire.abort()

    async def _over_range(self, command: Command, offset: int, length: int, flags: int) -> None:
        longest = length if self.dialect is Dialect.EXTENDED else _COMPACT_RANGE_MAX
        for at, count in _pieces(offset, length, longest):
            await self._request(command, at, count, flags)

    async def _request(
        self,
        command: Command,
        offset: int,
        length: int,
        flags: int = 0,
        *,
        payload: memoryview | None = None,
        buffer: memoryview | None = None,
    ) -> _Pending:
        while self._ended is None and self._wire.backlog > _BACKLOG_BYTES_MAX:
            self._changed.clear()
            await self._changed.wait()
        if self._ended is not None:
            raise self._ended
        cookie = self._next_cookie
        self._next_cookie += 1
        pending = _Pending(asyncio.get_running_loop().create_future(), offset, buffer)
        self._pending[cookie] = pending
        header = self._header(command, flags, cookie, offset, length)
        self._wire.send([header] if payload is None else [header, payload])
        await pending.done
        return pending

    def _header(self, command: Command, flags: int, cookie: int, offset: int, length: int) -> bytes:
        if self.dialect is Dialect.EXTENDED:
            if command is Command.WRITE:
                flags |= CommandFlag.PAYLOAD_LEN
            return _EXTENDED.pack(EXTENDED_REQUEST_MAGIC, flags, command, cookie, offset, length)
        return _COMPACT.pack(REQUEST_MAGIC, flags, command, cookie, offset, length)

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
        """The end: whoever waits learns of it."""
        if self._ended is None:
            self._ended = Disconnected("The connection to the NBD server ended.")
        self._changed.set()
        pending, self._pending = self._pending, {}
        for entry in [*pending.values(), *([self._sunk] if self._sunk else [])]:
            if not entry.done.done():
                entry.done.set_exception(self._ended)

    def _parse(self) -> None:
        try:
            while not self._sink and self._parse_one():
                pass
        except ProtocolError as error:
            self._ended = error
            self._wire.abort()

    def _parse_one(self) -> bool:
        """Take one reply or chunk out of the inbox; False when more bytes are needed."""
        inbox = self._inbox
        found = answers.parse_reply(inbox.buffer, inbox.start, inbox.end)
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
        if header.length > answers.CHUNK_BYTES_MAX:
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

    def _finish_simple(self, header: ReplyHeader, pending: _Pending, at: int) -> bool:
        self._inbox.start = at
        if header.errno:
            pending.error = _failure(header.errno, "")
        elif pending.buffer is not None:
            self._pour(pending.buffer)
        self._finish(header, pending)
        return True

    def _receive_data(self, header: ReplyHeader, pending: _Pending, at: int) -> bool:
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

    def _take_chunk(self, header: ReplyHeader, pending: _Pending, data: bytes) -> None:
        if header.kind & CHUNK_ERROR_BIT:
            pending.error = _failure(*answers.parse_error(data))
        elif header.kind in (Chunk.BLOCK_STATUS, Chunk.BLOCK_STATUS_EXT):
            number, extents = answers.parse_extents(data, header.kind == Chunk.BLOCK_STATUS_EXT)
            if number not in self.contexts:
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

    def _finish(self, header: ReplyHeader, pending: _Pending) -> None:
        """The last chunk ends the request, as soon as its data have come."""
        if not header.last:
            return
        del self._pending[header.cookie]
        if self._sink:
            self._sunk = pending
        else:
            _resolve(pending)


def _resolve(pending: _Pending) -> None:
    if pending.done.done():
        return
    if pending.error is not None:
        pending.done.set_exception(pending.error)
    else:
        pending.done.set_result(None)


def _failure(errno: int, said: str) -> ExportError:
    known = Errno(errno) if errno in set(Errno) else Errno.EINVAL
    return ExportError(f"nbd-{known.name.lower()}", said or f"The server answers {known.name}.", errno=known)


def _fua(fua: bool) -> int:
    return int(CommandFlag.FUA) if fua else 0


def _hostname(place: Place) -> str:
    """Whom the server's certificate must name."""
    return "localhost" if place.address.startswith("unix:") else place.address.rpartition(":")[0].strip("[]")


def _pieces(offset: int, length: int, longest: int) -> list[tuple[int, int]]:
    """(offset, length) pieces of a range."""
    end = offset + length
    return [(at, min(longest, end - at)) for at in range(offset, end, longest)] if length else []
