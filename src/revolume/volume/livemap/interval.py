"""The open interval: what has changed since the last consistency point's cut.

An append-only journal of (block, word, digest), not a map: writing must cost an append, and who is newest
is only asked once, when the point is made. Beside it, what each block was at the last cut: its *old* word
and digest, taken from the live map at the block's first change (told by the address: older than the cut).
With both, the point's delta map and the running volume root follow without reading the volume.

Cutting is exchanging this object for a fresh one.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from revolume.blocks.ranges import Ranges
from revolume.blocks.word import ADDRESS_MASK

U64 = npt.NDArray[np.uint64]
AT_ONCE = ADDRESS_MASK
"""The ``begin`` of an interval that is applied as a whole, as a mirror does: whatever the map has is older."""
NOTHING = np.zeros(0, np.uint64)


def joined(parts: list[U64]) -> U64:
    """The parts as one array."""
    return np.concatenate(parts) if parts else NOTHING


def last_of_each(blocks: U64) -> npt.NDArray[np.int64]:
    """Indexes of the last occurrence of every block, in order of block."""
    order = np.argsort(blocks, kind="stable")
    ordered = blocks[order]
    last = np.ones(len(ordered), bool)
    last[:-1] = ordered[1:] != ordered[:-1]
    return order[last]


def first_of_each(blocks: U64) -> npt.NDArray[np.int64]:
    """Indexes of the first occurrence of every block, in order of block."""
    order = np.argsort(blocks, kind="stable")
    ordered = blocks[order]
    first = np.ones(len(ordered), bool)
    first[1:] = ordered[1:] != ordered[:-1]
    return order[first]


@dataclass(slots=True)
class Interval:
    """``begin``: address of the cut before; what the map says from there on is no old version. ``ranges_before``:
    the zero ranges as they stood at that cut."""

    begin: int
    ranges_before: Ranges
    count: int = 0
    blocks: list[U64] = field(default_factory=list)
    words: list[U64] = field(default_factory=list)
    digests: list[U64] = field(default_factory=list)
    ranges: list[tuple[int, int, int]] = field(default_factory=list)
    old_blocks: list[U64] = field(default_factory=list)
    old_words: list[U64] = field(default_factory=list)
    old_digests: list[U64] = field(default_factory=list)

    def changed(self, blocks: U64, words: U64, digests: U64) -> None:
        """These blocks were changed, in this order."""
        self.blocks.append(blocks)
        self.words.append(words)
        self.digests.append(digests)
        self.count += len(blocks)

    def was(self, blocks: U64, words: U64, digests: U64) -> None:
        """What these blocks were at the cut before."""
        if len(blocks):
            self.old_blocks.append(blocks)
            self.old_words.append(words)
            self.old_digests.append(digests)

    def followed_by(self, later: Interval) -> Interval:
        """This interval and the next as one: the point between them could not be made."""
        return Interval(
            self.begin,
            self.ranges_before,
            self.count + later.count,
            self.blocks + later.blocks,
            self.words + later.words,
            self.digests + later.digests,
            self.ranges + later.ranges,
            self.old_blocks + later.old_blocks,
            self.old_words + later.old_words,
            self.old_digests + later.old_digests,
        )

    @property
    def empty(self) -> bool:
        """Nothing has changed."""
        return not self.count and not self.ranges

    def newest(self) -> tuple[U64, U64, U64]:
        """The last word and digest of every block changed, sorted by block; ranges not considered."""
        blocks, words, digests = joined(self.blocks), joined(self.words), joined(self.digests)
        last = last_of_each(blocks)
        return blocks[last], words[last], digests[last]

    def olds(self) -> tuple[U64, U64, U64]:
        """What every block changed was at the cut before, sorted by block; word 0 where the live map
        had no entry of its own."""
        blocks, words, digests = joined(self.old_blocks), joined(self.old_words), joined(self.old_digests)
        first = first_of_each(blocks)
        return blocks[first], words[first], digests[first]
