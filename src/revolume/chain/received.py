"""A delta map out of a consistency point's record as it was *received*, and what is wrong with it.

The record names no place: it says which transfers carried the blocks that changed, and which blocks of them.
This node looks each reference up in storage of its own: its transfer table gives the place where it stored that
transfer, its own columns say what lies there. What comes out is compared with what the log itself says was
written in the interval. A reference to a transfer that is not here, to a block that it does not have, to a
version that is not the newest, or to the wrong block, and a block that was written but is not referenced, are
refused: those blocks are to be asked for whole.

Pure: columns and record in, values out. Whether the whole is right is for the interval digest and the volume root
to say; that comparison is the caller's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from revolume.blocks.ranges import Ranges
from revolume.blocks.word import ADDRESS_MASK, DATA, ZERO, kinds
from revolume.chain.point import Part
from revolume.chain.versions import Newest, newest, under_ranges
from revolume.log.columns import Columns, Versions, only, ramp
from revolume.log.table import TableView
from revolume.log.transfer import Kind

U64 = npt.NDArray[np.uint64]
NOTHING = np.zeros(0, np.uint64)
MASK = np.uint64(ADDRESS_MASK)


@dataclass(frozen=True, slots=True)
class Received:
    """What a record amounts to here. ``blocks`` (ascending), their ``words`` and ``digests``: resolved references
    that hold. ``partial_blocks`` came whole with the record. ``refused``: blocks to be asked for; ``holding``
    those among them that by our own log hold data, be it zeroes."""

    blocks: U64
    words: U64
    digests: U64
    partial_blocks: U64
    partial_words: U64
    partial_digests: U64
    zeroes: tuple[U64, U64]
    refused: U64
    holding: U64
    cut_address: int


def received(
    parts: Sequence[Part], columns: Sequence[Columns], table: TableView, after: int, record: Sequence[int]
) -> Received:
    """See the module's text. ``columns`` hold everything from the cut before to the record's end; ``after`` is
    the write number of the cut before; ``record``: positions of the record's parts, in order."""
    cut = parts[0].write
    written = [only(c, c.rows["kind"] == Kind.WRITES).versions() for c in columns]
    own = under_ranges(newest(written, after, cut))
    partial = _carried_whole(columns, record)
    blocks, words, digests = _resolved(parts, written, table)
    expected, expected_words = _data(own)
    good, refused = _judged(blocks, words, expected, expected_words)
    refused = _union(refused, np.setxor1d(partial[0], _partial_blocks(own), assume_unique=True))
    zeroes = _stated_zeroes(parts)
    refused = _union(refused, _zeroes_differ(zeroes, own))
    keep = good & ~np.isin(blocks, refused)
    held = ~np.isin(partial[0], refused)
    return Received(
        blocks[keep], words[keep], digests[keep], partial[0][held], partial[1][held], partial[2][held],
        zeroes, refused, refused[np.isin(refused, expected) | np.isin(refused, _partial_blocks(own))],
        _address_behind(columns, parts[0].position),
    )  # fmt: skip


def _resolved(parts: Sequence[Part], written: list[Versions], table: TableView) -> tuple[U64, U64, U64]:
    """Block, word and digest of every reference that leads to a block in storage here, by block; of those that
    lead to the same block one."""
    addresses = np.concatenate([_addresses(part, table) for part in parts])
    words = np.concatenate([NOTHING, *(v.words for v in written)])
    data = kinds(words) == DATA
    places = words[data] & MASK
    blocks = np.concatenate([NOTHING, *(v.blocks for v in written)])[data]
    digests = np.concatenate([NOTHING, *(v.digests for v in written)])[data]
    at = np.searchsorted(places, addresses)
    at[at == len(places)] = 0
    found = at[places[at] == addresses] if len(places) else at[:0]
    chosen, first = np.unique(blocks[found], return_index=True)
    found = found[first]
    return chosen, places[found] | np.uint64(DATA << 62), digests[found]


def _addresses(part: Part, table: TableView) -> U64:
    """Where the referenced blocks lie here, as far as the transfers are here and have so many blocks."""
    references = part.references
    row = np.searchsorted(table.positions, references.positions)
    row[row == len(table.positions)] = 0
    if not len(table.positions):
        return NOTHING
    here = (table.positions[row] == references.positions) & (table.epochs[row] == references.epochs)
    row, starts, runs = row[here], references.blocks[here], references.runs[here]
    runs = np.minimum(runs, np.uint64(1 << 24))
    addresses = np.repeat(table.addresses[row] + starts, runs.astype(np.int64)) + ramp(runs)
    ends = np.append(table.addresses[1:], np.uint64(ADDRESS_MASK))
    within: U64 = addresses[addresses < np.repeat(ends[row], runs.astype(np.int64))]
    return within


def _data(own: Newest) -> tuple[U64, U64]:
    """The blocks whose newest version is a whole one, and their words."""
    chosen = (kinds(own.words) == DATA) & ~np.isin(own.blocks, _partial_blocks(own))
    return own.blocks[chosen], own.words[chosen]


