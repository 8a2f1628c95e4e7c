"""The rescued blocks of one moment copied into one file, with one table, where many files have come together.

A moment gets the tables and files of each newer one that nobody pins any more. Where a policy keeps every point
for a while, and one of them a day for longer, that would be a file for each point of that day. Runs in the helper
process. Blocks are copied as they are: what is damaged stays so, and its digest says it. """

from __future__ import annotations

from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from revolume.blocks.block_location import (
    ADDRESS_MASK,
    DATA,
    DATA_WORD,
    RESCUED,
    RESCUED_SHIFT,
    kinds,
    rescued_address,
)
from revolume.blocks.delta_map import DeltaMap
from revolume.blocks.geometry import BLOCK
from revolume.chain.map_file import MapFile, MapMeta, write_map
from revolume.host.disk import Directory, Disk, File
from revolume.volume.metadata import layout
from revolume.volume.rescue.moment_roots import rescued_pieces

U64 = npt.NDArray[np.uint64]
PIECE_BLOCKS = 1024


@dataclass(frozen=True, slots=True)
class GatherSpec:
    """``tables`` of one moment, the first that names a block is right, become table and file of ``number``."""

    path: str
    volume: bytes
    meta: MapMeta
    tables: tuple[int, ...]
    number: int


@dataclass(frozen=True, slots=True)
class Gathered:
    """Entries of the new table, and blocks in the new file."""

    entries: int
    blocks: int


def gather(disk: Disk, spec: GatherSpec) -> Gathered:
    """Both are synced. Damaged: a table is not what was written; OSError: a file is gone, or the disk failed or is
    full. Then nothing is left of them."""
    with ExitStack() as held:
        directory = held.enter_context(closing(disk.open(spec.path)))
        rescued = held.enter_context(closing(directory.child(layout.RESCUE)))
        tables = [
            held.enter_context(
                closing(MapFile.open(rescued.open(layout.rescue_table_name(number), write=False), spec.volume))
            )
            for number in spec.tables
        ]
        names = layout.rescue_table_name(spec.number), layout.rescue_file_name(spec.number)
        for name in names:
            if rescued.exists(name):
                rescued.remove(name)
        try:
            return _Copy(rescued, spec, held).run(tables, *names)
        except BaseException:
            for name in names:
                with suppress(OSError):
                    rescued.remove(name)
            raise


class _Copy:
    def __init__(self, rescued: Directory, spec: GatherSpec, held: ExitStack) -> None:
        self._rescued = rescued
        self._spec = spec
        self._held = held
        self._files: dict[int, File] = {}
        self._blocks = 0

    def run(self, tables: list[MapFile], table_name: str, file_name: str) -> Gathered:
        into = self._held.enter_context(closing(self._rescued.open(file_name, create=True, exclusive=True)))
        table = self._held.enter_context(closing(self._rescued.open(table_name, create=True, exclusive=True)))
        pieces = (
            self._copied(piece.entries(slice(at, at + PIECE_BLOCKS)), into)
            for piece in rescued_pieces(tables)
            for at in range(0, len(piece), PIECE_BLOCKS)
        )
        entries = write_map(table, self._spec.volume, self._spec.meta, pieces)
        into.datasync()
        self._rescued.sync()
        return Gathered(entries, self._blocks)

    def _copied(self, piece: DeltaMap, into: File) -> DeltaMap:
        data = kinds(piece.locations) == np.uint64(DATA)
        addresses = (piece.locations[data] & np.uint64(ADDRESS_MASK)) - np.uint64(RESCUED)
        content = memoryview(bytearray(len(addresses) * BLOCK))
        for at, address in enumerate(addresses.tolist()):
            number, index = divmod(address, 1 << RESCUED_SHIFT)
            self._file(number).preadv([content[at * BLOCK : (at + 1) * BLOCK]], index * BLOCK)
        if len(addresses):
            into.pwritev([content], self._blocks * BLOCK)
        locations = piece.locations.copy()
        begin = np.uint64(DATA_WORD | rescued_address(self._spec.number, self._blocks))
        locations[data] = begin + np.arange(len(addresses), dtype=np.uint64)
        self._blocks += len(addresses)
        return DeltaMap(piece.blocks, locations, piece.digests)

    def _file(self, number: int) -> File:
        if number not in self._files:
            file = self._rescued.open(layout.rescue_file_name(number), write=False)
            self._files[number] = self._held.enter_context(closing(file))
        return self._files[number]
