"""Blocks whose content points had to call lost: written in part over a version that can't be read."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from revolume.blocks.block_location import PARTIAL, unpack
from revolume.blocks.digest import LOST_DIGEST
from revolume.volume.livemap.live_map import LiveMap
from revolume.volume.livemap.partial_blocks import PartialBlocks


def lost_sentence(blocks: list[int]) -> str:
    """What is told of blocks that a point had to call lost."""
    more = f" (and {len(blocks) - 1} more)" if len(blocks) > 1 else ""
    return (
        f"Block {blocks[0]}{more} was written in part, and what was there before can't be read: "
        "reads of it are errors until it is overwritten whole."
    )


class LostBlocks:
    """Those that have not been overwritten since; which of them have, the live map and the partial blocks know."""

    def __init__(self, live: LiveMap, partials: PartialBlocks, blocks: Iterable[int] = ()) -> None:
        self._live = live
        self._partials = partials
        self.blocks = set(blocks)

    def add(self, blocks: Iterable[int]) -> list[int]:
        """A point has called these lost; those that were not known, ascending. Whatever has been overwritten is
        forgotten."""
        called = set(blocks)
        new = sorted(called - self.blocks)
        self.blocks = {block for block in self.blocks | called if self.still_lost(block)}
        return new

    def still(self) -> list[int]:
        """Those whose newest version is the lost one, ascending."""
        return sorted(filter(self.still_lost, self.blocks))

    def readable_again(self) -> bool:
        """Whether a block that the last point called lost has been read after all."""
        found = (self._partials.blocks.get(block) for block in self.blocks)
        return any(partial is not None and partial.data is not None for partial in found)

    def still_lost(self, block: int) -> bool:
        """Whether the newest version of a block is one that a point called lost (or, if only the base map or
        the image knows, may be)."""
        words, digests = self._live.lookup(np.array([block], np.uint64))
        if unpack(int(words[0]))[0] == PARTIAL:
            partial = self._partials.blocks.get(block)
            return partial is not None and partial.data is None
        return not words[0] or int(digests[0]) == LOST_DIGEST
