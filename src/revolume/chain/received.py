"""A delta map out of a consistency point's record as it was *received*, and what is wrong with it.

The record names no place: it says which transfers carried the blocks that changed, and which blocks of them.
This node looks each reference up in storage of its own: its transfer table gives the place where it stored that
transfer, its own columns say what lies there. What comes out is held against what the log itself says was
written in the interval:

    newest version whole      a reference must lead to exactly that version, else the block is asked for
    modified in part          the record must carry the block, else it is asked for
    zeroes                    the record must state exactly these runs, else it is not this log's record
    not written               nothing is needed; a block that came whole all the same is taken (a primary tries
                              again with a block that it could not read at the point before)

So a reference to a transfer that is not here, to a block that it does not have, to a version that is not the
newest, to another block, is dropped, and costs a question only where it leaves a block without one that holds.

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
    that hold. ``partial_blocks`` came whole with the record. ``refused``: blocks to be asked for. ``dropped``:
    blocks referenced to no purpose. ``cut_address``: where the cut lies here. ``wrong``: why this is not a record
    of this log at all, "" if it is."""

    blocks: U64
    words: U64
    digests: U64
    partial_blocks: U64
    partial_words: U64
    partial_digests: U64
    zeroes: tuple[U64, U64]
    refused: U64
    dropped: int
    cut_address: int
    wrong: str


def received(
    parts: Sequence[Part],
    columns: Sequence[Columns],
    table: TableView,
    before: tuple[int, int],
    record: Sequence[int],
) -> Received:
    """See the module's text. ``columns`` hold everything from the cut before to the record's end; ``before`` is
    position and write number of the cut before; ``record``: positions of the record's parts, in order."""
    cut = parts[0]
    written = [only(c, c.rows["kind"] == Kind.WRITES) for c in columns]
    versions = [c.versions() for c in written]
    own = under_ranges(newest(versions, before[1], cut.write))
    zeroes = _stated_zeroes(parts)
    wrong = _not_one_cut(parts, written, before, record[0]) or _not_these_zeroes(zeroes, own)
    in_part = _partial_blocks(own)
    expected, expected_words, expected_digests = _whole(own, in_part)
    addresses = _addresses(parts, table, sum(int(c.rows["blocks"].sum()) for c in written))
    holds = _referenced(expected, expected_words, addresses, versions)
    partial = _carried_whole(columns, record)
    taken = np.isin(partial[0], in_part) | ~_touched(own, partial[0])
    lacking = np.setdiff1d(in_part, partial[0], assume_unique=True)
    return Received(
        expected[holds], expected_words[holds], expected_digests[holds],
        partial[0][taken], partial[1][taken], partial[2][taken],
        zeroes, np.union1d(expected[~holds], lacking), _stated_blocks(parts) - int(holds.sum()),
        _address_behind(columns, cut.position), wrong,
    )  # fmt: skip


def _not_one_cut(parts: Sequence[Part], written: list[Columns], before: tuple[int, int], record: int) -> str:
    """Every part speaks of one cut, which lies between the point before and the record, and between writes."""
    cut = parts[0]
    if any(_totals(part) != _totals(cut) for part in parts):
        return "its parts do not agree with each other"
    if not (before[0] <= cut.position < record and before[1] <= cut.write):
        return "its cut does not lie between the point before and its record"
    for rows in (c.rows for c in written):
        below = rows["position"] <= np.uint64(cut.position)
        if ((rows["write"] + rows["entries"] - 1)[below] > np.uint64(cut.write)).any():
            return "its cut leaves out writes that lie below it"
        if (rows["write"][~below] <= np.uint64(cut.write)).any():
            return "its cut takes in writes that lie behind it"
    return ""


def _totals(part: Part) -> tuple[object, ...]:
    return (
        part.number, part.previous, part.position, part.write, part.time_ns, part.parts, part.referenced,
        part.partials, part.zero_runs, part.digest, part.root, part.chain,
    )  # fmt: skip


