"""Reading from a disk that may refuse some of it.

What can't be read in one piece is read block by block, so that one bad sector costs its block and no more. The
digests of what was asked for say what came.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from revolume.blocks.digest import block_digests
from revolume.blocks.extents import contiguous
from revolume.blocks.geometry import BLOCK
from revolume.host.disk import File

U64 = npt.NDArray[np.uint64]
BLOCKS_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class Run:
    """Neighbouring blocks of a file, and which of them do not have the digests that they should."""

    first: int
    data: memoryview
    wrong: list[int]
    """Counted from ``first``."""
    refused: list[int]
    """Those of them that the disk did not give out."""

    @property
    def count(self) -> int:
        """Number of blocks in the run."""
        return len(self.data) // BLOCK


def runs(file: File, blocks: U64, digests: U64) -> Iterator[Run]:
    """Read the blocks (numbers in ``file``, ascending) with their expected ``digests``, in runs of at most 256
    blocks. A block that can't be read counts as zeroes and is listed in ``refused``."""
    starts, counts, firsts = contiguous(blocks)
    for start, count, first in zip(starts.tolist(), counts.tolist(), firsts.tolist(), strict=True):
        for at in range(0, count, BLOCKS_AT_ONCE):
            stated = digests[start + at : start + min(at + BLOCKS_AT_ONCE, count)].tolist()
            refused: list[int] = []
            data = read(file, (first + at) * BLOCK, len(stated) * BLOCK, refused)
            found = block_digests(data, len(stated))
            wrong = [i for i in range(len(stated)) if found[i] != stated[i]] if found != stated else []
            yield Run(first + at, data, wrong, refused)


def read(file: File, offset: int, size: int, refused: list[int] | None = None) -> memoryview:
    """``size`` bytes from ``offset``; zeroes after the end of the file, and for each block that can't be read. The
    numbers of those blocks, counted from ``offset``, are appended to ``refused``."""
    buffer = memoryview(bytearray(size))
    try:
        file.preadv([buffer], offset)
    except OSError:
        for at in range(0, size, BLOCK):
            if not _read_block(file, offset + at, buffer[at : at + BLOCK]) and refused is not None:
                refused.append(at // BLOCK)
    return buffer


def _read_block(file: File, offset: int, buffer: memoryview) -> bool:
    try:
        file.preadv([buffer], offset)
    except OSError:
        buffer[:] = bytes(len(buffer))
        return False
    return True
