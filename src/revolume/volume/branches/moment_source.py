"""Where a past moment of a copy that is being opened has its blocks: a consistency point of its log.

In the log, as far as that was changed since the moment before; else rescued, where the image has gone on since;
else in the image. No block is partially modified there: the point's record carried them whole. A block of which
that can't be read is damaged at that moment.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from revolume.blocks.block_location import ZERO, kinds
from revolume.blocks.delta_map import DeltaMap
from revolume.blocks.numbers import WriteNumber
from revolume.chain.versions import NewestVersions
from revolume.errors import Damaged
from revolume.volume.image.volume_image import VolumeImage
from revolume.volume.livemap.reader import ReadVersion
from revolume.volume.rescue.rescued_blocks import RescuedBlocks

U64 = npt.NDArray[np.uint64]


class MomentSource:
    """What a reader reads from, as of ``write``. ``found``: what the log changed up to there, since a moment from
    which on nobody asks for other blocks that it changed."""

    def __init__(
        self, write: WriteNumber, found: NewestVersions, image: VolumeImage, rescued: RescuedBlocks
    ) -> None:
        self._write = write
        self._delta = found.delta
        self._partly = np.array(sorted({fragment.block for fragment in found.fragments}), np.uint64)
        self._image = image
        self._rescued = rescued

    @property
    def generation(self) -> int:
        """Nothing moves while a copy is being opened."""
        return self._image.generation

    def lookup(self, blocks: U64) -> tuple[U64, U64]:
        """Nothing; ``settle`` finds all."""
        return np.zeros(len(blocks), np.uint64), np.zeros(len(blocks), np.uint64)

    def settle(self, blocks: U64, words: U64, digests: U64, nowait: bool) -> bool:
        """Find locations and digests (uint64, one for each of ``blocks``), in place. False: pages would have to be
        read, only with ``nowait``. Damaged: a page is not what was written, or a block is not whole."""
        if np.isin(blocks, self._partly).any():
            raise Damaged(
                "log-block-damaged", "A block's content at that moment is not whole in the log any more.",
                "Other moments may have it.",
            )  # fmt: skip
        words[:], digests[:] = _found(self._delta, blocks)
        missing = np.flatnonzero(words == 0)
        zero = kinds(words) == ZERO
        words[zero], digests[zero] = 0, 0
        return not len(missing) or self._from_image(missing, blocks, words, digests, nowait)

    def _from_image(
        self, missing: npt.NDArray[np.int64], blocks: U64, words: U64, digests: U64, nowait: bool
    ) -> bool:
        sums = self._image.digests.get(blocks[missing], nowait)
        if sums is None:
            return False
        digests[missing] = sums
        if not self._rescued.needed_by(self._write):
            return True
        found = self._rescued.get(self._write, blocks[missing], nowait)
        if found is None:
            return False
        hit = found[0] != 0
        at = missing[hit]
        words[at], digests[at] = found[0][hit], found[1][hit]
        words[at[kinds(words[at]) == ZERO]] = 0
        return True

    def partial(self, block: int) -> bytes | bytearray | None:
        """There is none."""
        return None

    async def merge_partial(self, block: int, read_version: ReadVersion) -> None:
        """Nothing is merged here."""

    async def mended(self) -> bool:
        """It is in memory."""
        return False


def _found(delta: DeltaMap, blocks: U64) -> tuple[U64, U64]:
    words, digests = delta.zeroes.get(blocks), np.zeros(len(blocks), np.uint64)
    if len(delta):
        at = np.minimum(delta.blocks.searchsorted(blocks), len(delta) - 1)
        hit = delta.blocks[at] == blocks
        words[hit], digests[hit] = delta.locations[at[hit]], delta.digests[at[hit]]
    return words, digests
