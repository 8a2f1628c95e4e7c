"""The live volume as one NBD connection sees it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from revolume.blocks.numbers import Position, WriteNumber
from revolume.history.allocation import ALLOCATION, Bitmaps, ChangedSince, Extents, allocation
from revolume.volume.primary import Volume


class LiveExport:
    """The live volume as an NBD export, for one connection."""

    def __init__(self, volume: Volume, bitmaps: Bitmaps) -> None:
        self._volume = volume
        self._bitmaps = bitmaps
        self.name = volume.name
        self.description = f"{volume.name}, live"
        self.read_only = False
        self.multi_conn = True
        self.append = volume.append
        self.room = volume.room
        self.released = volume.released
        self.on_release = volume.on_release
        self.durable = volume.durable
        self.read_now = volume.read_now
        self.read = volume.read
        self.since: dict[str, ChangedSince] = {}

    @property
    def newest_write(self) -> WriteNumber:
        """The number of the last write that this export shows."""
        return self._volume.write

    @property
    def size(self) -> int:
        """The volume's present size in bytes."""
        return self._volume.size

    @property
    def position(self) -> Position:
        """The log position of the last transfer appended."""
        return self._volume.position

    async def extents(self, context: str, offset: int, length: int) -> Extents:
        """Extents (bytes, flags) of a metadata context: what is allocated, or what changed since a moment."""
        if context == ALLOCATION:
            return await allocation(self._volume.log.work, self._volume.live, offset, length, self.size)
        return await self._bitmaps.changed(self, context, self._volume.live, offset, length)

    async def cache(self, offset: int, length: int) -> None:
        """Read the range once, so that the kernel's page cache has it (NBD_CMD_CACHE)."""
        await fill_page_cache(self._volume.read, offset, length)

    def close(self, said_goodbye: bool = False) -> None:
        """Do nothing: a connection to the live volume holds no resources."""


async def fill_page_cache(read: Callable[[int, memoryview], object], offset: int, length: int) -> None:
    """Read a range of bytes, in pieces of 1 MiB, and drop the content."""
    step = 1 << 20
    for at in range(offset, offset + length, step):
        buffer = memoryview(bytearray(min(step, offset + length - at)))
        result = read(at, buffer)
        assert asyncio.iscoroutine(result)
        await result
