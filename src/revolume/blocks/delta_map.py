"""The delta map: which blocks changed, where their newest versions lie, and what they hold.

What an interval changed, what a point's record means, what differs between two moments, a piece of a map file: all
of them are this one value, and what is done with them is its arithmetic: the newer over the older, only some
blocks, all but some, the union of what they name.

Two kinds of facts. An *entry* is one block with its location and digest. A *zero range* says that all blocks of
an interval read as zeroes, at the cost of one entry. **An entry wins over a zero range of the same map**, whatever
their addresses: whoever builds a map leaves out the entries that a newer range covers. (Addresses do not tell. A
point carries blocks as of its cut, and its record lies behind writes that are newer.) Between two maps, only the
caller knows which is newer; that is the operand order of ``over``.

A map in memory costs 24 bytes an entry. Where a map may be larger than memory, it comes as a stream of maps in
ascending order of blocks, without zero ranges, and ``merge`` works piece by piece.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

import numpy as np
import numpy.typing as npt
import xxhash

from revolume.blocks.block_location import ZERO, kinds
from revolume.blocks.block_set import BlockSet
from revolume.blocks.ordering import ascends, last_in_runs, last_of_each
from revolume.blocks.ranges import Ranges
from revolume.blocks.root import interval_digest

U64 = npt.NDArray[np.uint64]
Chosen = npt.NDArray[np.bool_] | npt.NDArray[np.int64] | slice
NOTHING = np.zeros(0, np.uint64)


class DeltaMap:
    """Changed blocks. Immutable: the columns are taken as they are, and never changed.

    ``blocks``: numbers of the entries, strictly ascending. ``locations``: where each lies, a location
    (``block_location.py``). ``digests``: of each (``digest.py``), 0 where it reads as zeroes. ``zeroes``: zero
    ranges, with the location that each was stated at.
    """

    __slots__ = ("blocks", "digests", "locations", "zeroes")

    def __init__(
        self, blocks: U64 = NOTHING, locations: U64 = NOTHING, digests: U64 = NOTHING, zeroes: Ranges | None = None
    ) -> None:
        self.blocks: Final = blocks
        self.locations: Final = locations
        self.digests: Final = digests
        self.zeroes: Final = Ranges() if zeroes is None else zeroes

    @classmethod
    def of(cls, blocks: U64, locations: U64, digests: U64, zeroes: Ranges | None = None) -> DeltaMap:
        """From entries in any order; of a block that stands there more than once, the last entry counts."""
        if not ascends(blocks):
            last = last_of_each(blocks)
            blocks, locations, digests = blocks[last], locations[last], digests[last]
        return cls(blocks, locations, digests, zeroes)

    @classmethod
    def joined(cls, pieces: Iterable[DeltaMap]) -> DeltaMap:
        """The entries of several maps; of a block that several name, that of the last counts. Zero ranges are not
        taken over."""
        parts = [cls(), *pieces]
        blocks = np.concatenate([part.blocks for part in parts])
        locations = np.concatenate([part.locations for part in parts])
        digests = np.concatenate([part.digests for part in parts])
        if not ascends(blocks):
            last = last_in_runs(blocks)
            blocks, locations, digests = blocks[last], locations[last], digests[last]
        return cls(blocks, locations, digests)

    def __len__(self) -> int:
        """Entries; zero ranges are not counted."""
        return len(self.blocks)

    def changed(self) -> BlockSet:
        """The set of all blocks that have an entry or lie in a zero range."""
        return BlockSet.of_blocks(self.blocks).union(self.zeroes.blocks())

    def zero_runs(self) -> BlockSet:
        """What was zeroed, by range or block by block: also where an entry wins over a range."""
        single = BlockSet.of_blocks(self.blocks[kinds(self.locations) == np.uint64(ZERO)])
        return self.zeroes.blocks().union(single)

    def interval_digest(self) -> int:
        """What proves two delta maps equal, wherever their blocks lie: over (block, digest) of the entries that
        are not zero, ascending, then over first blocks and lengths of the zero runs."""
        held = kinds(self.locations) != np.uint64(ZERO)
        return stated_digest(self.blocks[held], self.digests[held], self.zero_runs())

    # Some of it

    def entries(self, chosen: Chosen) -> DeltaMap:
        """Some entries, by mask, ascending indexes or slice, without the zero ranges."""
        return DeltaMap(self.blocks[chosen], self.locations[chosen], self.digests[chosen])

    def within(self, blocks: BlockSet) -> DeltaMap:
        """The map restricted to these blocks."""
        some = self.entries(blocks.contains(self.blocks))
        return some.with_zeroes(self.zeroes.within(blocks))

    def without(self, blocks: BlockSet) -> DeltaMap:
        """The map without these blocks."""
        some = self.entries(~blocks.contains(self.blocks))
        return some.with_zeroes(self.zeroes.without(blocks))

    def clip(self, start: int, end: int) -> DeltaMap:
        """The map restricted to the blocks [start, end)."""
        if start >= end:
            return DeltaMap()
        low, high = (int(self.blocks.searchsorted(np.uint64(bound))) for bound in (start, end))
        return self.entries(slice(low, high)).with_zeroes(Ranges(*self.zeroes.overlapping(start, end)))

    def with_zeroes(self, zeroes: Ranges) -> DeltaMap:
        """The same entries with other zero ranges."""
        return DeltaMap(self.blocks, self.locations, self.digests, zeroes)

    # Two of them

    def over(self, older: DeltaMap) -> DeltaMap:
        """This map merged over an older one: where both name a block, this one's version stands."""
        below = older.entries(slice(None))
        if len(self.zeroes):
            below = below.entries(self.zeroes.get(below.blocks) == 0)
        zeroes = older.zeroes.with_ranges(list(self.zeroes)) if len(self.zeroes) else older.zeroes
        if not len(below) or not len(self):
            return (self if len(self) else below).with_zeroes(zeroes)
        return DeltaMap.joined((below, self)).with_zeroes(zeroes)


def stated_digest(blocks: U64, digests: U64, zeroes: BlockSet) -> int:
    """``interval_digest`` of blocks that are not zero, ascending, and of zero runs as they are stated."""
    state = xxhash.xxh3_64(interval_digest(blocks, digests).to_bytes(8, "little"))
    for column in (zeroes.starts, zeroes.counts):
        state.update(np.ascontiguousarray(column, "<u8").data.cast("B"))
    return state.intdigest()


def merge(newer: Iterable[DeltaMap], older: Iterable[DeltaMap]) -> Iterator[DeltaMap]:
    """Two streams as one; of a block that both name, the newer stream's entry stands. Blocks ascend throughout
    each stream; zero ranges are not looked at."""
    above, below = _Stream(newer), _Stream(older)
    while above.more() and below.more():
        end = min(above.last, below.last)
        yield DeltaMap.joined((below.upto(end), above.upto(end)))
    for rest in (above, below):
        while rest.more():
            yield rest.upto(rest.last)


class _Stream:
    """Pieces in ascending order, taken up to a block."""

    def __init__(self, pieces: Iterable[DeltaMap]) -> None:
        self._pieces = iter(pieces)
        self._held = DeltaMap()

    def more(self) -> bool:
        while not len(self._held):
            following = next(self._pieces, None)
            if following is None:
                return False
            self._held = following
        return True

    @property
    def last(self) -> int:
        return int(self._held.blocks[-1])

    def upto(self, block: int) -> DeltaMap:
        at = int(self._held.blocks.searchsorted(np.uint64(block), "right"))
        taken, self._held = self._held.entries(slice(at)), self._held.entries(slice(at, None))
        return taken
