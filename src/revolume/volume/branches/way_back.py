"""The way back to a pinned point that the image has left: what was rescued since is staged as a jump to it.

The tables of the point and of every newer moment name each block that has changed, with what it was; the first
that names one is right. Their content goes into ``jump/`` (``volume/jump/``), durable; the manifest's edit that
flips the jump is the caller's, and the opening that follows puts it into the image. Until that edit nothing leads
there.

Runs in the helper process.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from revolume.blocks.block_location import ADDRESS_MASK, DATA, DATA_WORD, RESCUED, RESCUED_SHIFT, ZERO_WORD, kinds
from revolume.blocks.delta_map import DeltaMap
from revolume.blocks.extents import contiguous
from revolume.blocks.geometry import BLOCK, ceil_div
from revolume.blocks.numbers import Address, Position
from revolume.chain.map_file import MapFile, MapMeta, write_map
from revolume.host.disk import Directory, Disk, File
from revolume.volume.metadata import layout
from revolume.volume.metadata.jump_table import JumpTable
from revolume.volume.metadata.manifest_state import (
    Horizon,
    Jump,
    JumpTarget,
    PinnedSnapshot,
    Rescue,
    State,
)
from revolume.volume.rescue.moment_roots import rescued_pieces

U64 = npt.NDArray[np.uint64]
PIECE_BLOCKS = 4096
TABLE = 1
"""The number of the one table that is staged."""


@dataclass(frozen=True, slots=True)
class BackSpec:
    """Stage the way back to ``point`` in the volume in ``path``. ``tables``: in the order in which they are
    asked."""

    path: str
    volume: bytes
    point: Horizon
    tables: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Staged:
    """What was staged: blocks named, and blocks with content."""

    entries: int
    blocks: int


def back_spec(state: State, path: str, rescues: tuple[Rescue, ...]) -> BackSpec:
    """The job that stages the way back to the first of these moments."""
    tables = tuple(table.number for rescue in rescues for table in rescue.tables)
    return BackSpec(path, state.volume, rescues[0].moment, tables)


def jump_back(state: State, point: Horizon, staged: Staged, snapshots: tuple[PinnedSnapshot, ...]) -> Jump:
    """The flipped jump. ``snapshots``: the names that there are at the point."""
    target = JumpTarget(
        point=replace(point, address=Address(0), pages_generation=0),
        epochs=tuple(epoch for epoch in state.epochs if epoch.position < point.position),
        snapshots=snapshots,
        names_position=Position(min(state.names_position, point.position)),
        members=state.members,
        since=point.point,
    )
    tables = (JumpTable(TABLE, staged.entries),) if staged.entries else ()
    return Jump(target, ceil_div(point.size, BLOCK), tables, staged.blocks, flipped=True)


def blocks_since(disk: Disk, spec: BackSpec) -> U64:
    """The blocks (uint64, ascending) that the tables name."""
    with ExitStack() as held:
        directory = held.enter_context(closing(disk.open(spec.path)))
        found = [piece.blocks for piece in rescued_pieces(_tables(directory, spec, held))]
        return np.concatenate([np.zeros(0, np.uint64), *found])


def stage_back(disk: Disk, spec: BackSpec) -> Staged:
    """Stage it; durable when it returns. Damaged: a table is not what was written. OSError: the disk failed, or is
    full."""
    with ExitStack() as held:
        directory = held.enter_context(closing(disk.open(spec.path)))
        pieces = rescued_pieces(_tables(directory, spec, held))
        staged = held.enter_context(closing(directory.child(layout.JUMP, create=True)))
        for name in staged.names():
            with suppress(FileNotFoundError):
                staged.remove(name)
        file = held.enter_context(closing(staged.open(layout.JUMP_BLOCKS, create=True, exclusive=True)))
        table = staged.open(layout.jump_table_name(TABLE), create=True, exclusive=True)
        held.enter_context(closing(table))
        copy = _Copy(directory, file, held)
        meta = MapMeta(spec.point.write, Address(0), spec.point.point)
        entries = write_map(table, spec.volume, meta, (copy.copied(piece) for piece in _sliced(pieces)))
        file.datasync()
        staged.sync()
        return Staged(entries, copy.blocks)


def _tables(directory: Directory, spec: BackSpec, held: ExitStack) -> list[MapFile]:
    if not spec.tables:
        return []
    rescued = held.enter_context(closing(directory.child(layout.RESCUE)))
    opened = []
    for number in spec.tables:
        file = rescued.open(layout.rescue_table_name(number), write=False)
        opened.append(held.enter_context(closing(MapFile.open(file, spec.volume))))
    return opened


def _sliced(pieces: Iterator[DeltaMap]) -> Iterator[DeltaMap]:
    for piece in pieces:
        for at in range(0, len(piece), PIECE_BLOCKS):
            yield piece.entries(slice(at, at + PIECE_BLOCKS))


class _Copy:
    """Copies what table entries lead to behind what has been copied."""

    def __init__(self, directory: Directory, file: File, held: ExitStack) -> None:
        self._directory = directory
        self._file = file
        self._held = held
        self._rescued: Directory | None = None
        self._files: dict[int, File] = {}
        self.blocks = 0

    def copied(self, piece: DeltaMap) -> DeltaMap:
        data = np.flatnonzero(kinds(piece.locations) == np.uint64(DATA))
        places = (piece.locations[data] & np.uint64(ADDRESS_MASK)) - np.uint64(RESCUED)
        content = memoryview(bytearray(len(data) * BLOCK))
        starts, counts, firsts = contiguous(places)
        for start, count, first in zip(starts.tolist(), counts.tolist(), firsts.tolist(), strict=True):
            number, index = divmod(first, 1 << RESCUED_SHIFT)
            self._of(number).preadv([content[start * BLOCK : (start + count) * BLOCK]], index * BLOCK)
        if len(data):
            self._file.pwritev([content], self.blocks * BLOCK)
        locations = np.full(len(piece), ZERO_WORD, np.uint64)
        locations[data] = np.uint64(DATA_WORD | self.blocks) + np.arange(len(data), dtype=np.uint64)
        self.blocks += len(data)
        return DeltaMap(piece.blocks, locations, piece.digests)

    def _of(self, number: int) -> File:
        if self._rescued is None:
            self._rescued = self._held.enter_context(closing(self._directory.child(layout.RESCUE)))
        if number not in self._files:
            file = self._rescued.open(layout.rescue_file_name(number), write=False)
            self._files[number] = self._held.enter_context(closing(file))
        return self._files[number]
