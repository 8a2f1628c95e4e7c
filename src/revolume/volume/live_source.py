"""The live volume as something to read: the live map, with the partial buffer beside it."""

from __future__ import annotations

import numpy as np

from revolume.blocks.word import PARTIAL
from revolume.volume.core import Core
from revolume.volume.live import LiveMap
from revolume.volume.partials import Partials
from revolume.volume.reader import Reader


class LiveSource:
    """See ``reader.Source``."""

    core: Core
    partials: Partials
    reader: Reader

    def __init__(self, live: LiveMap) -> None:
        self._live = live
        self.lookup = live.lookup
        self.settle = live.settle

    @property
    def generation(self) -> int:
        """Counts folds and new bases."""
        return self.core.generation

    def base_of(self, block: int) -> tuple[int, int]:
        """What the live map says of a block whose first fragment has just been written."""
        words, digests = self._live.lookup(np.array([block], np.uint64))
        return int(words[0]), int(digests[0])

    def note_partial(self, touched: list[tuple[int, int]]) -> None:
        """These blocks' newest versions lie in the partial buffer, since these transfers."""
        blocks = np.array([block for block, _ in touched], np.uint64)
        words = np.array([PARTIAL << 62 | address for _, address in touched], np.uint64)
        self._live.put(blocks, words, np.zeros(len(blocks), np.uint64))

    def partial(self, block: int) -> bytes | bytearray | None:
        """The content of a block in the partial buffer."""
        partial = self.partials.blocks.get(block)
        return None if partial is None else partial.data

    async def merge_partial(self, block: int) -> None:
        """Read the base of a block in the partial buffer, if that is still to be done."""
        partial = self.partials.blocks.get(block)
        if partial is not None and partial.data is None:
            base = await self.reader.read_version(block, partial.base_word, partial.base_digest)
            partial.merge(base)
