"""Large facts: "all of [start, end) reads as zeroes since this address", one entry however large.

A trim of a terabyte is one range, not 268 million words. Ranges are sorted and never overlap: a newer one
takes over what it covers and leaves what it does not of the older ones, so a lookup is one binary search.

The value is immutable: a change returns another one. Whoever remembers how the ranges stood at a cut keeps
a reference. A change costs a copy of three small arrays, so many at once go through ``with_ranges``; a
lookup costs O(log n).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from revolume.blocks.block_location import ADDRESS_MASK
from revolume.blocks.block_set import BlockSet
from revolume.blocks.extents import complement, overlaps
from revolume.blocks.numbers import Address

U64 = npt.NDArray[np.uint64]

_NOTHING = np.zeros(0, np.uint64)
_MASK = np.uint64(ADDRESS_MASK)


class Ranges:
    """Zero ranges: sorted, disjoint [start, end) of block numbers (uint64), each with the location at which it was
    stated. Immutable."""

    __slots__ = ("_ends", "_starts", "_words")

    def __init__(self, starts: U64 = _NOTHING, ends: U64 = _NOTHING, words: U64 = _NOTHING) -> None:
        """The arrays are taken as they are: sorted, not overlapping, not empty, not changed later."""
        self._starts = starts
        self._ends = ends
        self._words = words

    def __len__(self) -> int:
        return len(self._starts)

    def __iter__(self) -> Iterator[tuple[int, int, int]]:
        return zip(self._starts.tolist(), self._ends.tolist(), self._words.tolist(), strict=True)

    def with_range(self, start: int, end: int, word: int) -> Ranges:
        """The ranges after [start, end) got this word; what older ones say there is gone."""
        if start >= end:
            return self
        key = np.uint64(start), np.uint64(end)
        low = int(self._ends.searchsorted(key[0], "right"))  # the first that ends behind start
        high = int(self._starts.searchsorted(key[1], "left"))  # behind the last that begins before end
        pieces = [(start, end, word)]
        if low < high:
            if (begin := int(self._starts[low])) < start:
                pieces.insert(0, (begin, start, int(self._words[low])))
            if (stop := int(self._ends[high - 1])) > end:
                pieces.append((end, stop, int(self._words[high - 1])))
        middle = np.array(pieces, np.uint64)
        columns = self._starts, self._ends, self._words
        return Ranges(*(_spliced(old, low, high, middle[:, at]) for at, old in enumerate(columns)))

    def with_ranges(self, ranges: list[tuple[int, int, int]]) -> Ranges:
        """The ranges after each of these, in this order: each takes over what it covers."""
        if len(ranges) < 8:
            result = self
            for start, end, word in ranges:
                result = result.with_range(start, end, word)
            return result
        return self._repainted([one for one in ranges if one[0] < one[1]])

    def without_below(self, address: Address) -> Ranges:
        """The ranges whose location's address is not below ``address``."""
        keep = (self._words & _MASK) >= np.uint64(address)
        if keep.all():
            return self
        return Ranges(self._starts[keep], self._ends[keep], self._words[keep])

    def blocks(self) -> BlockSet:
        """All blocks under a range."""
        return BlockSet.of_intervals(self._starts, self._ends)

    def within(self, blocks: BlockSet) -> Ranges:
        """The ranges, clipped to these blocks."""
        return self._overlapping(blocks.starts, blocks.ends)

    def without(self, blocks: BlockSet) -> Ranges:
        """The ranges, with these blocks cut out."""
        return self._overlapping(*complement(blocks.starts, blocks.ends)) if len(self) and len(blocks) else self

    def _overlapping(self, starts: U64, ends: U64) -> Ranges:
        begins, stops, index = overlaps(self._starts, self._ends, starts, ends)
        return Ranges(begins, stops, self._words[index])

    def get(self, blocks: U64) -> U64:
        """The location of the range over each block (uint64, in the order of ``blocks``); 0 where there is
        none."""
        if not len(self._starts):
            return np.zeros(len(blocks), np.uint64)
        at = self._ends.searchsorted(blocks, "right")  # the first that ends behind the block
        inside = at < len(self._starts)
        at[~inside] = 0
        inside &= self._starts[at] <= blocks
        return np.where(inside, self._words[at], np.uint64(0))

    def overlapping(self, start: int, end: int) -> tuple[U64, U64, U64]:
        """(starts, ends, words) of what lies in [start, end), clipped to it."""
        if start >= end:
            return _NOTHING, _NOTHING, _NOTHING
        first, last = np.uint64(start), np.uint64(end)
        low = int(self._ends.searchsorted(first, "right"))
        high = int(self._starts.searchsorted(last, "left"))
        found = slice(low, max(low, high))
        return np.maximum(self._starts[found], first), np.minimum(self._ends[found], last), self._words[found]

    def arrays(self) -> tuple[U64, U64, U64]:
        """(starts, ends, locations): uint64 arrays that must not be changed."""
        return self._starts, self._ends, self._words

    def _repainted(self, ranges: list[tuple[int, int, int]]) -> Ranges:
        """``with_ranges`` for many: between neighbouring bounds of all there is one word, so it is painted
        there, old before new, and neighbours of one word are joined again."""
        starts, ends, words = np.array(ranges, np.uint64).reshape(-1, 3).T
        bounds = np.unique(np.concatenate((self._starts, self._ends, starts, ends)))
        paint = self.get(bounds)
        low, high = bounds.searchsorted(starts).tolist(), bounds.searchsorted(ends).tolist()
        for begin, end, word in zip(low, high, words, strict=True):
            paint[begin:end] = word
        change = np.ones(len(paint), bool)
        change[1:] = paint[1:] != paint[:-1]
        edges, painted = bounds[change], paint[change]
        used = np.flatnonzero(painted)
        return Ranges(edges[used], edges[used + 1], painted[used])


def _spliced(old: U64, low: int, high: int, middle: U64) -> U64:
    return np.concatenate((old[:low], middle, old[high:]))
