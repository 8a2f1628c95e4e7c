"""Of a clone: which blocks of its image lie in its parent instead, and how they are read there.

A block lies in the parent while its digest is the one that it has at the point over which the clone lies; the
directory ``origin/`` keeps those (decision 0053). So nothing has to be noted when a fold writes a block into the
clone's own image: with the flip its digest is another. Where digests are equal either place has the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from revolume.blocks.digest import LOST_DIGEST
from revolume.host.disk import Directory
from revolume.volume.image.block_digests import BlockDigests
from revolume.volume.metadata import layout
from revolume.volume.metadata.clone_edits import CloneOrigin

U64 = npt.NDArray[np.uint64]
Mask = npt.NDArray[np.bool_]
REGION_BLOCKS: Final = 512
REGIONS_MAX: Final = 8192
"""4 MiB of memory, for 16 GiB of volume."""


class OriginBlocks(Protocol):
    """The parent's blocks as of the point over which a clone lies. Buffers hold whole blocks."""

    def read_now(self, first: int, view: memoryview) -> bool:
        """Fill ``view`` with the blocks from ``first`` on. False: that would have to wait."""

    def read(self, first: int, view: memoryview) -> bool:
        """Fill ``view`` with the blocks from ``first`` on, in a thread, waiting for the disk. False: one is not
        what was written."""


class OriginDigests:
    """The digests of the point over which a clone lies; also for the helper process."""

    def __init__(self, directory: Directory, digests: BlockDigests, own_below: int) -> None:
        """``own_below``: blocks below this are the clone's own, whatever their digests say. The directory, in
        which the digests are, is closed with this."""
        self._directory = directory
        self._digests = digests
        self.own_below = own_below

    @classmethod
    def open(cls, directory: Directory, volume: bytes, own_below: int) -> OriginDigests:
        """Of the clone in ``directory``. Damaged: they are not what was written."""
        origin = directory.child(layout.ORIGIN)
        try:
            return cls(origin, BlockDigests.open(origin, volume, write=False), own_below)
        except BaseException:
            origin.close()
            raise

    def there(self, blocks: U64, digests: U64, nowait: bool = False) -> Mask | None:
        """Which of the blocks (ascending or not) with these digests in the clone's image lie in the parent. None:
        pages would have to be waited for, only with ``nowait``."""
        theirs = self._digests.get(blocks, nowait)
        if theirs is None:
            return None
        mask: Mask = (theirs == digests) & (digests != 0) & (digests != np.uint64(LOST_DIGEST))
        return mask & (blocks >= np.uint64(self.own_below))

    def chunks(self, start: int) -> Iterator[tuple[U64, U64]]:
        """(blocks, digests) of the parent's blocks from ``start`` on, ascending, in pieces."""
        return self._digests.within(start, self._digests.blocks)

    def verify(self) -> None:
        """Read every page. Damaged: one is not what was written."""
        self._digests.verify()

    def close(self) -> None:
        """Close the files."""
        self._digests.close()
        self._directory.close()


class OriginImage:
    """Of an open clone. Once it is independent, nothing lies in the parent any more."""

    def __init__(
        self, record: CloneOrigin, digests: OriginDigests, current: BlockDigests, blocks: OriginBlocks
    ) -> None:
        """``current``: the digests of the clone's image."""
        self.record = record
        self.digests = digests
        self.blocks = blocks
        self.released = False
        self._current = current
        self._known: dict[int, tuple[tuple[int, int], Mask]] = {}

    def there(self, blocks: U64, nowait: bool = False) -> Mask | None:
        """Which of these blocks of the image lie in the parent now. None: only with ``nowait``."""
        if self.released:
            return np.zeros(len(blocks), bool)
        digests = self._current.get(blocks, nowait)
        return None if digests is None else self.digests.there(blocks, digests, nowait)

    def run_there(self, first: int, count: int, nowait: bool) -> Mask | None:
        """``there`` of the blocks from ``first`` on. What was found of a region is remembered until a fold has
        changed the image."""
        region, at = divmod(first, REGION_BLOCKS)
        if at + count > REGION_BLOCKS:
            return self.there(np.arange(first, first + count, dtype=np.uint64), nowait)
        key = self._current.facts.generation, self.digests.own_below
        known = self._known.get(region)
        if known is None or known[0] != key:
            begin = region * REGION_BLOCKS
            mask = self.there(np.arange(begin, begin + REGION_BLOCKS, dtype=np.uint64), nowait)
            if mask is None:
                return None
            if len(self._known) >= REGIONS_MAX:
                self._known.clear()
            known = self._known[region] = key, mask
        return known[1][at : at + count]

    def release(self) -> None:
        """Everything is in the clone's own image, and the manifest says so."""
        self.released = True

    def close(self) -> None:
        """Nobody may be reading any more."""
        self.digests.close()
