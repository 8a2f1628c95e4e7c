"""What made a copy differ when that was found, and was overwritten by clients before the copy was compared.

A copy says at which point its root was first not its source's: what clients changed up to there had held something
else before. That can't be found in the present any more, nor what they have overwritten since, but the moments in
between hold it. So each stretch between two points, from the one before the finding to the beginning of the
comparison, is looked at: the blocks that clients changed in it are compared as
of the point before it, by the digests that both sides keep. Those that differ are suspect up to the end of the
stretch. Where a point can't be opened any more, all that was changed behind it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, suppress
from itertools import pairwise
from typing import Final

from revolume.blocks.block_set import BlockSet
from revolume.blocks.geometry import BLOCK, ceil_div
from revolume.chain.point import Point
from revolume.errors import GaveWay, NotFound, Refused
from revolume.mirror.source.comparison import Comparison
from revolume.mirror.source.point_reader import ViewReader, open_point
from revolume.mirror.wire.comparison_messages import REGION_BLOCKS, SUMS_BLOCKS_MAX
from revolume.pace.pacer import Pacer
from revolume.resync.comparer import ComparedSoFar, Comparer
from revolume.resync.cuts import pin_of
from revolume.resync.history_marks import CAUSE
from revolume.resync.host_changes import HostChanges
from revolume.resync.region_scan import ROW_BYTES
from revolume.resync.scanner import NOTHING, Scanned
from revolume.resync.suspect_history import marks_before
from revolume.volume.livemap.reader import block_numbers
from revolume.volume.primary import Volume

UNKNOWN_CAUSE: Final = "it differed from its primary, in blocks of which it can't be told any more which ones"
STRETCHES_MAX: Final = 64
"""What comes behind so many is looked at as one."""


class OverwrittenFindings:
    """Of one primary and one copy of it, which has agreed on ``start``, and differs since the point ``found``."""

    def __init__(self, volume: Volume, copy: Comparison, pacer: Pacer, found: int, start: Point) -> None:
        self._volume = volume
        self._copy = copy
        self._pacer = pacer
        points = [point for point in volume.points() if point.number < start.number]
        first = max(0, sum(point.number < found for point in points) - 1)
        self._points = [*points[first : first + STRETCHES_MAX], start]

    async def mark(self) -> int:
        """How many blocks were found; their marks are durable at the copy. ConnectionError."""
        count = 0
        for earlier, later in pairwise(self._points):
            with suppress(GaveWay), closing(HostChanges(self._volume, earlier)) as changes:
                await changes.gather_upto(later)
                count += await self._mark(earlier, later, changes)
        return count

    async def _mark(self, earlier: Point, later: Point, changes: HostChanges) -> int:
        """What clients changed in a stretch, as far as it differed before; where either side can't open the
        point any more, all of it, which may be too much and is never too little."""
        try:
            found, cause = await self._differed(earlier, changes), CAUSE
            count = found.block_count()
        except (NotFound, GaveWay, Refused):
            found, cause, count = changes.among(changes.regions()), UNKNOWN_CAUSE, 0
        if len(found):
            await self._copy.mark(await marks_before(self._volume, found, earlier, cause, later.write))
        return count

    async def _differed(self, point: Point, changes: HostChanges) -> BlockSet:
        """Those of the changed blocks that differed at the point before."""
        pieces = list(_pieces(changes.regions().clip(0, ceil_div(self._volume.size_at(point.write), BLOCK))))
        if not pieces:
            return BlockSet()
        with closing(await open_point(self._volume, point)) as before:
            await self._copy.open(pin_of(point), True)
            try:
                found = await self._compared(before, pieces)
            finally:
                self._copy.end(pin_of(point))
        return changes.among(found.differing())

    async def _compared(self, before: ViewReader, pieces: list[tuple[int, int]]) -> ComparedSoFar:
        found = ComparedSoFar()
        comparer = Comparer(self._copy, found)
        for first, count in pieces:
            began_ns = await self._pacer.turn()
            with before.view.using():
                here = await before.digests(block_numbers(first, count))
            there = await self._copy.sums(first, count)
            await comparer.compare(Scanned(first, here, NOTHING, 0), there)
            self._pacer.sent(ROW_BYTES * (count // REGION_BLOCKS + 1), began_ns)
        return found


def _pieces(regions: BlockSet) -> Iterator[tuple[int, int]]:
    """(first block, blocks), none larger than can be asked for at once."""
    for start, end in zip(regions.starts.tolist(), regions.ends.tolist(), strict=True):
        for first in range(start, end, SUMS_BLOCKS_MAX):
            yield first, min(SUMS_BLOCKS_MAX, end - first)
