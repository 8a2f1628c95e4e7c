"""The copy's history made suspect, as far as the comparison has proved it, before anything is put right.

A block that differs was right when it was last written before the comparison began; from then on it may have been
wrong (``suspect_walk.py``). That holds for those that are to be put right, and for those that clients have
overwritten during the scan, if they differed at its beginning: what the copy had at that point is known, and so
is what the primary had then, which it keeps until the scan is over.
"""

from __future__ import annotations

from typing import Final

from revolume.blocks.block_set import BlockSet
from revolume.chain.point import Point
from revolume.errors import GaveWay, NotFound
from revolume.mirror.source.comparison import Comparison
from revolume.mirror.source.point_reader import open_point
from revolume.resync.comparer import ComparedSoFar
from revolume.resync.suspect_history import marks_before
from revolume.volume.primary import Volume
from revolume.volume.space.holder import HolderKind

CAUSE: Final = "it differed from its primary when it was verified"


class HistoryMarks:
    """Of one comparison, which begins at ``start``. ``close`` it."""

    def __init__(self, volume: Volume, copy: Comparison, start: Point) -> None:
        self._volume = volume
        self._copy = copy
        self._start = start
        self.close = volume.holders.lease(
            HolderKind.MIRROR, "verification", start.write, lambda: self.close(), pinned=True
        )

    async def mark(self, revised: BlockSet, found: ComparedSoFar, scan: BlockSet, end: Point) -> int:
        """``revised``: to be put right. ``scan``: blocks that clients changed up to ``end``, and that differed
        from the copy. How many of those had differed before. Durable at the copy when it returns.
        ConnectionError."""
        proved = await self._proved(found, scan)
        if len(revised):
            await self._copy.mark(await marks_before(self._volume, revised, self._start, CAUSE))
        if len(proved):
            await self._copy.mark(await marks_before(self._volume, proved, self._start, CAUSE, end.write))
        return proved.block_count()

    async def _proved(self, found: ComparedSoFar, scan: BlockSet) -> BlockSet:
        """Those that differed at the beginning. None, where the primary could not keep what it had then."""
        blocks, there = found.of(scan)
        if not len(blocks):
            return BlockSet()
        try:
            before = await open_point(self._volume, self._start)
        except (NotFound, GaveWay):
            return BlockSet()
        try:
            with before.view.using():
                here = await before.digests(blocks)
        except GaveWay:
            return BlockSet()
        finally:
            before.close()
        return BlockSet.of_blocks(blocks[here != there])
