"""A consistency point of a volume, opened for a mirror that needs blocks of it: the base, or some, whole."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import numpy as np
import numpy.typing as npt

from revolume.blocks.digest import LOST_DIGEST, ZERO_DIGEST, block_digests
from revolume.blocks.geometry import BLOCK
from revolume.chain.point import Point
from revolume.history.allocation import settled
from revolume.history.resolved_moment import ResolvedMoment
from revolume.history.views import View, open_view
from revolume.volume.livemap.reader import block_numbers
from revolume.volume.primary import Volume
from revolume.volume.space.holder import HolderKind

U64 = npt.NDArray[np.uint64]

STEP_BLOCKS: Final = 1 << 16
"""Blocks whose allocation is looked at in one go."""
AT_ONCE: Final = 1 << 12
"""Of them, between two turns of the loop."""
EMPTY_STEPS: Final = 256
"""So many of them are passed over in one go where nothing is."""


Look = Callable[[int], Awaitable[tuple[int, U64, U64]]]


class RowPages:
    """Rows of a volume of so many blocks, page by page. ``look`` gives, from a block on, all rows up to the
    block that comes with them; what it gave last is at hand."""

    def __init__(self, blocks: int, look: Look) -> None:
        self._blocks = blocks
        self._look = look
        self._looked = (0, 0, np.zeros(0, np.uint64), np.zeros(0, np.uint64))

    async def next_rows(self, first: int, count: int) -> tuple[U64, U64, int]:
        """At most ``count`` rows from block ``first`` on, and the block up to which that is all of them."""
        while first < self._blocks:
            behind, blocks, digests = await self._from(first)
            if len(blocks) > count:
                blocks, digests = blocks[:count], digests[:count]
                behind = int(blocks[-1]) + 1
            if len(blocks):
                return blocks, digests, behind
            first = behind
        return np.zeros(0, np.uint64), np.zeros(0, np.uint64), self._blocks

    async def count(self) -> int:
        """Of all rows that have content."""
        first, found = 0, 0
        while first < self._blocks:
            first, _, digests = await self._from(first)
            found += int(np.count_nonzero(digests))
        return found

    async def _from(self, first: int) -> tuple[int, U64, U64]:
        begin, behind, blocks, digests = self._looked
        if not begin <= first < behind:
            behind, blocks, digests = await self._look(first)
            self._looked = (first, behind, blocks, digests)
        at = int(np.searchsorted(blocks, np.uint64(first)))
        return behind, blocks[at:], digests[at:]


class ViewReader:
    """``storage_protocols.PointReader`` over a view."""

    def __init__(self, view: View) -> None:
        self.view = view
        self._work = view.volume.context.host.work
        self._sleep = view.volume.context.host.clock.sleep
        self._blocks = -(-view.size // BLOCK)
        self._pages = RowPages(self._blocks, self._filled_from)

    async def next_rows(self, first: int, count: int) -> tuple[U64, U64, int]:
        """At most ``count`` blocks from ``first`` on that hold anything, with their digests, and the block up to
        which that is all of them."""
        return await self._pages.next_rows(first, count)

    async def count(self) -> int:
        """Of the blocks that hold anything but zeroes."""
        return await self._pages.count()

    async def _filled_from(self, first: int) -> tuple[int, U64, U64]:
        """The blocks from ``first`` on that hold anything, up to the end of a stretch that is looked at once. A
        thread passes over stretches in which there is nothing: in a sparse volume they are nearly all."""
        first = await self._work.call(self._passed_over, first)
        behind = min(first + STEP_BLOCKS, self._blocks)
        looked = block_numbers(first, behind - first)
        found = await self.digests(looked)
        filled = np.flatnonzero(found)
        return behind, looked[filled], found[filled]

    def _passed_over(self, first: int) -> int:
        source, last = self.view.source, first + EMPTY_STEPS * STEP_BLOCKS
        while first + STEP_BLOCKS < min(last, self._blocks) and not source.may_hold(first, first + STEP_BLOCKS):
            first += STEP_BLOCKS
        return first

    async def digests(self, blocks: U64) -> U64:
        """Of these blocks; 0 for zeroes. Partially modified blocks have none yet: their content is at hand, or
        known to be lost."""
        parts = [await self._digests(blocks[:AT_ONCE])]
        for at in range(AT_ONCE, len(blocks), AT_ONCE):
            await self._sleep(0)
            parts.append(await self._digests(blocks[at : at + AT_ONCE]))
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    async def _digests(self, blocks: U64) -> U64:
        words, stored = await settled(self._work, self.view.source, blocks)
        digests = stored.copy()
        for at in np.flatnonzero((words != 0) & (digests == 0)).tolist():
            content = self.view.source.partial(int(blocks[at]))
            digests[at] = LOST_DIGEST if content is None else block_digests(memoryview(content), 1)[0]
        digests[digests == np.uint64(ZERO_DIGEST)] = 0
        return digests

    async def read(self, blocks: U64) -> memoryview:
        """Their content, one after the other, checked; lost ones read as zeroes."""
        whole = memoryview(bytearray(len(blocks) * BLOCK))
        digests = await self.digests(blocks)
        reads = _runs(blocks, digests, whole)
        for index in self.view.reader.read_now(reads):
            await self.view.reader.read(*reads[index])
        return whole

    def close(self) -> None:
        """Give up the view."""
        self.view.close()


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
    spot = ResolvedMoment(point.write, point.time_ns)
    return ViewReader(await open_view(volume, spot, f"reading cp{point.number}", HolderKind.MIRROR))
