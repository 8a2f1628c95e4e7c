"""Tables of rescued blocks merged into one, so that a pinned moment is read through few of them.

Runs in the helper process. Of a block that several tables name the first one's entry stands; what the others lead
to is needed by nobody, and its room is given back once the manifest names the merged table.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from revolume.blocks.block_location import ADDRESS_MASK, DATA, RESCUED, RESCUED_SHIFT, kinds
from revolume.blocks.delta_map import DeltaMap, merge
from revolume.blocks.extents import contiguous
from revolume.blocks.geometry import BLOCK
from revolume.chain.map_file import MapFile, MapMeta, write_map
from revolume.host.disk import Disk
from revolume.volume.metadata import layout

U64 = npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class MergeSpec:
    """Merge two tables into a new one of number ``table``; ``first`` is asked before ``second``."""

    path: str
    volume: bytes
    meta: MapMeta
    first: int
    second: int
    table: int


@dataclass(frozen=True, slots=True)
class Merged:
    """Entries of the merged table, the numbers of the files that it leads to, and the runs of rescued blocks,
    (address, count), that it does not name any more."""

    entries: int
    files: frozenset[int]
    unneeded: tuple[tuple[int, int], ...]


def merge_tables(disk: Disk, spec: MergeSpec) -> Merged:
    """Write the merged table and sync it. Damaged: one of the two is not what was written. OSError: one
    is gone, or the disk failed; no table is left under the name."""
    with ExitStack() as held:
        directory = held.enter_context(closing(disk.open(spec.path)))
        rescued = held.enter_context(closing(directory.child(layout.RESCUE)))
        first, second = (
            held.enter_context(
                closing(MapFile.open(rescued.open(layout.rescue_table_name(number), write=False), spec.volume))
            )
            for number in (spec.first, spec.second)
        )
        name = layout.rescue_table_name(spec.table)
        if rescued.exists(name):
            rescued.remove(name)
        unneeded: list[U64] = []
        files: set[int] = set()
        pieces = _leading_to(merge(first.pieces(), _noted(second, first, unneeded)), files)
        try:
            with closing(rescued.open(name, create=True, exclusive=True)) as file:
                entries = write_map(file, spec.volume, spec.meta, pieces)
            rescued.sync()
        except BaseException:
            with suppress(OSError):
                rescued.remove(name)
            raise
        return Merged(entries, frozenset(files), _runs(unneeded))


def _noted(second: MapFile, first: MapFile, unneeded: list[U64]) -> Iterator[DeltaMap]:
    """The entries of the second table that the first has not; the locations of the others are noted."""
    for piece in second.pieces():
        found = first.get(piece.blocks, False)
        assert found is not None
        hidden = found[0] != 0
        unneeded.append(piece.locations[hidden & (kinds(piece.locations) == np.uint64(DATA))])
        yield piece.entries(~hidden)


def _leading_to(pieces: Iterator[DeltaMap], files: set[int]) -> Iterator[DeltaMap]:
    """Pass the pieces on, and add the numbers of the files that their entries lead to to ``files``."""
    for piece in pieces:
        data = piece.locations[kinds(piece.locations) == np.uint64(DATA)] & np.uint64(ADDRESS_MASK)
        numbers = (data - np.uint64(RESCUED)) >> np.uint64(RESCUED_SHIFT)
        files.update(set(numbers.tolist()))
        yield piece


def _runs(unneeded: list[U64]) -> tuple[tuple[int, int], ...]:
    addresses = np.sort(np.concatenate([np.zeros(0, np.uint64), *unneeded]) & np.uint64(ADDRESS_MASK))
    _, counts, firsts = contiguous(addresses)
    return tuple(zip(firsts.tolist(), counts.tolist(), strict=True))


def file_of(address: int) -> int:
    """The number of the file in which a rescued block lies."""
    return (address - RESCUED) >> RESCUED_SHIFT


def give_back(disk: Disk, path: str, runs: tuple[tuple[int, int], ...]) -> None:
    """Return the room of rescued blocks that nothing leads to. A file that is gone takes none."""
    with ExitStack() as held:
        directory = held.enter_context(closing(disk.open(path)))
        rescued = held.enter_context(closing(directory.child(layout.RESCUE)))
        for address, count in runs:
            number, index = divmod(address - RESCUED, 1 << RESCUED_SHIFT)
            with suppress(FileNotFoundError), closing(rescued.open(layout.rescue_file_name(number))) as file:
                file.punch(index * BLOCK, count * BLOCK)
