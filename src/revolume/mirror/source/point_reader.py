"""A consistency point of a volume, opened for a mirror that needs blocks of it: the base, or some, whole."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from revolume.blocks.digest import LOST_DIGEST, ZERO_DIGEST, block_digests
from revolume.chain.point import Point
from revolume.history.allocation import settled
from revolume.history.timeline import Spot
from revolume.history.views import View, open_view
from revolume.log.transfer import BLOCK
from revolume.volume.holding import HoldKind
from revolume.volume.reader import block_numbers
from revolume.volume.volume import Volume

U64 = npt.NDArray[np.uint64]

STEP_BLOCKS: Final = 1 << 16
"""Blocks whose allocation is looked at in one go."""


class ViewReader:
    """``parts.PointReader`` over a view."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._work = view.volume.core.host.work
        self._blocks = -(-view.size // BLOCK)
        self._looked = (0, 0, np.zeros(0, np.uint64), np.zeros(0, np.uint64))

    async def next_rows(self, first: int, count: int) -> tuple[U64, U64, int]:
        """See ``parts.PointReader``."""
        while first < self._blocks:
            behind, blocks, digests = await self._filled_from(first)
            if len(blocks) > count:
                blocks, digests = blocks[:count], digests[:count]
                behind = int(blocks[-1]) + 1
            if len(blocks):
                return blocks, digests, behind
            first = behind
        return np.zeros(0, np.uint64), np.zeros(0, np.uint64), self._blocks

    async def count(self) -> int:
        """See ``parts.PointReader``."""
        first, found = 0, 0
        while first < self._blocks:
            first, blocks, _ = await self._filled_from(first)
            found += len(blocks)
        return found

    async def _filled_from(self, first: int) -> tuple[int, U64, U64]:
        """The blocks from ``first`` on that hold anything, up to the end of a stretch that is looked at once."""
        begin, behind, blocks, digests = self._looked
        if not begin <= first < behind:
            behind = min(first + STEP_BLOCKS, self._blocks)
            looked = block_numbers(first, behind - first)
            found = await self.digests(looked)
            filled = np.flatnonzero(found)
            blocks, digests = looked[filled], found[filled]
            self._looked = (first, behind, blocks, digests)
        at = int(np.searchsorted(blocks, np.uint64(first)))
        return behind, blocks[at:], digests[at:]

    async def digests(self, blocks: U64) -> U64:
        """See ``parts.PointReader``. Partially modified blocks have none yet: their content is at hand, or known
        to be lost."""
        words, stored = await settled(self._work, self._view.source, blocks)
        digests = stored.copy()
        for at in np.flatnonzero((words != 0) & (digests == 0)).tolist():
            content = self._view.source.partial(int(blocks[at]))
            digests[at] = LOST_DIGEST if content is None else block_digests(memoryview(content), 1)[0]
        digests[digests == np.uint64(ZERO_DIGEST)] = 0
        return digests

    async def read(self, blocks: U64) -> memoryview:
        """See ``parts.PointReader``."""
        whole = memoryview(bytearray(len(blocks) * BLOCK))
        digests = await self.digests(blocks)
        reads = _runs(blocks, digests, whole)
        for index in self._view.reader.read_now(reads):
            await self._view.reader.read(*reads[index])
        return whole

    def close(self) -> None:
        """Give up the view."""
        self._view.close()


def _runs(blocks: U64, digests: U64, whole: memoryview) -> list[tuple[int, memoryview]]:
    """(offset in the volume, where it goes) for each run of blocks that have content to be read."""
    kept = np.flatnonzero(digests != np.uint64(LOST_DIGEST))
    if not len(kept):
        return []
    apart = np.flatnonzero((np.diff(kept) != 1) | (np.diff(blocks[kept].astype(np.int64)) != 1)) + 1
    return [
        (int(blocks[run[0]]) * BLOCK, whole[int(run[0]) * BLOCK : (int(run[-1]) + 1) * BLOCK])
        for run in np.split(kept, apart)
    ]


async def open_point(volume: Volume, point: Point) -> ViewReader:
    """NotFound: it is not retained any more."""
    spot = Spot(point.write, point.time_ns)
    return ViewReader(await open_view(volume, spot, f"mirror reading cp{point.number}", HoldKind.MIRROR))
