"""The files of a clone, with the parent's blocks in place of those that its own image does not have."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from revolume.blocks.block_location import DATA
from revolume.blocks.geometry import BLOCK
from revolume.host.disk import Buffer, File
from revolume.log.write.segment_pool import SegmentPool
from revolume.volume.image.origin_image import OriginImage
from revolume.volume.livemap.reader import Store
from revolume.volume.rescue.rescued_blocks import RescuedBlocks


class OriginStore(Store):
    """Of one open clone."""

    def __init__(self, pool: SegmentPool, image: File, rescued: RescuedBlocks, origin: OriginImage) -> None:
        super().__init__(pool, image, rescued)
        self._origin = origin

    def pread(self, kind: int, address: int, buffers: list[Buffer], nowait: bool) -> bool:
        """Fill ``buffers`` from log or rescue file (DATA) or the image (else), whose blocks may lie in the parent.
        False: it would have to wait, or ends."""
        if kind == DATA or self._origin.released:
            return super().pread(kind, address, buffers, nowait)
        at = address
        for buffer in buffers:
            view = memoryview(buffer)
            if not self._from_image(kind, at, view, nowait):
                return False
            at += len(view) // BLOCK
        return True

    def _from_image(self, kind: int, first: int, view: memoryview, nowait: bool) -> bool:
        there = self._origin.run_there(first, len(view) // BLOCK, nowait)
        if there is None:
            return False
        if there.all():
            blocks = self._origin.blocks
            return blocks.read_now(first, view) if nowait else blocks.read(first, view)
        for start, end, elsewhere in _runs(there):
            part = view[start * BLOCK : end * BLOCK]
            if not elsewhere:
                read = super().pread(kind, first + start, [part], nowait)
            elif nowait:
                read = self._origin.blocks.read_now(first + start, part)
            else:
                read = self._origin.blocks.read(first + start, part)
            if not read:
                return False
        return True


def _runs(there: npt.NDArray[np.bool_]) -> Iterator[tuple[int, int, bool]]:
    """(start, end, value) of each stretch of equal values."""
    bounds = [0, *(np.flatnonzero(there[1:] != there[:-1]) + 1).tolist(), len(there)]
    for start, end in pairwise(bounds):
        yield start, end, bool(there[start])
