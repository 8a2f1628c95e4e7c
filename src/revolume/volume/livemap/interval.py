"""The open interval: what has changed since the last consistency point's cut.

An append-only journal of (block, word, digest), not a map: writing must cost an append, and which is the newest
is only asked once, when the point is made: then ``delta_map`` makes a delta map of it. Beside it, what each block
was at the last cut: its *old* word and digest, taken from the live map at the block's first change (told by the
address: older than the cut). With both, the point's delta map and the running volume root follow without reading
the volume.

Cutting is exchanging this object for a fresh one.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from revolume.blocks.block_location import ADDRESS_MASK, addresses
from revolume.blocks.delta_map import DeltaMap
from revolume.blocks.numbers import Address
from revolume.blocks.ordering import distinct, first_of_each
from revolume.blocks.ranges import Ranges

U64 = npt.NDArray[np.uint64]
AT_ONCE = Address(ADDRESS_MASK)
"""The ``begin`` of an interval that is applied as a whole, as a mirror does: whatever the map has is older."""
NOTHING = np.zeros(0, np.uint64)


def joined(parts: list[U64]) -> U64:
    """The parts as one array."""
    return np.concatenate(parts) if parts else NOTHING


@dataclass(slots=True)
class Interval:
    """``begin``: address of the cut before; what the map says from there on is no old version. ``ranges_before``:
    the zero ranges as they stood at that cut."""

    begin: Address
    ranges_before: Ranges
    count: int = 0
    blocks: list[U64] = field(default_factory=list)
    words: list[U64] = field(default_factory=list)
    digests: list[U64] = field(default_factory=list)
    ranges: list[tuple[int, int, int]] = field(default_factory=list)
    old_blocks: list[U64] = field(default_factory=list)
    old_words: list[U64] = field(default_factory=list)
    old_digests: list[U64] = field(default_factory=list)

    def note_changed(self, blocks: U64, words: U64, digests: U64) -> None:
        """These blocks were changed, in this order."""
        self.blocks.append(blocks)
        self.words.append(words)
        self.digests.append(digests)
        self.count += len(blocks)

    def note_old(self, blocks: U64, words: U64, digests: U64) -> None:
        """What these blocks were at the cut before: of each the first note counts. Word 0 where the live map had
        no entry of its own."""
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

    def delta_map(self) -> DeltaMap:
        """What has changed: the last word and digest of every block, where no newer range covers it, and the
        ranges."""
        found = DeltaMap.of(joined(self.blocks), joined(self.words), joined(self.digests))
        zeroes = self.zero_ranges()
        if len(zeroes):
            found = found.entries(addresses(found.locations) >= addresses(zeroes.get(found.blocks)))
        return found.with_zeroes(zeroes)

    def old_values(self) -> DeltaMap:
        """What the blocks of which it was noted were at the cut before; location 0 where the live map had no entry
        of its own."""
        blocks = joined(self.old_blocks)
        first = first_of_each(blocks)
        return DeltaMap(blocks[first], joined(self.old_words)[first], joined(self.old_digests)[first])

    def changed_blocks(self) -> U64:
        """Blocks changed one by one, ascending; also those that a range has covered since."""
        return distinct(joined(self.blocks))

    def zero_ranges(self) -> Ranges:
        """The ranges zeroed, the newest on top."""
        return Ranges().with_ranges(self.ranges)
