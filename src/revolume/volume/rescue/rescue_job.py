"""Rescuing: before a fold overwrites blocks of the image that a pinned moment still needs, they are copied.

A fold never crosses a pinned moment; it stops there, so that the image is exactly that moment's, and goes on. What
the next folds overwrite is copied once: a block that one of the moment's tables names already was copied when it
was first overwritten. So a pin keeps what changed since it, not the log.

Runs in the helper process, like the fold behind it. Order: blocks written behind those of before → table written →
both synced, names too. The manifest's edit is the caller's; the fold begins after it. A crash in between leaves
bytes that nothing leads to, which the next attempt overwrites.

A block that reads as zeroes takes an entry and no room. A block that is not what its digest says is named, so that
it can be healed and the rescue done again, and is copied as it is, with the digest that it should have: whoever
reads it later gets an error, not wrong bytes, and no fold stops."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from revolume.blocks.block_location import DATA_WORD, ZERO, ZERO_WORD, kinds, rescued_address
from revolume.blocks.delta_map import DeltaMap, merge
from revolume.blocks.digest import LOST_DIGEST, digest_array
from revolume.blocks.extents import contiguous
from revolume.blocks.geometry import BLOCK
from revolume.blocks.numbers import WriteNumber
from revolume.blocks.ranges import Ranges
from revolume.chain.map_file import MapFile, MapMeta, write_map
from revolume.chain.point_deltas import changed
from revolume.chain.versions import LogRange
from revolume.errors import Damaged
from revolume.host.disk import Directory, Disk, File
from revolume.volume.image.block_digests import BlockDigests
from revolume.volume.image.origin_image import OriginDigests
from revolume.volume.metadata import layout

U64 = npt.NDArray[np.uint64]
PIECE_BLOCKS = 8192
DAMAGED_MAX = 4096


@dataclass(frozen=True, slots=True)
class Changes:
    """What is about to be written into the image: blocks, ascending over all pieces, of which the kind of the
    location says whether they become zeroes; and ranges that do."""

    pieces: Iterable[DeltaMap]
    zeroes: Ranges


class Overwriting(Protocol):
    """Who is about to overwrite the image; asked in the helper process."""

    def changes(self, directory: Directory, volume: bytes, held: ExitStack) -> Changes:
        """Of the volume in ``directory``. Files are closed with ``held``."""


@dataclass(frozen=True, slots=True)
class FoldedLog:
    """The fold of ``log_range`` from write ``after`` to ``upto``."""

    log_range: LogRange
    after: WriteNumber
    upto: WriteNumber

    def changes(self, directory: Directory, volume: bytes, held: ExitStack) -> Changes:
        """The newest version of every block that changed."""
        log = held.enter_context(closing(directory.child(layout.LOG)))
        delta = changed(log, self.log_range, volume, self.after, self.upto).delta
        return Changes([delta.entries(slice(0, len(delta)))], delta.zeroes)


@dataclass(frozen=True, slots=True)
class RescueSpec:
    """Rescue for the moment ``meta`` what ``by`` overwrites. ``tables``: what the moment's tables name is there
    already. ``table``: the number of the new one. Blocks go into the file of number ``file``, behind its first
    ``file_blocks``. ``lossy``: a block that the disk does not give is taken for lost; else that is an error.
    ``own_below``: of a clone, as ``OriginDigests`` has it; what lies in the parent is left to the caller."""

    path: str
    volume: bytes
    by: Overwriting
    meta: MapMeta
    tables: tuple[int, ...]
    table: int
    file: int
    file_blocks: int
    lossy: bool = False
    own_below: int | None = None


@dataclass(frozen=True, slots=True)
class Rescued:
    """What a rescue did: entries of the new table (0: nothing was to be done, there is none), blocks copied, how
    many of those the disk could not read, and, as block and digest, those that are not what was written: at most
    ``DAMAGED_MAX`` of them. ``elsewhere``: of a clone, the blocks that lie in its parent, and the places of the
    file of blocks, uint64, that the caller has to fill with them."""

    entries: int
    blocks: int
    lost: int = 0
    damaged: tuple[tuple[int, int], ...] = ()
    elsewhere: tuple[U64, U64] | None = None


def rescue(disk: Disk, spec: RescueSpec) -> Rescued:
    """Copy what is about to be overwritten. OSError: the disk failed, or is full; nothing has happened then."""
    with ExitStack() as held:
        directory = held.enter_context(closing(disk.open(spec.path)))
        found = _Overwritten(directory, spec, held)
        pieces = found.pieces()
        first = next(pieces, None)
        if first is None:
            return Rescued(0, 0)
        image = held.enter_context(closing(directory.open(layout.IMAGE, write=False)))
        rescued = held.enter_context(closing(directory.child(layout.RESCUE, create=True)))
        origin = None
        if spec.own_below is not None:
            origin = held.enter_context(closing(OriginDigests.open(directory, spec.volume, spec.own_below)))
        return _Copy(spec, image, rescued, origin).run(_chained(first, pieces))


def rescue_growth(disk: Disk, spec: RescueSpec) -> int:
    """The bytes that this rescue would take, table included. Nothing is written."""
    with ExitStack() as held:
        directory = held.enter_context(closing(disk.open(spec.path)))
        data = entries = 0
        for piece in _Overwritten(directory, spec, held).pieces():
            data += int((piece.digests != 0).sum())
            entries += len(piece)
        return data * BLOCK + entries * 25 + 4 * BLOCK


def open_tables(rescued: Directory, volume: bytes, numbers: Sequence[int], held: ExitStack) -> list[MapFile]:
    """The tables of these numbers, but for those that are damaged or gone: what they name is rescued once more,
    and asked for it they raise an error before the newer table is asked."""
    tables = []
    for number in numbers:
        try:
            table = MapFile.open(rescued.open(layout.rescue_table_name(number), write=False), volume)
        except (Damaged, FileNotFoundError):
            continue
        tables.append(held.enter_context(closing(table)))
    return tables


class _Overwritten:
    """The blocks that will be overwritten and no table names: with their digests in the image, ascending."""

    def __init__(self, directory: Directory, spec: RescueSpec, held: ExitStack) -> None:
        self._changes = spec.by.changes(directory, spec.volume, held)
        self._sums = held.enter_context(closing(BlockDigests.open(directory, spec.volume, write=False)))
        self._tables: list[MapFile] = []
        if spec.tables:
            rescued = held.enter_context(closing(directory.child(layout.RESCUE)))
            self._tables = open_tables(rescued, spec.volume, spec.tables, held)

    def pieces(self) -> Iterator[DeltaMap]:
        for piece in merge(self._written(), self._zeroed()):
            for at in range(0, len(piece), PIECE_BLOCKS):
                left = self._left(piece.entries(slice(at, at + PIECE_BLOCKS)))
                if len(left):
                    yield left

    def _written(self) -> Iterator[DeltaMap]:
        for piece in self._changes.pieces:
            for at in range(0, len(piece), PIECE_BLOCKS):
                part = piece.entries(slice(at, at + PIECE_BLOCKS))
                digests = self._sums.get(part.blocks, False)
                assert digests is not None
                changes = (digests != 0) | (kinds(part.locations) != np.uint64(ZERO))
                yield DeltaMap(part.blocks, part.blocks, digests).entries(changes)

    def _zeroed(self) -> Iterator[DeltaMap]:
        """Of the zero ranges the blocks that do not read as zeroes yet: the others do not change."""
        for start, end, _ in self._changes.zeroes:
            for blocks, digests in self._sums.within(start, end):
                yield DeltaMap(blocks, blocks, digests)

    def _left(self, piece: DeltaMap) -> DeltaMap:
        for table in self._tables:
            found = _named(table, piece.blocks)
            piece = piece.entries(~found)
        return piece


def _named(table: MapFile, blocks: U64) -> npt.NDArray[np.bool_]:
    try:
        found = table.get(blocks, False)
    except Damaged:
        return np.zeros(len(blocks), bool)
    assert found is not None
    named: npt.NDArray[np.bool_] = found[0] != 0
    return named


def _chained(first: DeltaMap, rest: Iterator[DeltaMap]) -> Iterator[DeltaMap]:
    yield first
    yield from rest


class _Copy:
    def __init__(self, spec: RescueSpec, image: File, rescued: Directory, origin: OriginDigests | None) -> None:
        self._spec = spec
        self._image = image
        self._rescued = rescued
        self._blocks = 0
        self._lost = 0
        self._damaged: list[tuple[int, int]] = []
        self._origin = origin
        self._elsewhere: list[tuple[U64, U64]] = []

    def run(self, pieces: Iterator[DeltaMap]) -> Rescued:
        spec, rescued = self._spec, self._rescued
        name = layout.rescue_table_name(spec.table)
        if rescued.exists(name):
            rescued.remove(name)
        file = rescued.open(layout.rescue_file_name(spec.file), create=True)
        table = rescued.open(name, create=True, exclusive=True)
        with closing(file), closing(table):
            copied = (self._copied(piece, file) for piece in pieces)
            entries = write_map(table, spec.volume, spec.meta, copied)
            file.datasync()
        rescued.sync()
        damaged = tuple(self._damaged[:DAMAGED_MAX])
        return Rescued(entries, self._blocks, self._lost, damaged, self._left_to_the_caller())

    def _left_to_the_caller(self) -> tuple[U64, U64] | None:
        if not self._elsewhere:
            return None
        blocks, places = zip(*self._elsewhere, strict=True)
        return np.concatenate(blocks), np.concatenate(places)

    def _copied(self, piece: DeltaMap, file: File) -> DeltaMap:
        data = piece.digests != 0
        blocks = piece.blocks[data]
        content = memoryview(bytearray(len(blocks) * BLOCK))
        starts, counts, firsts = contiguous(blocks)
        for start, count, first in zip(starts.tolist(), counts.tolist(), firsts.tolist(), strict=True):
            self._read(first, content[start * BLOCK : (start + count) * BLOCK])
        at = self._spec.file_blocks + self._blocks
        here = ~self._lies_elsewhere(blocks, piece.digests[data], at)
        self._check(blocks, piece.digests[data], content, here)
        if len(blocks):
            file.pwritev([content], at * BLOCK)
        self._blocks += len(blocks)
        locations = np.full(len(piece), ZERO_WORD, np.uint64)
        begin = DATA_WORD | rescued_address(self._spec.file, at)
        locations[data] = np.uint64(begin) + np.arange(len(blocks), dtype=np.uint64)
        return DeltaMap(piece.blocks, locations, piece.digests)

    def _lies_elsewhere(self, blocks: U64, digests: U64, at: int) -> npt.NDArray[np.bool_]:
        """Which of the blocks, that go to the places from ``at`` on, lie in a clone's parent."""
        if self._origin is None:
            return np.zeros(len(blocks), bool)
        there = self._origin.there(blocks, digests)
        assert there is not None
        if there.any():
            self._elsewhere.append((blocks[there], np.uint64(at) + np.flatnonzero(there).astype(np.uint64)))
        return there

    def _check(self, blocks: U64, digests: U64, content: memoryview, here: npt.NDArray[np.bool_]) -> None:
        bad = here & (digest_array(content, len(blocks)) != digests) & (digests != np.uint64(LOST_DIGEST))
        if bad.any() and len(self._damaged) < DAMAGED_MAX:
            self._damaged += zip(blocks[bad].tolist(), digests[bad].tolist(), strict=True)

    def _read(self, first: int, view: memoryview) -> None:
        """Blocks of the image; what lies behind its end stays zero, and its digest says what it should be."""
        try:
            self._image.preadv([view], first * BLOCK)
        except OSError:
            if not self._spec.lossy:
                raise
            self._read_each(first, view)

    def _read_each(self, first: int, view: memoryview) -> None:
        for at in range(0, len(view), BLOCK):
            try:
                self._image.preadv([view[at : at + BLOCK]], first * BLOCK + at)
            except OSError:
                self._lost += 1
