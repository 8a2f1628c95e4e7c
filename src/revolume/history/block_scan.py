"""What is stored of some blocks: their digests, and whether their content has them.

The source is the live volume or a view. The live one may change meanwhile: what is said of a block is what it was
at some instant in between.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from revolume.blocks.digest import LOST_DIGEST, ZERO_DIGEST, block_digests
from revolume.blocks.extents import contiguous
from revolume.blocks.geometry import BLOCK
from revolume.errors import Damaged
from revolume.history.allocation import settled
from revolume.host.work import Work
from revolume.volume.livemap.reader import Reader, Source

U64 = npt.NDArray[np.uint64]
RUN_BLOCKS = 256
"""Read and checked in one go."""


class BlockScan:
    """Of one source, with the ``reader`` that reads it."""

    def __init__(self, work: Work, source: Source, reader: Reader) -> None:
        self._work = work
        self._source = source
        self._reader = reader

    async def digests(self, blocks: U64) -> U64:
        """Of these blocks (uint64); 0 where one reads as zeroes, ``LOST_DIGEST`` where nobody can tell its
        content. No content is read, but of blocks that were modified in part and have no digest yet."""
        words, stored = await settled(self._work, self._source, blocks)
        found = stored.copy()
        for at in np.flatnonzero((words != 0) & (found == 0)).tolist():
            content = await self._partial(int(blocks[at]))
            found[at] = LOST_DIGEST if content is None else block_digests(memoryview(content), 1)[0]
        found[found == np.uint64(ZERO_DIGEST)] = 0
        return found

    async def _partial(self, block: int) -> bytes | bytearray | None:
        content = self._source.partial(block)
        if content is None:
            try:
                await self._source.merge_partial(block, self._reader.read_version)
            except Damaged:
                return None
            content = self._source.partial(block)
        return content

    async def damaged(self, blocks: U64, digests: U64) -> tuple[U64, int]:
        """Read those of the ``blocks``, ascending, that have content by their ``digests``: the blocks that can't
        be read as they were written, ascending, and how many bytes were read."""
        held = blocks[(digests != 0) & (digests != np.uint64(LOST_DIGEST))]
        bad: list[int] = []
        for first, count in _runs(held):
            bad += await self._unreadable(first, count)
        return np.array(bad, np.uint64), len(held) * BLOCK

    async def _unreadable(self, first: int, count: int) -> list[int]:
        try:
            await self._reader.read(first * BLOCK, memoryview(bytearray(count * BLOCK)))
            return []
        except Damaged:
            if count == 1:
                return [first]
        return [block for each in range(count) for block in await self._unreadable(first + each, 1)]


def _runs(blocks: U64) -> Iterator[tuple[int, int]]:
    _, counts, firsts = contiguous(blocks)
    for first, count in zip(firsts.tolist(), counts.tolist(), strict=True):
        for at in range(0, count, RUN_BLOCKS):
            yield first + at, min(RUN_BLOCKS, count - at)


async def read_blocks(reader: Reader, blocks: U64, size: int) -> memoryview:
    """The content of these blocks (uint64, ascending) of a volume of ``size`` bytes, one after the other; zeroes
    behind its end. Damaged: of one of them it is not what was written."""
    whole = memoryview(bytearray(len(blocks) * BLOCK))
    at = 0
    for first, count in _runs(blocks):
        length = max(0, min(count * BLOCK, size - first * BLOCK))
        if length:
            await reader.read(first * BLOCK, whole[at : at + length])
        at += count * BLOCK
    return whole
