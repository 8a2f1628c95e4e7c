"""A set of blocks, as runs: zero runs of a point, regions to be compared, blocks that differ.

A block set says *which* blocks, and nothing of them; a delta map (``delta_map.py``) also says where they lie and
what they hold. A set costs two numbers a run, however long the run is: all blocks of a terabyte are one run.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from revolume.blocks.extents import complement, contiguous, merged_intervals, numbers_in, overlaps

U64 = npt.NDArray[np.uint64]
NOTHING = np.zeros(0, np.uint64)


class BlockSet:
    """Block numbers as runs [start, end): sorted, not empty, not touching each other. Immutable: the columns are
    taken as they are, and never changed."""

    __slots__ = ("ends", "starts")

    def __init__(self, starts: U64 = NOTHING, ends: U64 = NOTHING) -> None:
        self.starts: Final = starts
        self.ends: Final = ends

    @classmethod
    def of_intervals(cls, starts: U64, ends: U64) -> BlockSet:
        """From intervals in any order, empty and overlapping ones among them."""
        return cls(*merged_intervals(starts, ends))

    @classmethod
    def of_blocks(cls, blocks: U64) -> BlockSet:
        """From block numbers that ascend strictly."""
        _, counts, firsts = contiguous(blocks)
        return cls(firsts, firsts + counts.astype(np.uint64))

    @property
    def counts(self) -> U64:
        """The number of blocks in each run."""
        return self.ends - self.starts

    def block_count(self) -> int:
        """The number of blocks in all runs."""
        return int(self.counts.sum())

    def __len__(self) -> int:
        """Runs."""
        return len(self.starts)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, BlockSet):
            return NotImplemented
        return np.array_equal(self.starts, other.starts) and np.array_equal(self.ends, other.ends)

    __hash__ = None  # type: ignore[assignment]

    def blocks(self) -> U64:
        """Every block number, ascending: 8 bytes for each."""
        return numbers_in(self.starts, self.ends)

    def contains(self, blocks: U64) -> npt.NDArray[np.bool_]:
        """A mask (bool, one for each of ``blocks``, which may be in any order): which are in the set."""
        at = self.starts.searchsorted(blocks, "right")  # behind the last run that begins at or before the block
        found = at > 0
        if len(self.starts):
            found &= blocks < self.ends[np.maximum(at, 1) - 1]
        return found

    def union(self, other: BlockSet) -> BlockSet:
        """The blocks that are in either set."""
        return BlockSet.of_intervals(
            np.concatenate((self.starts, other.starts)), np.concatenate((self.ends, other.ends))
        )

    def intersection(self, other: BlockSet) -> BlockSet:
        """The blocks that are in both sets."""
        return BlockSet(*overlaps(self.starts, self.ends, other.starts, other.ends)[:2])

    def difference(self, other: BlockSet) -> BlockSet:
        """The blocks of this set that are not in the other."""
        return BlockSet(*overlaps(self.starts, self.ends, *complement(other.starts, other.ends))[:2])

    def clip(self, start: int, end: int) -> BlockSet:
        """The blocks of this set that lie in [start, end)."""
        return self.intersection(BlockSet.of_intervals(np.array([start], np.uint64), np.array([end], np.uint64)))
