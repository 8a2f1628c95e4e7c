"""Composing a consistency point: from a closed interval to the record's parts.

Runs in a thread on values that nobody changes any more (the interval was exchanged at the cut; base map and
image hold, below the cut, what they held before it until this point is sealed, because a fold never goes
beyond a sealed point). The result is plain values; appending them to the log is the loop's work.

The volume root follows from differences: root += terms(new) - terms(old) over the blocks changed, where old
is what the block was at the cut before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from revolume.blocks import root as roots
from revolume.blocks.block_location import DATA, PARTIAL, ZERO, addresses, kinds
from revolume.blocks.block_set import BlockSet
from revolume.blocks.delta_map import DeltaMap, stated_digest
from revolume.blocks.digest import LOST_DIGEST, fragment_digest
from revolume.blocks.numbers import Address
from revolume.blocks.ordering import among
from revolume.blocks.ranges import Ranges
from revolume.chain.map_file import MapFile
from revolume.chain.point import References
from revolume.log.format.transfer_table import TableView
from revolume.volume.image.block_digests import BlockDigests
from revolume.volume.livemap.interval import Interval
from revolume.volume.livemap.live_map import over_base

U64 = npt.NDArray[np.uint64]
Contents = Mapping[int, bytes | bytearray | None]
"""Partially modified blocks whole; None where that can't be had."""


@dataclass(frozen=True, slots=True)
class ComposedPoint:
    """What a point says of its interval. ``references``: wholly modified blocks. ``partials``: those modified in
    part, which travel whole with the record. ``zeroes``: zero runs. ``digest``: the interval digest. ``root``: the
    volume root at the cut. ``changed_blocks``: all of these, counted."""

    references: References
    partials: DeltaMap
    zeroes: BlockSet
    digest: int
    root: roots.Root
    changed_blocks: int


@dataclass(frozen=True, slots=True)
class LowerLayers:
    """The layers under the overlay, for what blocks were at the cut before. ``partial_blocks``, ascending, and
    their digests: what the point at that cut carried whole."""

    base: MapFile | None
    sums: BlockDigests
    folded: Address
    partial_blocks: U64
    partial_digests: U64


def compose(
    interval: Interval,
    table: TableView,
    partials: Contents,
    before: roots.Root,
    below: LowerLayers,
) -> ComposedPoint:
    """The interval's delta map as references, partials (None: can't be told) and zero runs, with digest and
    root. ``before``: the root at the cut before."""
    delta = interval.delta_map()
    kind = kinds(delta.locations)
    in_part = kind == PARTIAL
    digests = delta.digests.copy()
    digests[in_part] = [_digest_of(partials[block]) for block in delta.blocks[in_part].tolist()]
    delta = DeltaMap(delta.blocks, delta.locations, digests, delta.zeroes)
    held, zeroes = delta.entries(kind != ZERO), delta.zero_runs()
    return ComposedPoint(
        references=_references(delta.locations[kind == DATA], table),
        partials=delta.entries(in_part),
        zeroes=zeroes,
        digest=stated_digest(held.blocks, held.digests, zeroes),
        root=moved_root(interval, held, before, below),
        changed_blocks=len(held) + zeroes.block_count(),
    )


def moved_root(interval: Interval, held: DeltaMap, before: roots.Root, below: LowerLayers) -> roots.Root:
    """The root once the blocks that the interval changed are what they are now. ``held``: those of them that hold
    data."""
    return roots.add(_without_old(interval, before, below), held.blocks, held.digests)


def _digest_of(content: bytes | bytearray | None) -> int:
    return LOST_DIGEST if content is None else fragment_digest(content)


def _references(locations: U64, table: TableView) -> References:
    """Runs that lie one behind the other in the same transfer, in order of address."""
    places = np.sort(addresses(locations))
    descriptors = table.describe(places)
    transfer, block = descriptors.transfer, descriptors.block
    if not len(places):
        return References(*(np.zeros(0, np.uint64) for _ in range(4)))
    begins = np.ones(len(places), bool)
    begins[1:] = (np.diff(places) != 1) | (np.diff(transfer) != 0)
    starts = np.flatnonzero(begins)
    runs = np.diff(np.append(starts, len(places))).astype(np.uint64)
    named = transfer[starts]
    return References(table.epochs[named], table.positions[named], block[starts], runs)


def _without_old(interval: Interval, root: roots.Root, below: LowerLayers) -> roots.Root:
    """The root less what the changed blocks were at the cut before."""
    old, zeroes = interval.old_values(), interval.zero_ranges()
    # Blocks changed one by one and then covered by a range count too.
    old = old.entries(among(old.blocks, interval.changed_blocks()) | (zeroes.get(old.blocks) != 0))
    before = interval.ranges_before.without_below(below.folded)
    root = roots.subtract(root, old.blocks, old_digests(old, before, below))
    zeroed = zeroes.blocks()
    for start, end in zip(zeroed.starts.tolist(), zeroed.ends.tolist(), strict=True):
        for unseen, digests in _below_range(start, end, old.blocks, before, below):
            root = roots.subtract(root, unseen, digests)
    return root


def old_digests(old_values: DeltaMap, ranges: Ranges, below: LowerLayers) -> U64:
    """Digests of these blocks at the cut before: what the overlay had said, or a zero range over it, or
    the layers below; 0 for zeroes."""
    blocks, words, old = old_values.blocks, old_values.locations, old_values.digests.copy()
    words = np.where(addresses(words) < np.uint64(below.folded), np.uint64(0), words)
    known = words != 0
    covered = known & (addresses(ranges.get(blocks)) > addresses(words))
    kind = kinds(words)
    old[covered | (kind == ZERO)] = 0
    partial = (kind == PARTIAL) & ~covered
    if partial.any():
        old[partial] = below.partial_digests[np.searchsorted(below.partial_blocks, blocks[partial])]
    old[~known] = _from_below(blocks[~known], ranges, below)
    return old


def _from_below(blocks: U64, ranges: Ranges, below: LowerLayers) -> U64:
    """Digests from base map and image, where no newer zero range covers them."""
    words, digests = np.zeros(len(blocks), np.uint64), np.zeros(len(blocks), np.uint64)
    based = below.base.meta.address if below.base is not None else Address(0)
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


def _below_range(start: int, end: int, seen: U64, ranges: Ranges, below: LowerLayers) -> Iterator[tuple[U64, U64]]:
    """(blocks, digests) in [start, end) that only the lower layers know, not zero at the cut before."""
    if below.base is not None:
        for piece in below.base.within(start, end):
            old = np.where(kinds(piece.locations) == DATA, piece.digests, np.uint64(0))
            yield _unseen(piece.blocks, old, seen, ranges, below.base.meta.address)
    for blocks, digests in below.sums.within(start, end):
        if below.base is not None:
            found = below.base.get(blocks, False)
            assert found is not None
            only = found[0] == 0
            blocks, digests = blocks[only], digests[only]
        yield _unseen(blocks, digests, seen, ranges, Address(0))


def _unseen(blocks: U64, digests: U64, seen: U64, ranges: Ranges, based: Address) -> tuple[U64, U64]:
    covering = ranges.get(blocks)
    keep = ~among(blocks, seen)
    keep &= (covering == 0) | (addresses(covering) < np.uint64(based))
    return blocks[keep], digests[keep]
