"""Several map files as one, the newest first: what a moment of a long history is looked up in.

Each layer begins where the one below it ends, or before that: of a block that several name, the version of the
newest is right, and within one layer an entry wins over a zero range. So a lookup goes from layer to layer with
the blocks that are not found yet. Nothing is merged but what somebody walks through.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt

from revolume.blocks.delta_map import DeltaMap, merge
from revolume.blocks.ranges import Ranges
from revolume.chain.map_builder import uncovered
from revolume.chain.map_file import MapFile
from revolume.chain.rung_builder import ranges_over

U64 = npt.NDArray[np.uint64]


class LayeredMap:
    """Read as a ``MapFile`` is. The layers, newest first, belong to whoever made it."""

    def __init__(self, layers: Sequence[MapFile]) -> None:
        self._layers = tuple(layers)

    @property
    def damaged(self) -> bool:
        """A page of a layer has been met that is not what was written."""
        return any(layer.damaged for layer in self._layers)

    @cached_property
    def _ranges(self) -> Ranges:
        made = Ranges()
        for layer in reversed(self._layers):
            made = ranges_over(layer.ranges(), made)
        return made

    def ranges(self) -> Ranges:
        """The zero ranges of all layers; an entry wins over them."""
        return self._ranges

    def get(self, blocks: U64, nowait: bool) -> tuple[U64, U64] | None:
        """Locations and digests (uint64, one for each of ``blocks``, which may be in any order) of the newest
        layer that has each; 0 where none has it. None, only with ``nowait``: pages would have to be read. Damaged:
        a page is not what was written."""
        first, *older = self._layers
        found = first.get(blocks, nowait)
        if found is None:
            return None
        words, digests = found
        for layer in older:
            missing = np.flatnonzero(words == 0)
            if not len(missing):
                break
            found = layer.get(blocks[missing], nowait)
            if found is None:
                return None
            words[missing], digests[missing] = found
        return words, digests

    def within(self, start: int, end: int) -> Iterator[DeltaMap]:
        """Entries of the blocks [start, end), ascending, in pieces: those that no newer layer covers. Waits for
        the disk."""
        oldest, *newer = reversed(self._layers)
        pieces = oldest.within(start, end)
        for layer in newer:
            pieces = merge(layer.within(start, end), uncovered(pieces, layer.ranges()))
        return (piece for piece in pieces if len(piece))

    def pieces(self) -> Iterator[DeltaMap]:
        """All entries that no newer layer covers, ascending, in pieces. Waits for the disk."""
        return self.within(0, 1 << 62)
