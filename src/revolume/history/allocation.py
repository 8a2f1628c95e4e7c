"""What lies where, for NBD's block status: allocated or zero, changed since a moment or not."""

from __future__ import annotations

from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from revolume.blocks.extents import extents
from revolume.blocks.word import ADDRESS_MASK
from revolume.host.work import Work
from revolume.volume.reader import block_numbers

U64 = npt.NDArray[np.uint64]
BLOCK = 4096
STEP_BLOCKS: Final = 1 << 16
HOLE_AND_ZERO: Final = 3
DIRTY: Final = 1


class Mapped(Protocol):
    """A source whose words can be asked for."""

    def lookup(self, blocks: U64) -> tuple[U64, U64]: ...

    def settle(self, blocks: U64, words: U64, digests: U64, nowait: bool) -> bool: ...


async def settled(work: Work, source: Mapped, blocks: U64) -> tuple[U64, U64]:
    """Words and digests in their final form (see ``LiveMap.settle``)."""
    words, digests = source.lookup(blocks)
    if source.settle(blocks, words, digests, True):
        return words, digests
    for last in (False, False, True):
        words, digests = source.lookup(blocks)
        try:
            await work.call(source.settle, blocks, words, digests, False)
            break
        except OSError:  # a map was exchanged and closed meanwhile: look again
            if last:
                raise
    return words, digests


def span(offset: int, length: int, size: int) -> tuple[int, int, int]:
    """(first block, blocks, bytes) of what one answer covers: bounded, the client asks on."""
    first = offset // BLOCK
    length = min(length, (first + STEP_BLOCKS) * BLOCK - offset, size - offset)
    return first, -(-(offset + length) // BLOCK) - first, length


async def allocation(work: Work, source: Mapped, offset: int, length: int, size: int) -> list[tuple[int, int]]:
    """``base:allocation``: holes read as zero and take no room; everything else is data."""
    first, count, length = span(offset, length, size)
    words, digests = await settled(work, source, block_numbers(first, count))
    flags = np.where((words == 0) & (digests == 0), HOLE_AND_ZERO, 0)
    return extents(first, count, flags, offset, length)


class ChangedSince:
    """Which blocks changed since a moment: those whose newest word lies at or above its address. The point
    made at that very moment says some blocks again, above it, unchanged: ``restated``."""

    def __init__(self, address: int, restated: list[tuple[int, int]]) -> None:
        self._address = np.uint64(address)
        self._restated = restated

    def of(self, words: U64) -> npt.NDArray[np.bool_]:
        """From raw words (not settled: a settled word forgets its address)."""
        addresses = words & np.uint64(ADDRESS_MASK)
        changed: npt.NDArray[np.bool_] = addresses >= self._address
        for begin, end in self._restated:
            changed &= (addresses < np.uint64(begin)) | (addresses >= np.uint64(end))
        return changed
