"""Composing a consistency point: from a closed interval to the record's parts.

Runs in a thread on values that nobody changes any more (the interval was exchanged at the cut; base map and
image hold, below the cut, what they held before it until this point is sealed, because a fold never goes
beyond a sealed point). The result is plain values; appending them to the log is the loop's work.

The volume root follows from differences: root += terms(new) - terms(old) over the blocks changed, where old
is what the block was at the cut before.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import xxhash

from revolume.blocks import root as roots
from revolume.blocks.digest import LOST_DIGEST, fragment_digest
from revolume.blocks.extents import contiguous
from revolume.blocks.ranges import Ranges
from revolume.blocks.word import ADDRESS_MASK, DATA, PARTIAL, ZERO, kinds
from revolume.chain.mapfile import MapFile
from revolume.chain.point import References
from revolume.log.table import TableView
from revolume.volume.interval import Interval
from revolume.volume.live import over_base
from revolume.volume.sums import Sums

U64 = npt.NDArray[np.uint64]
MASK = np.uint64(ADDRESS_MASK)


@dataclass(frozen=True, slots=True)
class Composed:
    """What a point says about its interval."""

    references: References
    partial_blocks: U64
    partial_digests: U64
    zeroes: tuple[U64, U64]
    digest: int
    root: roots.Root
    changed_blocks: int


@dataclass(frozen=True, slots=True)
class Below:
    """The layers under the overlay, for what blocks were at the cut before."""

    base: MapFile | None
    sums: Sums
    folded: int
    partial_blocks: U64
    partial_digests: U64


def compose(
    interval: Interval, table: TableView, partials: dict[int, bytes | None], before: roots.Root, below: Below
) -> Composed:
    """The interval's delta map, as references, partials (None: can't be told) and zero runs, with digest and
    root."""
    blocks, words, digests = _newest_over_ranges(interval)
    kind = kinds(words)
    data, partial = kind == DATA, kind == PARTIAL
    partial_digests = np.array([_digest_of(partials[b]) for b in blocks[partial].tolist()], np.uint64)
    digests[partial] = partial_digests
    held = data | partial
    zeroes = _zero_runs(interval, blocks[kind == ZERO])
    root = moved_root(interval, blocks, (blocks[held], digests[held]), before, below)
    return Composed(
        _references(words[data], table),
        blocks[partial],
        partial_digests,
        zeroes,
        delta_digest(blocks[held], digests[held], zeroes),
        root,
        int(held.sum()) + int(zeroes[1].sum()),
    )


def moved_root(
    interval: Interval, changed: U64, held: tuple[U64, U64], before: roots.Root, below: Below
) -> roots.Root:
    """The root once the ``changed`` blocks, besides the interval's zero ranges, are what they are now: ``held``
    names those that hold data, and their digests."""
    return roots.add(_without_old(interval, changed, before, below), *held)


def _digest_of(content: bytes | None) -> int:
    return LOST_DIGEST if content is None else fragment_digest(content)


def delta_digest(blocks: U64, digests: U64, zeroes: tuple[U64, U64]) -> int:
    """The interval digest: over (block, digest) sorted by block, then the zero runs as they are stated."""
    state = xxhash.xxh3_64(roots.interval_digest(blocks, digests).to_bytes(8, "little"))
    for column in zeroes:
        state.update(np.ascontiguousarray(column, "<u8").data.cast("B"))
    return state.intdigest()


def _newest_over_ranges(interval: Interval) -> tuple[U64, U64, U64]:
    """The newest words of the blocks changed one by one, less those that a newer range covers."""
    blocks, words, digests = interval.newest()
    ranges = Ranges().with_ranges(interval.ranges)
    if not len(ranges):
        return blocks, words, digests
    keep = (words & MASK) >= (ranges.get(blocks) & MASK)
    return blocks[keep], words[keep], digests[keep]


def _references(words: U64, table: TableView) -> References:
    """Runs that lie one behind the other in the same transfer, in order of address."""
    addresses = np.sort(words & MASK)
    descriptors = table.describe(addresses)
    transfer, block = descriptors.transfer, descriptors.block
    if not len(addresses):
        return References(*(np.zeros(0, np.uint64) for _ in range(4)))
    begins = np.ones(len(addresses), bool)
    begins[1:] = (np.diff(addresses) != 1) | (np.diff(transfer) != 0)
    starts = np.flatnonzero(begins)
    runs = np.diff(np.append(starts, len(addresses))).astype(np.uint64)
    named = transfer[starts]
    return References(table.epochs[named], table.positions[named], block[starts], runs)


def _zero_runs(interval: Interval, blocks: U64) -> tuple[U64, U64]:
    """The ranges zeroed and the blocks zeroed one by one, as sorted, maximal runs."""
    ranges = Ranges().with_ranges(interval.ranges)
    starts, ends, _ = ranges.arrays()
    _, counts, firsts = contiguous(blocks)
    all_starts = np.concatenate([starts, firsts.astype(np.uint64)])
    all_ends = np.concatenate([ends, firsts.astype(np.uint64) + counts.astype(np.uint64)])
    order = np.argsort(all_starts, kind="stable")
    return merged_runs(all_starts[order], all_ends[order])


def merged_runs(starts: U64, ends: U64) -> tuple[U64, U64]:
    """Sorted intervals, overlapping or touching ones made one: (first, count)."""
    if not len(starts):
        return starts, ends
    reach = np.maximum.accumulate(ends)
    begins = np.ones(len(starts), bool)
    begins[1:] = starts[1:] > reach[:-1]
    index = np.flatnonzero(begins)
    last = np.append(index[1:], len(starts)) - 1
    return starts[index], reach[last] - starts[index]


def _without_old(interval: Interval, changed: U64, root: roots.Root, below: Below) -> roots.Root:
    """The root less what the changed blocks were at the cut before."""
    blocks, words, digests = interval.olds()
    ranges = Ranges().with_ranges(interval.ranges)
    touched = np.isin(blocks, changed, assume_unique=True) | (ranges.get(blocks) != 0)
    # Blocks changed one by one and then covered by a range are in neither set's complement: they count.
    touched |= np.isin(blocks, np.concatenate(interval.blocks)) if interval.blocks else False
    blocks, words, digests = blocks[touched], words[touched], digests[touched]
    before = interval.ranges_before.without_below(below.folded)
    root = roots.subtract(root, blocks, old_digests(blocks, words, digests, before, below))
    for first, count in zip(*merged_of(ranges), strict=True):
        for unseen, old in _below_range(first, first + count, blocks, before, below):
            root = roots.subtract(root, unseen, old)
    return root


def merged_of(ranges: Ranges) -> tuple[list[int], list[int]]:
    """A range set as disjoint maximal runs (first, count)."""
    starts, ends, _ = ranges.arrays()
    first, count = merged_runs(starts, ends)
    return first.tolist(), count.tolist()


def old_digests(blocks: U64, words: U64, digests: U64, ranges: Ranges, below: Below) -> U64:
    """Digests of these blocks at the cut before: what the overlay had said, or a zero range over it, or
    the layers below; 0 for zeroes."""
    old = digests.copy()
    words = np.where((words & MASK) < np.uint64(below.folded), np.uint64(0), words)
    known = words != 0
    covered = known & ((ranges.get(blocks) & MASK) > (words & MASK))
    kind = kinds(words)
    old[covered | (kind == ZERO)] = 0
    partial = (kind == PARTIAL) & ~covered
    if partial.any():
        old[partial] = below.partial_digests[np.searchsorted(below.partial_blocks, blocks[partial])]
    old[~known] = _from_below(blocks[~known], ranges, below)
    return old


def _from_below(blocks: U64, ranges: Ranges, below: Below) -> U64:
    """Digests from base map and image, where no newer zero range covers them."""
    words, digests = np.zeros(len(blocks), np.uint64), np.zeros(len(blocks), np.uint64)
    based = below.base.meta.address if below.base is not None else 0
    if below.base is not None and len(blocks):
        found = below.base.get(blocks, False)
        assert found is not None
        words, digests = found
    over_base(ranges, blocks, words, digests, based)
    digests[kinds(words) == ZERO] = 0
    missing = np.flatnonzero(words == 0)
    if len(missing):
        sums = below.sums.get(blocks[missing], False)
        assert sums is not None
        digests[missing] = sums
    return digests


def _below_range(start: int, end: int, seen: U64, ranges: Ranges, below: Below) -> Iterator[tuple[U64, U64]]:
    """(blocks, digests) in [start, end) that only the lower layers know, not zero at the cut before."""
    if below.base is not None:
        for blocks, words, digests in below.base.within(start, end):
            old = np.where(kinds(words) == DATA, digests, np.uint64(0))
            yield _unseen(blocks, old, seen, ranges, below.base.meta.address)
    for blocks, digests in below.sums.within(start, end):
        if below.base is not None:
            found = below.base.get(blocks, False)
            assert found is not None
            only = found[0] == 0
            blocks, digests = blocks[only], digests[only]
        yield _unseen(blocks, digests, seen, ranges, 0)


def _unseen(blocks: U64, digests: U64, seen: U64, ranges: Ranges, based: int) -> tuple[U64, U64]:
    covering = ranges.get(blocks)
    keep = ~np.isin(blocks, seen, assume_unique=True)
    keep &= (covering == 0) | ((covering & MASK) < np.uint64(based))
    return blocks[keep], digests[keep]
