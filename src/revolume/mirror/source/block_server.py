"""Blocks that a target asked for whole, read from the point that it named: WHOLE for NEED, one after the other.

The point stays open for a moment, because what is asked for comes in pieces.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

import numpy as np

from revolume.errors import NotFound
from revolume.host.disk import Buffer
from revolume.log.transfer import BLOCK
from revolume.mirror.counters import Counters
from revolume.mirror.frames import Broken, Type
from revolume.mirror.link import Link
from revolume.mirror.parts import Origin, PointReader
from revolume.mirror.rows import GONE, pack_whole, unpack_need

ASKED_MAX: Final = 16
KEEP_OPEN_SECONDS: Final = 2.0


class Answers:
    """See the module's text."""

    def __init__(self, link: Link, origin: Origin, counters: Counters) -> None:
        self._link = link
        self._origin = origin
        self._counters = counters
        self._asked: deque[tuple[int, list[int]]] = deque()
        self._news = asyncio.Event()
        self._answering: asyncio.Task[None] | None = None

    def asked(self, body: memoryview) -> None:
        """NEED."""
        if len(self._asked) >= ASKED_MAX:
            raise Broken("It asks for more blocks before it takes the ones that it asked for.")
        self._asked.append(unpack_need(body))
        self._news.set()
        if self._answering is None:
            self._answering = self._link.spawn(self._answer_all())

    async def _answer_all(self) -> None:
        try:
            while self._asked:
                await self._answer_point(self._asked[0][0])
        finally:
            self._answering = None

    async def _answer_point(self, number: int) -> None:
        """All requests for one point, until another is asked for or none has come for a while."""
        reader = await self._open(number)
        try:
            while self._asked and self._asked[0][0] == number:
                await self._answer(reader, number, self._asked[0][1])
                self._asked.popleft()
                if not self._asked:
                    await self._wait_a_moment()
        finally:
            if reader is not None:
                reader.close()

    async def _wait_a_moment(self) -> None:
        self._news.clear()
        bell = asyncio.ensure_future(self._link.host.clock.sleep(KEEP_OPEN_SECONDS))
        news = asyncio.ensure_future(self._news.wait())
        try:
            await asyncio.wait({bell, news}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            bell.cancel()
            news.cancel()

    async def _open(self, number: int) -> PointReader | None:
        point = self._origin.point(number)
        if point is None:
            return None
        try:
            return await self._origin.open_point(point)
        except NotFound:
            return None

    async def _answer(self, reader: PointReader | None, number: int, wanted: list[int]) -> None:
        none = np.zeros(0, np.uint64)
        if reader is None:
            self._link.send_rows(Type.WHOLE, pack_whole(number, none, none), [], flags=GONE)
            return
        blocks = np.array(wanted, np.uint64)
        digests = await reader.digests(blocks)
        filled = blocks[digests != 0]
        payload: list[Buffer] = [await reader.read(filled)] if len(filled) else []
        assert sum(map(len, payload)) == len(filled) * BLOCK
        size = self._link.send_rows(Type.WHOLE, pack_whole(number, blocks, digests), payload)
        self._counters.whole_bytes += size