def _referenced(
    expected: U64, expected_words: U64, addresses: U64, written: list[Versions]
) -> npt.NDArray[np.bool_]:
    """Which of the expected blocks a reference leads to. What lies at an address is looked up in the columns."""
    words = np.concatenate([NOTHING, *(v.words for v in written)])
    data = kinds(words) == DATA
    places = words[data] & MASK
    if not len(places):
        return np.zeros(len(expected), bool)
    blocks = np.concatenate([NOTHING, *(v.blocks for v in written)])[data]
    at = np.searchsorted(places, addresses)
    at[at == len(places)] = 0
    found = at[places[at] == addresses]
    index = np.searchsorted(expected, blocks[found])
    index[index == len(expected)] = 0
    holds = np.zeros(len(expected), bool)
    if len(expected):
        newest_version = expected_words[index] & MASK == places[found]
        holds[index[newest_version & (expected[index] == blocks[found])]] = True
    return holds


def _addresses(parts: Sequence[Part], table: TableView, most: int) -> U64:
    """Where the referenced blocks lie here, as far as the transfers are here and have so many blocks. A record
    that names more than ``most`` blocks is heard out no further: there are no more."""
    if not len(table.positions):
        return NOTHING
    joined = [
        np.concatenate([getattr(part.references, column) for part in parts])
        for column in ("epochs", "positions", "blocks", "runs")
    ]
    row = np.searchsorted(table.positions, joined[1])
    row[row == len(table.positions)] = 0
    here = (table.positions[row] == joined[1]) & (table.epochs[row] == joined[0])
    row, starts, runs = row[here], table.addresses[row[here]] + joined[2][here], joined[3][here]
    ends = np.append(table.addresses[1:], np.uint64(ADDRESS_MASK))[row]
    runs = np.minimum(runs, np.where(starts < ends, ends - starts, np.uint64(0)))
    runs = np.minimum(runs, np.uint64(most))
    heard = np.cumsum(runs) <= np.uint64(most)
    starts, runs = starts[heard], runs[heard]
    addresses: U64 = np.repeat(starts, runs.astype(np.int64)) + ramp(runs)
    return addresses


def _stated_blocks(parts: Sequence[Part]) -> int:
    return sum(sum(part.references.runs.tolist()) for part in parts)


def _whole(own: Newest, in_part: U64) -> tuple[U64, U64, U64]:
    """The blocks whose newest version is a whole one, their words and digests."""
    chosen = (kinds(own.words) == DATA) & ~np.isin(own.blocks, in_part)
    return own.blocks[chosen], own.words[chosen], own.digests[chosen]


def _touched(own: Newest, blocks: U64) -> npt.NDArray[np.bool_]:
    """Which of these blocks the interval wrote or zeroed whole."""
    touched = np.isin(blocks, own.blocks)
    for start, end, _, _ in own.ranges:
        touched |= (blocks >= np.uint64(start)) & (blocks < np.uint64(end))
    return touched


def _partial_blocks(own: Newest) -> U64:
    return np.array(sorted({f.block for f in own.fragments}), np.uint64)


def _union(one: U64, other: U64) -> U64:
    """Of two sets of blocks, ascending. (Almost always one of them is empty.)"""
    if not len(one) or not len(other):
        return np.sort(one if len(one) else other)
    return np.union1d(one, other)


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


def _not_these_zeroes(stated: tuple[U64, U64], own: Newest) -> str:
    """The record states the runs that the log has, as its digest covers them: sorted, each as long as can be."""
    starts = np.array([start for start, _, _, _ in own.ranges], np.uint64)
    ends = np.array([end for _, end, _, _ in own.ranges], np.uint64)
    single = np.setdiff1d(own.blocks[kinds(own.words) == ZERO], _partial_blocks(own), assume_unique=True)
    starts, ends = _painted(np.append(starts, single), np.append(ends, single + np.uint64(1)))
    if np.array_equal(stated[0], starts) and np.array_equal(stated[1], ends - starts):
        return ""
    return "it does not state the zeroes that the log has"


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


def _address_behind(columns: Sequence[Columns], position: int) -> int:
    """The address of the first transfer behind a position."""
    for each in columns:
        behind = np.flatnonzero(each.rows["position"] > position)
        if len(behind):
            return each.base + int(each.rows["block"][behind[0]])
    return 0  # not a cut of this log


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
