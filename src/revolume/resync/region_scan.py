"""Regions compared one after the other, at the pace of the node's bulk.

Both sides look at the same regions at the same time. Where much is read, as few regions go at once as may be, so
that clients wait for one of them at most; where nothing is, many.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final

from revolume.blocks.geometry import BLOCK
from revolume.mirror.source.comparison import Comparison
from revolume.mirror.wire.comparison_messages import REGION_BLOCKS, SUMS_BLOCKS_MAX
from revolume.pace.pacer import Pacer
from revolume.resync.comparer import ComparedSoFar, Comparer
from revolume.resync.scanner import LiveScanner
from revolume.volume.primary import Volume

ROW_BYTES: Final = 64
"""What a region costs the link, about."""


class RegionScan:
    """Of one primary and one copy, which holds a point open. What is found is gathered in ``found``."""

    def __init__(self, volume: Volume, copy: Comparison, quick: bool, pacer: Pacer) -> None:
        self.found = ComparedSoFar()
        self._copy = copy
        self._pacer = pacer
        self._scanner = LiveScanner(volume, quick)
        self._comparer = Comparer(copy, self.found)
        self._most = SUMS_BLOCKS_MAX if quick else REGION_BLOCKS

    async def run(self, first: int, count: int) -> AsyncIterator[int]:
        """Compare ``count`` blocks from ``first`` on, where a region begins; yields how many blocks were compared,
        piece by piece. ConnectionError."""
        end = first + count
        while first < end:
            size = min(self._most, end - first)
            began_ns = await self._pacer.turn()
            before = self.found.read_here, self.found.read_there
            here, there = await asyncio.gather(self._scanner.scan(first, size), self._copy.sums(first, size))
            await self._comparer.compare(here, there)
            read = max(self.found.read_here - before[0], self.found.read_there - before[1])
            self._pacer.sent(read or ROW_BYTES * (size // REGION_BLOCKS + 1), began_ns)
            self._pace(size, read)
            first += size
            yield size

    def _pace(self, size: int, read: int) -> None:
        """Larger pieces where little had to be read, smaller ones where much had."""
        if read * 8 <= size * BLOCK:
            self._most = min(SUMS_BLOCKS_MAX, self._most * 2)
        else:
            self._most = REGION_BLOCKS
