"""Any copy of a block, by its digest: also one that nothing names any more, in a segment that was folded and is
free."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import numpy.typing as npt

from revolume.blocks.digest import block_digests
from revolume.blocks.geometry import BLOCK
from revolume.log.read.scan import FoundTransfer
from revolume.offline.walk.tolerant_read import read

U64 = npt.NDArray[np.uint64]


class DigestIndex:
    """Finds blocks by digest in all transfers found. The index is built when the first block is missed."""

    def __init__(self, found: list[FoundTransfer]) -> None:
        self._found = found

    def find(self, digest: int) -> memoryview | None:
        """A block (4096 bytes) with this digest, read and verified; None if there is none."""
        digests, order, owners, firsts = self._index
        low, high = (
            np.searchsorted(digests, np.uint64(digest), "left"),
            np.searchsorted(digests, np.uint64(digest), "right"),
        )
        for place in order[low:high].tolist():
            owner = int(owners[place])
            found = self._found[owner]
            at = found.payload_block + place - int(firsts[owner])
            data = read(found.segment.file, at * BLOCK, BLOCK)
            if block_digests(data, 1) == [digest]:
                return data
        return None

    @cached_property
    def _index(self) -> tuple[U64, npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """(digests sorted, where each was before, its transfer, each transfer's first)."""
        counts = np.array([one.transfer.blocks for one in self._found], np.int64)
        digests = np.concatenate(
            [np.zeros(0, np.uint64), *(one.transfer.digests[: one.transfer.blocks] for one in self._found)]
        )
        order = np.argsort(digests, kind="stable")
        return digests[order], order, np.repeat(np.arange(len(counts)), counts), np.cumsum(counts) - counts
