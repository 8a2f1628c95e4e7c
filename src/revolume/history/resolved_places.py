"""Where the blocks of a moment lie, resolved a region at a time and remembered.

To resolve one block costs about as much as to resolve five hundred. A clone reads its parent run by run, so it
asks here: what was resolved holds until a fold or a new base has moved something in the parent.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from revolume.errors import Damaged
from revolume.history.view_source import ViewSource

U64 = npt.NDArray[np.uint64]
REGION_BLOCKS: Final = 512
REGIONS_MAX: Final = 2048
"""16 MiB of memory, for 4 GiB of volume."""


class ResolvedPlaces:
    """Of one view's source. Used in the loop alone."""

    def __init__(self, source: ViewSource) -> None:
        self._source = source
        self._generation = source.generation
        self._regions: dict[int, tuple[U64, U64]] = {}

    def of(self, first: int, count: int, *, nowait: bool) -> tuple[list[int], list[int]] | None:
        """Words and digests of the blocks from ``first`` on. None: that would have to wait, only with ``nowait``,
        or can't be read."""
        words: list[int] = []
        digests: list[int] = []
        end = first + count
        while first < end:
            region, at = divmod(first, REGION_BLOCKS)
            found = self._region(region, nowait)
            if found is None:
                return None
            stop = min(REGION_BLOCKS, at + end - first)
            words += found[0][at:stop].tolist()
            digests += found[1][at:stop].tolist()
            first += stop - at
        return words, digests

    def _region(self, region: int, nowait: bool) -> tuple[U64, U64] | None:
        source = self._source
        if source.generation != self._generation:
            self._regions.clear()
            self._generation = source.generation
        found = self._regions.get(region)
        if found is None:
            blocks = np.arange(region * REGION_BLOCKS, (region + 1) * REGION_BLOCKS, dtype=np.uint64)
            words, digests = source.lookup(blocks)
            try:
                if not source.settle(blocks, words, digests, nowait):
                    return None
            except (Damaged, OSError):
                return None
            found = words, digests
            while len(self._regions) >= REGIONS_MAX:
                del self._regions[next(iter(self._regions))]
            self._regions[region] = found
        return found
