"""Writing many blocks into the image and its digests, in big sorted batches; in the helper process.

Order: image written → synced → digests put → committed. The commit is the caller's.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from revolume.blocks.extents import contiguous
from revolume.blocks.geometry import BLOCK
from revolume.blocks.ranges import Ranges
from revolume.host.disk import Buffer, File
from revolume.volume.image.digest_writer import DigestWriter

U64 = npt.NDArray[np.uint64]


class ImageWriter:
    """Of one job. ``written``: bytes, so far."""

    def __init__(self, image: File, sums: DigestWriter) -> None:
        self._image = image
        self._sums = sums
        self.written = 0

    def fit(self, size: int) -> None:
        """The volume has at least so many bytes."""
        if self._image.size() < size:
            self._image.truncate(size)
        blocks = -(-size // BLOCK)
        if self._sums.blocks < blocks:
            self._sums.resize(blocks)

    def punch(self, zeroes: Ranges, blocks: U64) -> int:
        """These ranges, and these blocks, ascending, read as zeroes; how many that are."""
        zeroed = 0
        for start, end, _ in zeroes:
            self._image.punch(start * BLOCK, (end - start) * BLOCK)
            zeroed += end - start
        _, counts, firsts = contiguous(blocks)
        for first, count in zip(firsts.tolist(), counts.tolist(), strict=True):
            self._image.punch(first * BLOCK, count * BLOCK)
            zeroed += count
        return zeroed

    def sync(self) -> None:
        """What was written is on the disk."""
        self._image.datasync()

    def zero_sums(self, zeroes: Ranges, blocks: U64) -> None:
        """The digests of what reads as zeroes."""
        for start, end, _ in zeroes:
            self._sums.zero(start, end)
        if len(blocks):
            self._sums.put(blocks, np.zeros(len(blocks), np.uint64))

    def write(self, blocks: U64, view: memoryview) -> None:
        """The blocks, which lie one behind the other in ``view``, to their places in ascending order: every run of
        neighbours by one call, from where its parts lie. Sorting the bytes would touch as many again."""
        order = np.argsort(blocks)
        places = blocks[order]
        follows = places[1:] == places[:-1] + np.uint64(1)
        parted = np.flatnonzero(~(follows & (order[1:] == order[:-1] + 1))) + 1
        starts = np.concatenate((np.zeros(1, np.int64), parted))
        counts = np.diff(starts, append=np.int64(len(order)))
        run: list[Buffer] = []
        begin = end = 0
        parts = zip(places[starts].tolist(), order[starts].tolist(), counts.tolist(), strict=True)
        for place, source, count in parts:
            if run and place != end:
                self._image.pwritev(run, begin * BLOCK)
                run = []
            if not run:
                begin = place
            run.append(view[source * BLOCK : (source + count) * BLOCK])
            end = place + count
        self._image.pwritev(run, begin * BLOCK)
        self.written += len(view)
