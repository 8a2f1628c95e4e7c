"""Runs of equal values, and what they mean in bytes.

Block status, copying and folding all ask for *extents*: maximal runs of blocks in the same state. The
per-block states come from the maps as an array; finding where it changes is one comparison of the array
with itself, shifted by one.
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


def _cut(values: Values, changes: I64) -> tuple[I64, I64, Values]:
    if not len(values):
        return changes[:0], changes[:0], values
    starts = np.concatenate((np.zeros(1, np.int64), changes))
    lengths = np.diff(starts, append=np.int64(len(values)))
    return starts, lengths, values[starts]
