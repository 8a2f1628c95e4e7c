"""Some regions compared: the primary as it is now, with the copy as of a point.

Sums first, one for each region; where they differ, the digests of that region's blocks. A block of which either
side says that its content is not what was written is no difference: its own side heals it, and its digest says
what it is to be.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from revolume.blocks.block_set import BlockSet
from revolume.blocks.root import EMPTY, Root
from revolume.mirror.target.comparison import region_sums
from revolume.mirror.wire.comparison_messages import REGION_BLOCKS, Compared
from revolume.resync.scanner import Scanned

U64 = npt.NDArray[np.uint64]
_MOD = (1 << 64) - 1


class Copy(Protocol):
    """The mirror's copy, as far as it can be asked (``mirror/source/comparison.py``)."""

    async def sums(self, first: int, blocks: int) -> Compared: ...

    async def digests(self, first: int, blocks: int) -> Compared: ...


@dataclass(slots=True)
class ComparedSoFar:
    """What has come of comparing some regions. ``differ``: blocks, ascending throughout, and ``digests`` those of
    the copy at its point. ``damaged_here`` and
    ``damaged_there``: blocks that were not what their digests say. ``copy_sum``: over all that was asked of the
    copy, the volume root's own sum."""

    differ: list[U64] = field(default_factory=list)
    digests: list[U64] = field(default_factory=list)
    damaged_here: list[U64] = field(default_factory=list)
    damaged_there: list[U64] = field(default_factory=list)
    read_here: int = 0
    read_there: int = 0
    regions_differ: int = 0
    copy_sum: Root = EMPTY

    def differing(self) -> BlockSet:
        """All blocks that differ."""
        return BlockSet.of_blocks(np.concatenate([np.zeros(0, np.uint64), *self.differ]))

    def of(self, blocks: BlockSet) -> tuple[U64, U64]:
        """Those of the blocks that differ which are in a set, ascending, and the copy's digests of them."""
        differ = np.concatenate([np.zeros(0, np.uint64), *self.differ])
        digests = np.concatenate([np.zeros(0, np.uint64), *self.digests])
        chosen = blocks.contains(differ)
        return differ[chosen], digests[chosen]

    def damaged(self) -> U64:
        """Of both sides, ascending."""
        return np.unique(np.concatenate([np.zeros(0, np.uint64), *self.damaged_here, *self.damaged_there]))


class Comparer:
    """Compares with one ``copy``; what is found is gathered in ``found``."""

    def __init__(self, copy: Copy, found: ComparedSoFar) -> None:
        self._copy = copy
        self._found = found

    async def compare(self, here: Scanned, there: Compared) -> None:
        """What was scanned here, with the sums of the same regions there."""
        found = self._found
        found.read_here += here.read_bytes
        found.read_there += there.read_bytes
        found.copy_sum = sum_of((found.copy_sum, *there.sums))
        if len(here.damaged):
            found.damaged_here.append(here.damaged)
        if len(there.damaged):
            found.damaged_there.append(there.damaged)
        for index, (own, other) in enumerate(zip(region_sums(here.first, here.digests), there.sums, strict=True)):
            if own != other:
                await self._blocks_of(here, index)

    async def _blocks_of(self, here: Scanned, index: int) -> None:
        begin = index * REGION_BLOCKS
        own = here.digests[begin : begin + REGION_BLOCKS]
        there = await self._copy.digests(here.first + begin, len(own))
        self._found.read_there += there.read_bytes
        differ = np.flatnonzero(own != there.digests).astype(np.uint64) + np.uint64(here.first + begin)
        differ = differ[~np.isin(differ, np.concatenate([here.damaged, there.damaged]))]
        if len(differ):
            self._found.regions_differ += 1
            self._found.differ.append(differ)
            self._found.digests.append(there.digests[(differ - np.uint64(here.first + begin)).astype(np.int64)])


def sum_of(sums: Iterable[Root]) -> Root:
    """Of several, in either lane."""
    low, high = zip(*sums, strict=True)
    return sum(low) & _MOD, sum(high) & _MOD
