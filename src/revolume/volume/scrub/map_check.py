"""A slice of a map file: its pages, and for a table of rescued blocks the blocks that it leads to, in the helper
process."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass

import numpy as np

from revolume.blocks.block_location import ADDRESS_MASK, DATA, RESCUED, RESCUED_SHIFT, kinds
from revolume.blocks.delta_map import DeltaMap
from revolume.blocks.digest import LOST_DIGEST
from revolume.blocks.geometry import BLOCK
from revolume.chain.map_file import MapFile
from revolume.errors import Damaged
from revolume.host.disk import Directory, Disk
from revolume.volume.heal.damaged_block import DamagedBlock
from revolume.volume.metadata import layout
from revolume.volume.scrub.finding import Finding, Part
from revolume.volume.scrub.image_check import medium_of, wrong_blocks

_ENTRY_BYTES = 24
_EVERY_BLOCK = 1 << 62


@dataclass(frozen=True, slots=True)
class MapSlice:
    """Entries of the map ``name`` in the directory ``path`` from block ``first`` on, until ``size`` bytes are
    read. ``table``: it is a table of rescued blocks, which lie in the same directory."""

    path: str
    volume: bytes
    name: str
    first: int
    size: int
    table: bool = False


@dataclass(frozen=True, slots=True)
class MapChecked:
    """``next_block``: where the next slice begins; None: the map is done, or nothing of it can be followed."""

    findings: tuple[Finding, ...]
    next_block: int | None
    bytes_read: int


def check_map(disk: Disk, spec: MapSlice) -> MapChecked:
    """Read the slice. OSError: the file is gone."""
    with closing(disk.open(spec.path)) as directory:
        return _MapCheck(spec, directory).run()


class _MapCheck:
    def __init__(self, spec: MapSlice, directory: Directory) -> None:
        self._spec = spec
        self._directory = directory
        self._findings: list[Finding] = []
        self._read = 0

    def run(self) -> MapChecked:
        spec = self._spec
        file = self._directory.open(spec.name, write=False)
        try:
            with closing(MapFile.open(file, spec.volume)) as found:
                following = self._entries(found)
        except Damaged:
            part = Part.TABLE if spec.table else Part.MAP
            self._findings.append(Finding(part, self._where(spec.name)))
            following = None
        return MapChecked(tuple(self._findings), following, self._read)

    def _entries(self, found: MapFile) -> int | None:
        for piece in found.within(self._spec.first, _EVERY_BLOCK):
            self._read += len(piece) * _ENTRY_BYTES
            if self._spec.table:
                self._blocks(piece)
            if self._read >= self._spec.size:
                return int(piece.blocks[-1]) + 1
        return None

    def _blocks(self, piece: DeltaMap) -> None:
        data = piece.entries((kinds(piece.locations) == DATA) & (piece.digests != np.uint64(LOST_DIGEST)))
        places = data.locations & np.uint64(ADDRESS_MASK)
        numbers = (places - np.uint64(RESCUED)) >> np.uint64(RESCUED_SHIFT)
        for number in sorted(set(numbers.tolist())):
            chosen = np.flatnonzero(numbers == number)
            self._file(number, data.entries(chosen[np.argsort(places[chosen])]))

    def _file(self, number: int, data: DeltaMap) -> None:
        """Entries of one rescue file, in the order of their places."""
        name = layout.rescue_file_name(number)
        first = RESCUED + (number << RESCUED_SHIFT)
        places = (data.locations & np.uint64(ADDRESS_MASK)) - np.uint64(first)
        blocks = dict(zip(places.tolist(), data.blocks.tolist(), strict=True))
        with closing(self._directory.open(name, write=False)) as file:
            medium = medium_of(file, places)
            for place, digest in wrong_blocks(medium, places, data.digests):
                damaged = DamagedBlock(blocks[place], digest, DATA, first + place)
                self._findings.append(Finding(Part.BLOCK, self._where(name, place * BLOCK), damaged))
            self._read += medium.bytes_read

    def _where(self, name: str, offset: int | None = None) -> str:
        folder = self._spec.path.rsplit("/", 1)[-1]
        return f"{folder}/{name}" if offset is None else f"{folder}/{name}, byte {offset}"
