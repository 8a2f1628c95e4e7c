"""What has arrived of a jump, read: its tables one behind the other, and where a block's content lies.

Every table names blocks behind those of the table before, so together they ascend. A word is DATA with the block's
index in the file ``blocks``, or ZERO, where the block reads as zeroes and takes no room.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from revolume.blocks.block_location import ADDRESS_MASK, DATA, kinds
from revolume.blocks.delta_map import DeltaMap
from revolume.blocks.ranges import Ranges
from revolume.chain.map_file import MapFile
from revolume.host.disk import Directory
from revolume.volume.metadata import layout
from revolume.volume.metadata.manifest_state import Jump
from revolume.volume.rescue.rescue_job import Changes

U64 = npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class JumpTables:
    """The tables of a jump by their numbers; as what is about to be overwritten, too."""

    numbers: tuple[int, ...]

    @classmethod
    def of(cls, jump: Jump) -> JumpTables:
        return cls(tuple(table.number for table in jump.tables))

    def changes(self, directory: Directory, volume: bytes, held: ExitStack) -> Changes:
        """Of the volume in ``directory``, in pieces; closed with ``held``."""
        staged = held.enter_context(closing(directory.child(layout.JUMP))) if self.numbers else directory
        return Changes(pieces(staged, volume, self.numbers), Ranges())


def pieces(staged: Directory, volume: bytes, numbers: Sequence[int]) -> Iterator[DeltaMap]:
    """All entries, ascending; ``staged`` is the jump's directory. Damaged: a table is not what was written."""
    for number in numbers:
        with closing(open_table(staged, volume, number)) as table:
            yield from table.pieces()


def open_table(staged: Directory, volume: bytes, number: int) -> MapFile:
    """The caller closes it."""
    return MapFile.open(staged.open(layout.jump_table_name(number), write=False), volume)


def with_content(piece: DeltaMap) -> DeltaMap:
    """The entries of blocks that have content."""
    return piece.entries(kinds(piece.locations) == np.uint64(DATA))


def indexes(piece: DeltaMap) -> U64:
    """Where in the file of blocks the content of each entry lies, in blocks."""
    places: U64 = piece.locations & np.uint64(ADDRESS_MASK)
    return places
