"""A connection on which a test says exactly the bytes it wants, and hears exactly what comes back."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Iterable

from revolume.nbd.wire import options
from revolume.nbd.wire.constants import Info, Option, Reply

READ, WRITE, DISC, FLUSH, TRIM, CACHE, ZERO, STATUS = range(8)


class Raw:
    """See the module. Every wait has an end."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def dial(cls, path: str, greet: bool = True) -> Raw:
        raw = cls(*await asyncio.open_unix_connection(path, limit=1 << 27))
        if greet:
            assert await raw.take(18) == b"NBDMAGICIHAVEOPT\0\3"
            raw.say(struct.pack(">I", 3))
        return raw

    @classmethod
    async def open(cls, path: str, name: str = "vol", *, structured: bool = False) -> Raw:
        """Up to the transmission phase."""
        raw = await cls.dial(path)
        if structured:
            raw.say(options.request(Option.STRUCTURED_REPLY))
            assert await raw.answers() == [Reply.ACK]
        raw.say(options.export_request(Option.GO, name, [Info.BLOCK_SIZE]))
        assert await raw.answers() == [Reply.INFO, Reply.INFO, Reply.ACK]
        return raw

    def say(self, *data: bytes) -> None:
        self.writer.write(b"".join(data))

    async def take(self, count: int) -> bytes:
        async with asyncio.timeout(60):
            return await self.reader.readexactly(count)

    async def rest(self) -> bytes:
        """All until the server closes."""
        async with asyncio.timeout(60):
            try:
                return await self.reader.read(-1)
            except ConnectionError:
                return b""

    async def answer(self) -> tuple[Reply, bytes]:
        _, _, kind, length = options.OPTION_REPLY_HEADER.unpack(await self.take(20))
        return Reply(kind), await self.take(length)

    async def answers(self) -> list[Reply]:
        """The kinds of replies up to one that ends the answer."""
        kinds: list[Reply] = []
        while not kinds or kinds[-1] in (Reply.INFO, Reply.SERVER, Reply.META_CONTEXT):
            kinds.append((await self.answer())[0])
        return kinds

    async def simple(self, data: int = 0) -> tuple[int, int, bytes]:
        """One simple reply: cookie, errno, data."""
        magic, errno, cookie = struct.unpack(">IIQ", await self.take(16))
        assert magic == 0x67446698
        return cookie, errno, await self.take(data) if data and not errno else b""

    async def chunk(self) -> tuple[int, int, int, bytes]:
        """One structured chunk: cookie, flags, type, payload."""
        magic, flags, kind, cookie, length = struct.unpack(">IHHQI", await self.take(20))
        assert magic == 0x668E33EF
        return cookie, flags, kind, await self.take(length)

    async def errors(self, count: int) -> dict[int, int]:
        """The errnos of ``count`` simple replies without data, by cookie."""
        found = [await self.simple() for _ in range(count)]
        return {cookie: errno for cookie, errno, _ in found}

    def close(self) -> None:
        self.writer.close()


def request(
    command: int, cookie: int, offset: int = 0, length: int = 0, payload: bytes = b"", flags: int = 0
) -> bytes:
    return struct.pack(">IHHQQI", 0x25609513, flags, command, cookie, offset, length) + payload


def write(cookie: int, offset: int, payload: bytes, flags: int = 0) -> bytes:
    return request(WRITE, cookie, offset, len(payload), payload, flags)


def joined(parts: Iterable[bytes]) -> bytes:
    return b"".join(parts)
