"""The volume roots of pinned moments, followed back from the horizon by what was rescued for each.

Of a block that a moment's tables name, what the next newer moment has is taken out of the sum, and what this one
had is put in.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from revolume.blocks import root as roots
from revolume.blocks.delta_map import DeltaMap, merge
from revolume.blocks.root import Root
from revolume.chain.map_file import MapFile
from revolume.volume.image.block_digests import BlockDigests

U64 = npt.NDArray[np.uint64]


def rescued_pieces(tables: Sequence[MapFile]) -> Iterator[DeltaMap]:
    """What a moment's tables say, ascending; the first that names a block is right. Waits for the disk."""
    pieces: Iterator[DeltaMap] = iter(())
    for table in reversed(tables):
        pieces = merge(table.pieces(), pieces)
    return pieces


def root_before(root: Root, piece: DeltaMap, newer: Sequence[MapFile], digests: BlockDigests) -> Root:
    """The root after a piece of a moment's rescued blocks has taken the place of what the next newer moment has:
    what ``newer``, the tables of all newer moments in order of age, or else the image says."""
    found = digests.get(piece.blocks, False)
    assert found is not None
    later, missing = found.copy(), np.ones(len(piece), bool)
    for table in newer:
        named = table.get(piece.blocks, False)
        assert named is not None
        hit = missing & (named[0] != 0)
        later[hit] = named[1][hit]
        missing &= ~hit
    return roots.add(roots.subtract(root, piece.blocks, later), piece.blocks, piece.digests)
