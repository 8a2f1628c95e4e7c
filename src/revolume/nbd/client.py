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

import ssl
import struct
from collections.abc import AsyncIterator, Sequence
from typing import Final

from revolume.host import Host
from revolume.nbd.client_connection import ClientConnection, Extents, Pending
from revolume.nbd.client_handshake import ClientHandshake
from revolume.nbd.wire.client_codec import ExportInfo
from revolume.nbd.wire.constants import (
    EXTENDED_REQUEST_MAGIC,
    REQUEST_MAGIC,
    Command,
    CommandFlag,
    Dialect,
    TransmissionFlag,
)
from revolume.nbd.wire.errors import Disconnected
from revolume.nbd.wire.uri import Place, parse_uri

_COMPACT: Final = struct.Struct(">IHHQQI")
_EXTENDED: Final = struct.Struct(">IHHQQQ")
_COMPACT_RANGE_MAX: Final = 1 << 31  # of zero, trim and status requests; a multiple of every block size

Buffer = bytes | bytearray | memoryview


class Client:
    """One connection to one export. Made by ``connect``. ``contexts``: the selected metadata contexts, by id."""

    def __init__(
        self, connection: ClientConnection, info: ExportInfo, dialect: Dialect, contexts: dict[int, str]
    ) -> None:
        self._connection = connection
        self.info = info
        self.dialect = dialect
        self.contexts = contexts

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
        connection = await _dial(host, place, tls, server_hostname)
        handshake = ClientHandshake(connection)
        try:
            agreed = await handshake.agree(dialect)
            selected = await handshake.select(place.name, contexts)
            info = await handshake.open(place.name)
        except BaseException:
            connection.wire.abort()
            raise
        connection.begin_transmission(selected)
        return cls(connection, info, agreed, selected)

    @classmethod
    async def list_exports(
        cls, host: Host, uri: str, *, tls: ssl.SSLContext | None = None, server_hostname: str | None = None
    ) -> list[tuple[str, str]]:
        """(name, description) of everything that the server shows."""
        connection = await _dial(host, parse_uri(uri), tls, server_hostname)
        try:
            return await ClientHandshake(connection).list_exports()
        finally:
            connection.wire.abort()

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
        """Discard the range: what it reads as afterwards is for the server to say."""
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
        end, joined = offset + length, (offset, 0, 0)
        while offset < end:
            for count, flags in (await self.block_status(offset, end - offset))[context]:
                part = min(count, end - offset)
                if flags == joined[2]:
                    joined = (joined[0], joined[1] + part, flags)
                else:
                    if joined[1]:
                        yield joined
                    joined = (offset, part, flags)
                offset += part
        if joined[1]:
            yield joined

    async def close(self) -> None:
        """Send DISC and end the connection. Requests that are not answered yet are answered first."""
        if self._connection.ended is None:
            self._connection.wire.send([self._header(Command.DISC, 0, 0, 0, 0)])
            await self._connection.wire.drain_and_close()

    def abort(self) -> None:
        """End the connection at once, without DISC."""
        self._connection.wire.abort()

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
    ) -> Pending:
        cookie = await self._connection.send_slot()
        request: list[bytes | memoryview] = [self._header(command, flags, cookie, offset, length)]
        if payload is not None:
            request.append(payload)
        return await self._connection.exchange(cookie, offset, request, buffer)

    def _header(self, command: Command, flags: int, cookie: int, offset: int, length: int) -> bytes:
        if self.dialect is Dialect.EXTENDED:
            if command is Command.WRITE:
                flags |= CommandFlag.PAYLOAD_LEN
            return _EXTENDED.pack(EXTENDED_REQUEST_MAGIC, flags, command, cookie, offset, length)
        return _COMPACT.pack(REQUEST_MAGIC, flags, command, cookie, offset, length)


async def _dial(
    host: Host, place: Place, tls: ssl.SSLContext | None, server_hostname: str | None
) -> ClientConnection:
    """A connection in the option phase, encrypted if the place or ``tls`` asks for it."""
    try:
        connection = ClientConnection(await host.network.connect(place.address))
    except OSError as error:
        raise Disconnected(f"{place.address} cannot be reached: {error.strerror or error}.") from error
    try:
        connection.wire.start(connection)
        handshake = ClientHandshake(connection)
        await handshake.greet()
        if place.tls or tls is not None:
            await handshake.secure(tls, server_hostname or _hostname(place))
    except BaseException:
        connection.wire.abort()
        raise
    return connection


def _fua(fua: bool) -> int:
    return int(CommandFlag.FUA) if fua else 0


def _hostname(place: Place) -> str:
    """Whom the server's certificate must name."""
    return "localhost" if place.address.startswith("unix:") else place.address.rpartition(":")[0].strip("[]")


def _pieces(offset: int, length: int, longest: int) -> list[tuple[int, int]]:
    """(offset, length) pieces of a range."""
    end = offset + length
    return [(at, min(longest, end - at)) for at in range(offset, end, longest)] if length else []
