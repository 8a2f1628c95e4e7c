"""What lies where, for NBD's block status: allocated or zero, changed since a moment or not."""

from __future__ import annotations

from contextlib import suppress
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from revolume.blocks.block_location import ADDRESS_MASK
from revolume.blocks.extents import extents
from revolume.blocks.geometry import BLOCK
from revolume.blocks.numbers import Address, WriteNumber
from revolume.errors import Damaged
from revolume.host.work import Work
from revolume.volume.livemap.reader import block_numbers

U64 = npt.NDArray[np.uint64]
STEP_BLOCKS: Final = 1 << 16
HOLE_AND_ZERO: Final = 3
DIRTY: Final = 1
ALLOCATION: Final = "base:allocation"
Extents = list[tuple[int, int]]
"""(length in bytes, flags) of neighbouring stretches."""


class LocationSource(Protocol):
    """What block status needs of a source (the live map, a view's source): the location and digest of each
    block."""

    def lookup(self, blocks: U64) -> tuple[U64, U64]: ...

    def settle(self, blocks: U64, words: U64, digests: U64, nowait: bool) -> bool: ...

    async def mended(self) -> bool: ...


async def settled(work: Work, source: LocationSource, blocks: U64) -> tuple[U64, U64]:
    """Locations and digests (uint64, one for each of ``blocks``) with everything resolved that ``lookup`` leaves
    open: what is in a map file on disk, and what lies in the image. Reads in a thread where pages are not in
    memory. OSError: a map file was exchanged and closed three times in a row."""
    words, digests = source.lookup(blocks)
    with suppress(Damaged):  # a thread meets it again
        if source.settle(blocks, words, digests, True):
            return words, digests
    for last in (False, False, True):
        words, digests = source.lookup(blocks)
        try:
            await work.call(source.settle, blocks, words, digests, False)
            break
        except Damaged:
            if last or not await source.mended():
                raise
        except OSError:  # a map was exchanged and closed meanwhile: look again
            if last:
                raise
    return words, digests


def span(offset: int, length: int, size: int) -> tuple[int, int, int]:
    """(first block, number of blocks, bytes) that one block status answer covers. An answer is bounded by
    ``STEP_BLOCKS``; the client asks again for the rest."""
    first = offset // BLOCK
    length = min(length, (first + STEP_BLOCKS) * BLOCK - offset, size - offset)
    return first, -(-(offset + length) // BLOCK) - first, length


async def allocation(
    work: Work, source: LocationSource, offset: int, length: int, size: int
) -> list[tuple[int, int]]:
    """Extents (bytes, flags) for ``base:allocation`` of the bytes [offset, offset + length): blocks that read as
    zeroes and take no room have the flags HOLE and ZERO, all others none. The extents may end early, at a bound of
    one answer."""
    first, count, length = span(offset, length, size)
    words, digests = await settled(work, source, block_numbers(first, count))
    flags = np.where((words == 0) & (digests == 0), HOLE_AND_ZERO, 0)
    return extents(first, count, flags, offset, length)


class ChangedSince:
    """Which blocks changed since the moment at ``write``: those whose newest location is at or above the moment's
    ``address``, except in the address ranges ``restated``. There the consistency point made at that very moment
    copied blocks that had not changed."""

    def __init__(self, write: WriteNumber, address: Address, restated: list[tuple[int, int]]) -> None:
        self.write = write
        self._address = np.uint64(address)
        self._restated = restated

    def of(self, words: U64) -> npt.NDArray[np.bool_]:
        """A mask (bool, one for each of ``words``). ``words``: locations as ``lookup`` or ``words_below`` give
        them; a location that ``settle`` has resolved no longer has its address."""
        addresses = words & np.uint64(ADDRESS_MASK)
        changed: npt.NDArray[np.bool_] = addresses >= self._address
        for begin, end in self._restated:
            changed &= (addresses < np.uint64(begin)) | (addresses >= np.uint64(end))
        return changed


class BitmapExport(Protocol):
    """What a bitmap of changes needs of an export. ``since``: by metadata context, resolved once a connection."""

    since: dict[str, ChangedSince]

    @property
    def newest_write(self) -> WriteNumber: ...

    @property
    def size(self) -> int: ...


class Bitmaps(Protocol):
    """Answers block status for bitmaps of changes."""

    async def changed(
        self, export: BitmapExport, context: str, source: object, offset: int, length: int
    ) -> Extents:
        """What changed in ``source`` since the context's moment. NotFound: the moment is not retained any more."""
