"""Segment files in which something is being put right: they are not used again before that has ended.

Whoever repairs a block of the log writes to a file by its place in it. If the segment were recycled meanwhile, the
same place would belong to another transfer. So the repair takes the segment while it still has its use number, and
the file stays out of circulation until the repair is over, whatever has become of the segment by then.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from revolume.blocks.numbers import Address
from revolume.log.format.segment import Segment
from revolume.log.write.segment_pool import SegmentPool


class SegmentRepairs:
    """Of one log. Everything here happens in the loop."""

    def __init__(self, pool: SegmentPool) -> None:
        self._pool = pool
        self._under_way: Counter[int] = Counter()
        self._ended = asyncio.Event()

    @contextmanager
    def repairing(self, address: Address) -> Iterator[Segment]:
        """The segment in which ``address`` lies. Its file gets no other use within the block. KeyError: the
        segment has been recycled, so nothing of that address is to be repaired any more."""
        segment = self._pool.segment_at(address)
        self._under_way[segment.index] += 1
        try:
            yield segment
        finally:
            self._under_way[segment.index] -= 1
            self._under_way += Counter()  # drops those at 0
            self._ended.set()

    async def over(self, indexes: list[int]) -> None:
        """Wait until none of these files, which no segment has any more, is being repaired."""
        while any(index in self._under_way for index in indexes):
            self._ended.clear()
            await self._ended.wait()
