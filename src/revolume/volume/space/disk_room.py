"""Room on the disk for a fold: how much the image may grow by, and what becomes of the files that it frees."""

from __future__ import annotations

import asyncio

from revolume.blocks.geometry import BLOCK
from revolume.host.disk import Directory
from revolume.volume.open_log import OpenLog
from revolume.volume.space.copy_on_write import Cover
from revolume.volume.space.reserve import Reserve

SMALL_FILES = 64 << 10
FILES_MIN = 6
"""Segment files that stay whatever the disk lacks."""


class DiskRoom:
    """Of one volume's file system. ``busy`` is held by whoever may be using the reserve: a fold, a new base
    map."""

    def __init__(
        self, directory: Directory, log: OpenLog, reserve: Reserve, cover: Cover, busy: asyncio.Lock
    ) -> None:
        self._directory = directory
        self._log = log
        self._reserve = reserve
        self._cover = cover
        self._busy = busy

    @property
    def for_image(self) -> int:
        """How many bytes the image may grow by: what is free and what is kept back, less what digests take and
        what is left for the manifest, whatever happens."""
        room = self._directory.free_bytes() + self._reserve.held - self._reserve.slack
        return max(0, room - room // 64 - SMALL_FILES)

    async def make(self, image_bytes: int) -> None:
        """Empty the reserve if the image might need it to grow by so much."""
        if self._directory.free_bytes() < image_bytes + image_bytes // 64 + SMALL_FILES:
            await self._log.work.call(self._reserve.take)

    async def take(self) -> bool:
        """Empty the reserve; whether that gave anything."""
        return await self._log.work.call(self._reserve.take)

    async def refill(self) -> None:
        """Keep back again what was used of the reserve, as far as there is room. The caller holds ``busy``."""
        await self._log.work.call(self._reserve.fill)

    async def tend_reserve(self) -> None:
        """Refill the reserve once nobody holds ``busy``."""
        async with self._busy:
            await self.refill()

    async def freed(self, uses: dict[int, int]) -> None:
        """Segment files, each with use number 0, are free. They make up for what a fold took of the reserve, and
        are used again where nothing lacks."""
        reserve, pool, copies = self._reserve, self._log.pool, self._cover.copies
        lacks = reserve.missing + reserve.slack - self._directory.free_bytes()
        if copies:  # there a free file is no room
            lacks += 2 * pool.segment_blocks * BLOCK + self._log.commit.unsynced_bytes
        files = -(-lacks // (pool.segment_blocks * BLOCK)) if reserve.missing or copies else 0
        await self._log.repairs.over(list(uses))
        gone = list(uses)[: max(0, min(files, pool.files + len(uses) - FILES_MIN))]
        if gone:
            await self._log.work.call(pool.remove, gone)
        await self.refill()
        pool.release({index: 0 for index in uses if index not in gone})
