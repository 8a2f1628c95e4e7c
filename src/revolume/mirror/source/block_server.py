"""Blocks that a target asked for whole, read from the point that it named: BLOCKS for
REQUEST_BLOCKS, one after the other.

The point stays open for a moment, because what is asked for comes in pieces.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

import numpy as np

from revolume.blocks.geometry import BLOCK
from revolume.errors import NotFound
from revolume.host.disk import Buffer
from revolume.mirror.counters import Counters
from revolume.mirror.link import Link
from revolume.mirror.storage_protocols import PointReader, SourceVolume
from revolume.mirror.wire.block_messages import GONE, pack_blocks, unpack_block_request
from revolume.mirror.wire.frames import ProtocolError, Type

REQUESTS_MAX: Final = 16
KEEP_OPEN_SECONDS: Final = 2.0


class BlockServer:
    """Answers the requests of one link, in their order."""

    def __init__(self, link: Link, volume: SourceVolume, counters: Counters) -> None:
        self._link = link
        self._volume = volume
        self._counters = counters
        self._requests: deque[tuple[int, list[int]]] = deque()
        self._news = asyncio.Event()
        self._serving: asyncio.Task[None] | None = None

    def request(self, body: memoryview) -> None:
        """The body of a REQUEST_BLOCKS frame."""
        if len(self._requests) >= REQUESTS_MAX:
            raise ProtocolError("It asks for more blocks before it takes the ones that it asked for.")
        self._requests.append(unpack_block_request(body))
        self._news.set()
        if self._serving is None:
            self._serving = self._link.spawn(self._serve_all())

    async def _serve_all(self) -> None:
        try:
            while self._requests:
                await self._serve_point(self._requests[0][0])
        finally:
            self._serving = None

    async def _serve_point(self, number: int) -> None:
        """All requests for one point, until another is asked for or none has come for a while."""
        reader = await self._open(number)
        try:
            while self._requests and self._requests[0][0] == number:
                await self._serve(reader, number, self._requests[0][1])
                self._requests.popleft()
                if not self._requests:
                    await self._wait_for_another()
        finally:
            if reader is not None:
                reader.close()

    async def _wait_for_another(self) -> None:
        self._news.clear()
        bell = asyncio.ensure_future(self._link.host.clock.sleep(KEEP_OPEN_SECONDS))
        news = asyncio.ensure_future(self._news.wait())
        try:
            await asyncio.wait({bell, news}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            bell.cancel()
            news.cancel()

    async def _open(self, number: int) -> PointReader | None:
        point = self._volume.point(number)
        if point is None:
            return None
        try:
            return await self._volume.open_point(point)
        except NotFound:
            return None

    async def _serve(self, reader: PointReader | None, number: int, wanted: list[int]) -> None:
        none = np.zeros(0, np.uint64)
        if reader is None:
            self._link.send_with_payload(Type.BLOCKS, pack_blocks(number, none, none), [], flags=GONE)
            return
        blocks = np.array(wanted, np.uint64)
        digests = await reader.digests(blocks)
        filled = blocks[digests != 0]
        payload: list[Buffer] = [await reader.read(filled)] if len(filled) else []
        assert sum(map(len, payload)) == len(filled) * BLOCK
        size = self._link.send_with_payload(Type.BLOCKS, pack_blocks(number, blocks, digests), payload)
        self._counters.whole_bytes += size
