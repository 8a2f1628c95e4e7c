"""The live map: where the newest version of every block lies, at any size, in bounded memory.

Three layers, newest first:

    overlay, ranges   in memory: what changed since the base map was made
    base map          an immutable sorted file (``chain/map_file.py``), paged
    image sums        the digest of every block in the image; 0 = the block is zero

Addresses only grow, so moving the horizon or the base map rewrites nothing: what an entry below ``folded``
says *is* in the image, and below the base map's cut it is in the base map as well, so the overlay may forget
such entries whenever it likes. (An entry below ``folded`` that is still there counts as forgotten: the zero
range that may have covered it is gone.)

Writing only appends to a few lists (``note``); ``absorb`` turns thousands of notes into one vectorised
update, at the latest when somebody reads. Nothing here waits: ``settle`` with ``nowait`` says False where a
page would have to come from the disk, and is then called again in a thread.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from revolume.blocks.block_location import ADDRESS_MASK, DATA, DATA_WORD, PARTIAL_WORD, ZERO, ZERO_WORD, kinds
from revolume.blocks.extents import index_within
from revolume.blocks.numbers import Address
from revolume.blocks.overlay import Overlay
from revolume.blocks.ranges import Ranges
from revolume.chain.map_file import MapFile
from revolume.volume.image.block_digests import BlockDigests
from revolume.volume.livemap.interval import Interval

U64 = npt.NDArray[np.uint64]
MASK = np.uint64(ADDRESS_MASK)
ZEROES = np.uint64(ZERO_WORD)


class Layers(NamedTuple):
    """What lies under the overlay. Exchanged as a whole, since threads look at it: ``based`` is the cut of the
    base map, ``folded`` that of the image."""

    ranges: Ranges
    base: MapFile | None
    based: Address
    folded: Address


class LiveMap:
    """Where the newest version of every block lies. Only the loop changes it; ``settle`` may run in a thread."""

    def __init__(
        self, overlay: Overlay, sums: BlockDigests, folded: Address, base: MapFile | None, begin: Address
    ) -> None:
        self.overlay = overlay
        self.layers = Layers(Ranges(), base, Address(0), folded)
        self.sums = sums
        self.interval = Interval(begin, self.ranges)
        self.first: list[int] = []
        self.count: list[int] = []
        self.word: list[int] = []
        self.step: list[int] = []
        self.digest: list[int] = []

    @property
    def ranges(self) -> Ranges:
        """Zero ranges not yet in the image."""
        return self.layers.ranges

    @ranges.setter
    def ranges(self, ranges: Ranges) -> None:
        self.layers = self.layers._replace(ranges=ranges)

    @property
    def base(self) -> MapFile | None:
        """The base map."""
        return self.layers.base

    @property
    def based(self) -> Address:
        """The cut that the base map stands for; 0 without one."""
        return self.layers.based

    @property
    def folded(self) -> Address:
        """The horizon's cut."""
        return self.layers.folded

    async def mended(self) -> bool:
        """A base map that is damaged is renewed by the volume's upkeep."""
        return False

    def absorb(self) -> None:
        """Take in what has been noted."""
        if not self.first:
            return
        blocks = np.array(self.first, np.uint64)
        words = np.array(self.word, np.uint64)
        digests = np.array(self.digest, np.uint64)
        if len(digests) != len(blocks):
            counts = np.array(self.count, np.uint64)
            steps = index_within(counts)
            repeats = counts.astype(np.int64)
            blocks = np.repeat(blocks, repeats) + steps
            words = np.repeat(words, repeats) + steps * np.repeat(np.array(self.step, np.uint64), repeats)
        for notes in (self.first, self.count, self.word, self.step, self.digest):
            notes.clear()
        self.put(blocks, words, digests)

    def put(self, blocks: U64, words: U64, digests: U64) -> None:
        """These blocks have these new words, in this order; the interval learns of it."""
        old_words, old_digests = self.overlay.get(blocks)
        first = (old_words & MASK) < np.uint64(self.interval.begin)
        if first.all():
            self.interval.note_old(blocks, old_words, old_digests)
        else:
            self.interval.note_old(blocks[first], old_words[first], old_digests[first])
        self.overlay.put(blocks, words, digests)
        self.interval.note_changed(blocks, words, digests)

    def put_partials(self, addresses: dict[int, int]) -> None:
        """Blocks whose newest versions lie in the partial buffer, since the transfers at these addresses."""
        blocks = np.fromiter(addresses.keys(), np.uint64, len(addresses))
        words = np.fromiter(addresses.values(), np.uint64, len(addresses)) | np.uint64(PARTIAL_WORD)
        self.put(blocks, words, np.zeros(len(blocks), np.uint64))

    def versions_of(self, blocks: list[int]) -> tuple[list[int], list[int]]:
        """Words and digests of blocks, as ``lookup`` says them."""
        words, digests = self.lookup(np.array(blocks, np.uint64))
        return words.tolist(), digests.tolist()

    def put_range(self, start: int, end: int, word: int) -> None:
        """All of [start, end) reads as zero from this address on."""
        self.absorb()
        self._remember_range(start, end)
        self.ranges = self.ranges.with_range(start, end, word)
        self.interval.ranges.append((start, end, word))

    def _remember_range(self, start: int, end: int) -> None:
        for blocks, words, digests in self.overlay.within(start, end):
            old = (words & MASK) < np.uint64(self.interval.begin)
            self.interval.note_old(blocks[old], words[old], digests[old])

    def relocate(self, blocks: U64, words: U64, digests: U64, before: Address) -> U64:
        """Give blocks another place for the same content, where nothing newer than ``before`` is known;
        returns those that were. (A point made partial blocks whole.)"""
        self.absorb()
        known, _ = self.overlay.get(blocks)
        address = np.maximum(known & MASK, self.ranges.get(blocks) & MASK)
        stale = address < np.uint64(before)
        chosen: U64 = blocks[stale]
        self.overlay.put(chosen, words[stale], digests[stale])
        # Their address is above the cut although their content is not newer: say so to the interval.
        self.interval.note_old(chosen, words[stale], digests[stale])
        return chosen

    def carry_forward(self, blocks: U64, words: U64) -> None:
        """These partial blocks could not be made whole by the point whose record lies at their addresses: they
        belong to the open interval as well, but are no reason for another point."""
        self.absorb()
        nothing = np.zeros(len(blocks), np.uint64)
        self.interval.note_old(blocks, words, nothing)
        self.overlay.put(blocks, words, nothing)
        self.interval.note_changed(blocks, words, nothing)
        self.interval.count -= len(blocks)

    def lookup(self, blocks: U64) -> tuple[U64, U64]:
        """Words and digests from memory; word 0 where only the lower layers know. Absorbs first."""
        self.absorb()
        words, digests = self.overlay.get(blocks)
        layers = self.layers
        if layers.folded:
            forgotten = (words & MASK) < np.uint64(layers.folded)
            words[forgotten] = 0
            digests[forgotten] = 0
        if len(layers.ranges):
            apply_zero_ranges(layers.ranges, blocks, words, digests, layers.based)
        return words, digests

    def settle(self, blocks: U64, words: U64, digests: U64, nowait: bool) -> bool:
        """Bring words and digests into their final form, in place: kind 0 means the image (digest 0:
        zeroes), DATA the log, PARTIAL the partial buffer. False: a page would have to be waited for."""
        layers = self.layers
        in_log = np.uint64(DATA_WORD | layers.folded)
        if len(words) and words.min() >= in_log and words.max() < ZEROES:
            return True  # all of them in the log: nothing to find out
        missing = np.flatnonzero(words == 0)
        if len(missing) and layers.base is not None:
            found = layers.base.get(blocks[missing], nowait)
            if found is None:
                return False
            over_base(layers.ranges, blocks[missing], *found, layers.based)
            words[missing], digests[missing] = found
            missing = missing[found[0] == 0]
        if len(missing):
            sums = self.sums.get(blocks[missing], nowait)
            if sums is None:
                return False
            digests[missing] = sums
        kind = kinds(words)
        zero = kind == ZERO
        folded = (kind == DATA) & ((words & MASK) < np.uint64(layers.folded))
        digests[zero] = 0
        words[zero | folded] = 0
        return True

    def words_below(self, blocks: U64, words: U64) -> U64:
        """Raw words, with those that only the base map knows filled in; 0 = in the image since before it."""
        layers = self.layers
        missing = np.flatnonzero(words == 0)
        if len(missing) and layers.base is not None:
            found = layers.base.get(blocks[missing], False)
            assert found is not None
            over_base(layers.ranges, blocks[missing], *found, layers.based)
            words[missing] = found[0]
        return words

    def cut(self, address: Address) -> Interval:
        """Close the open interval at ``address`` and begin the next."""
        self.absorb()
        closed, self.interval = self.interval, Interval(address, self.ranges)
        return closed

    def moved_horizon(self, address: Address) -> MapFile | None:
        """The image now holds everything below ``address``; returns the base map if it is now behind it."""
        ranges, base, based, _ = self.layers
        passed = base if based <= address else None
        if passed is not None:
            base, based = None, Address(0)
        self.layers = Layers(ranges.without_below(address), base, based, address)
        self.overlay.forget_below(max(address, based))
        return passed

    def moved_base(self, base: MapFile, address: Address) -> MapFile | None:
        """``base`` now holds everything below ``address``; returns the map that it replaces."""
        old = self.layers.base
        self.layers = self.layers._replace(base=base, based=address)
        self.overlay.forget_below(max(self.layers.folded, address))
        return old


def apply_zero_ranges(ranges: Ranges, blocks: U64, words: U64, digests: U64, based: Address = Address(0)) -> None:
    """Replace, in place, what a newer zero range covers. A word of 0 (unknown) is replaced only by ranges
    at or above ``based``: below it the base map may know something newer than the range."""
    covering = ranges.get(blocks)
    address = covering & MASK
    newer = address > (words & MASK)
    if based:
        newer &= (words != 0) | (address >= np.uint64(based))
    words[newer] = covering[newer]
    digests[newer] = 0


def over_base(ranges: Ranges, blocks: U64, words: U64, digests: U64, based: Address) -> None:
    """Replace, in place, what zero ranges say over words that a map file gave, whose own cut lies at
    ``based``. Below it the map has settled the matter and its entries win. (Addresses would not tell: a
    point carries blocks as of its cut, and lies behind writes that are newer.)"""
    covering = ranges.get(blocks)
    zero = (covering != 0) & ((words == 0) | ((covering & MASK) >= np.uint64(based)))
    words[zero] = covering[zero]
    digests[zero] = 0
