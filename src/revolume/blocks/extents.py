"""Runs and intervals of numbers: of equal values, of consecutive numbers, and the arithmetic of intervals.

Block status, copying and folding all ask for *extents*: maximal runs of blocks in the same state. The
per-block states come from the maps as an array; finding where it changes is one comparison of the array
with itself, shifted by one.

An interval is [start, end). Sets of intervals are two parallel columns; ``merged_intervals`` makes them sorted,
disjoint and maximal, which is what ``overlaps`` and ``complement`` expect.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from revolume.blocks.geometry import BLOCK

I64 = npt.NDArray[np.int64]
U64 = npt.NDArray[np.uint64]
Values = npt.NDArray[Any]
Extent = tuple[int, int]
NUMBER_MAX = (1 << 64) - 1


def runs(values: Values) -> tuple[I64, I64, Values]:
    """(starts, lengths, values) of the maximal runs of equal neighbours."""
    return _cut(values, np.flatnonzero(values[1:] != values[:-1]) + 1)


def contiguous(numbers: U64) -> tuple[I64, I64, U64]:
    """(starts, lengths, first numbers) of the runs in which every number is its predecessor plus one."""
    return _cut(numbers, np.flatnonzero(numbers[1:] != numbers[:-1] + np.uint64(1)) + 1)


def extents(first_block: int, count: int, flags: Values, offset: int, length: int) -> list[Extent]:
    """(bytes, flags) of the runs that cover exactly the bytes [offset, offset + length).

    ``flags`` holds the state of ``count`` blocks from ``first_block`` on, which contain those bytes.
    """
    assert len(flags) == count and length > 0
    assert first_block * BLOCK <= offset and offset + length <= (first_block + count) * BLOCK
    starts, lengths, values = runs(flags)
    begin = np.clip((starts + first_block) * BLOCK, offset, offset + length)
    end = np.clip((starts + lengths + first_block) * BLOCK, offset, offset + length)
    sizes = (end - begin).tolist()
    return [(size, int(value)) for size, value in zip(sizes, values.tolist(), strict=True) if size]


def index_within(counts: U64) -> U64:
    """0, 1, … count-1 for each count, one behind the other."""
    total = int(counts.sum())
    starts = np.cumsum(counts) - counts
    steps: U64 = np.arange(total, dtype=np.uint64) - np.repeat(starts, counts.astype(np.int64))
    return steps


def numbers_in(starts: U64, ends: U64) -> U64:
    """All numbers of these intervals, one interval behind the other."""
    counts = ends - starts
    found: U64 = np.repeat(starts, counts.astype(np.int64)) + index_within(counts)
    return found


def merged_intervals(starts: U64, ends: U64) -> tuple[U64, U64]:
    """The numbers of intervals in any order, empty and overlapping ones among them, as sorted, disjoint intervals
    that do not touch each other."""
    some = starts < ends
    if not some.all():
        starts, ends = starts[some], ends[some]
    if (starts[1:] > ends[:-1]).all():
        return starts, ends
    order = np.argsort(starts, kind="stable")
    starts, reach = starts[order], np.maximum.accumulate(ends[order])
    begins = np.ones(len(starts), bool)
    begins[1:] = starts[1:] > reach[:-1]
    first = np.flatnonzero(begins)
    return starts[first], reach[np.append(first[1:], len(starts)) - 1]


def overlaps(starts: U64, ends: U64, other_starts: U64, other_ends: U64) -> tuple[U64, U64, I64]:
    """What two sorted sets of disjoint intervals have in common: (starts, ends, index of the interval of the
    first set in which each lies)."""
    low = other_ends.searchsorted(starts, "right")
    high = other_starts.searchsorted(ends, "left")
    counts = np.maximum(high - low, 0)
    index = np.repeat(np.arange(len(starts)), counts)
    other = np.repeat(low, counts) + index_within(counts.astype(np.uint64)).astype(np.int64)
    return np.maximum(starts[index], other_starts[other]), np.minimum(ends[index], other_ends[other]), index


def complement(starts: U64, ends: U64) -> tuple[U64, U64]:
    """The intervals between and around these, which are sorted and disjoint. The greatest 64-bit number is no
    block's and belongs to neither."""
    zero, top = np.zeros(1, np.uint64), np.array([NUMBER_MAX], np.uint64)
    begins, stops = np.concatenate((zero, ends)), np.concatenate((starts, top))
    some = begins < stops
    return begins[some], stops[some]


def _cut(values: Values, changes: I64) -> tuple[I64, I64, Values]:
    if not len(values):
        return changes[:0], changes[:0], values
    starts = np.concatenate((np.zeros(1, np.int64), changes))
    lengths = np.diff(starts, append=np.int64(len(values)))
    return starts, lengths, values[starts]