def _partial_blocks(own: Newest) -> U64:
    return np.array(sorted({f.block for f in own.fragments}), np.uint64)


def _union(one: U64, other: U64) -> U64:
    """Of two sets of blocks, ascending. (Almost always one of them is empty.)"""
    if not len(one) or not len(other):
        return np.sort(one if len(one) else other)
    return np.union1d(one, other)


def _judged(blocks: U64, words: U64, expected: U64, expected_words: U64) -> tuple[npt.NDArray[np.bool_], U64]:
    """Which references are right, and which blocks are refused: wrong, or not referenced."""
    at = np.searchsorted(expected, blocks)
    at[at == len(expected)] = 0
    known = expected[at] == blocks if len(expected) else np.zeros(len(blocks), bool)
    good = known & (expected_words[at] == words) if len(expected) else known
    missing = np.setdiff1d(expected, blocks[good], assume_unique=True)
    return good, _union(missing, blocks[~good])


def _carried_whole(columns: Sequence[Columns], record: Sequence[int]) -> tuple[U64, U64, U64]:
    """The blocks that the record carries, by block: block, word, digest."""
    found = [
        only(c, (c.rows["kind"] == Kind.POINT) & np.isin(c.rows["position"], record)).versions()
        for c in columns
    ]
    blocks = np.concatenate([NOTHING, *(v.blocks for v in found)])
    words = np.concatenate([NOTHING, *(v.words for v in found)])
    digests = np.concatenate([NOTHING, *(v.digests for v in found)])
    blocks, first = np.unique(blocks, return_index=True)
    return blocks, words[first], digests[first]


def _stated_zeroes(parts: Sequence[Part]) -> tuple[U64, U64]:
    return np.concatenate([p.zeroes[0] for p in parts]), np.concatenate([p.zeroes[1] for p in parts])


def _zeroes_differ(stated: tuple[U64, U64], own: Newest) -> U64:
    """Blocks that read as zeroes by the record and not by the log, or the other way round."""
    starts = np.array([start for start, _, _, _ in own.ranges], np.uint64)
    ends = np.array([end for _, end, _, _ in own.ranges], np.uint64)
    single = np.setdiff1d(own.blocks[kinds(own.words) == ZERO], _partial_blocks(own), assume_unique=True)
    here = _painted(np.append(starts, single), np.append(ends, single + np.uint64(1)))
    there = _painted(stated[0], stated[0] + stated[1])
    if np.array_equal(here[0], there[0]) and np.array_equal(here[1], there[1]):
        return NOTHING
    return _difference(here, there)


def _painted(starts: U64, ends: U64) -> tuple[U64, U64]:
    """The union of intervals as sorted, disjoint, maximal ones."""
    ranges = [(start, end, 1) for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]
    begins, stops, _ = Ranges().with_ranges(ranges).arrays()
    if not len(begins):
        return begins, stops
    apart = np.ones(len(begins), bool)
    apart[1:] = begins[1:] > stops[:-1]
    index = np.flatnonzero(apart)
    return begins[index], stops[np.append(index[1:], len(begins)) - 1]


def _difference(one: tuple[U64, U64], other: tuple[U64, U64]) -> U64:
    """The blocks that lie in exactly one of two sets of intervals; at most ``DIFFERENCE_MAX`` of them."""
    edges = np.unique(np.concatenate([*one, *other]))
    inside = [np.searchsorted(s, edges, "right") > np.searchsorted(e, edges, "right") for s, e in (one, other)]
    differs = np.flatnonzero(inside[0] != inside[1])
    counts = edges[differs + 1] - edges[differs]
    counts = np.minimum(counts, np.uint64(DIFFERENCE_MAX))
    blocks = np.repeat(edges[differs], counts.astype(np.int64)) + ramp(counts)
    found: U64 = blocks[:DIFFERENCE_MAX]
    return found


DIFFERENCE_MAX = 1 << 16


def _address_behind(columns: Sequence[Columns], position: int) -> int:
    """The address of the first transfer behind a position."""
    for each in columns:
        behind = np.flatnonzero(each.rows["position"] > position)
        if len(behind):
            return each.base + int(each.rows["block"][behind[0]])
    raise AssertionError("the record itself lies behind its cut")


def zeroed_elsewhere(zeroes: tuple[U64, U64], blocks: U64) -> tuple[U64, U64]:
    """Zero runs (first, count) as intervals (start, end) without these blocks (ascending)."""
    starts, ends = zeroes[0], zeroes[0] + zeroes[1]
    if not len(starts):
        return starts, ends
    at = np.searchsorted(starts, blocks, "right")
    inside = blocks[(at > 0) & (blocks < ends[np.maximum(at, 1) - 1])]
    left = np.sort(np.append(starts, inside + np.uint64(1)))
    right = np.sort(np.append(ends, inside))
    some = left < right
    return left[some], right[some]
