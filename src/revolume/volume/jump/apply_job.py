"""Putting what a jump has brought into the image, once it has been flipped; in the helper process.

Order: image written → image synced → its digests written, synced and committed. The manifest's edits are the
caller's, and come last: a crash at any instant leaves something that is simply done again, since what is written
does not depend on what is there.

A block whose content is not what its digest says any more is put there as it is, with the digest that it should
have: whoever reads it gets an error, not wrong bytes, and the copy opens. Of a block that the source calls lost
nothing is written.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from revolume.blocks.block_location import ZERO, kinds
from revolume.blocks.delta_map import DeltaMap
from revolume.blocks.digest import LOST_DIGEST, digest_array
from revolume.blocks.extents import contiguous
from revolume.blocks.geometry import BLOCK
from revolume.blocks.numbers import Address, WriteNumber
from revolume.blocks.ranges import Ranges
from revolume.host.disk import Disk, File
from revolume.volume.image.block_digests import BlockDigests
from revolume.volume.image.digest_writer import DigestWriter
from revolume.volume.image.image_writer import ImageWriter
from revolume.volume.jump.jump_tables import JumpTables, indexes, with_content
from revolume.volume.metadata import layout

U64 = npt.NDArray[np.uint64]
BATCH_BLOCKS = 16384


@dataclass(frozen=True, slots=True)
class ApplySpec:
    """Put what ``tables`` name into the image, which then stands at the point. ``lossy``: content that the disk
    does not give is taken for lost; else that is an error."""

    path: str
    volume: bytes
    tables: JumpTables
    write: WriteNumber
    address: Address
    point: int
    size: int
    pages_generation: int
    lossy: bool = False


@dataclass(frozen=True, slots=True)
class Applied:
    """What was done: blocks with content, blocks that read as zeroes, and how many are not what they should be."""

    blocks: int
    zeroed: int
    damaged: int


def apply_jump(disk: Disk, spec: ApplySpec) -> Applied:
    """Write it. Damaged: a table is not what was written. OSError: the disk failed, or is full; it is done
    again."""
    with ExitStack() as held:
        directory = held.enter_context(closing(disk.open(spec.path)))
        changes = spec.tables.changes(directory, spec.volume, held)
        staged = held.enter_context(closing(directory.child(layout.JUMP, create=True)))
        content = held.enter_context(closing(staged.open(layout.JUMP_BLOCKS, create=True)))
        image = held.enter_context(closing(directory.open(layout.IMAGE)))
        known = spec.pages_generation - 1
        sums = held.enter_context(closing(DigestWriter.open_to_change(directory, spec.volume, known)))
        return _Apply(spec, content, image, sums).run(_batches(changes.pieces))


def apply_growth(disk: Disk, spec: ApplySpec) -> int:
    """The bytes by which the image would grow. Nothing is written."""
    with ExitStack() as held:
        directory = held.enter_context(closing(disk.open(spec.path)))
        sums = held.enter_context(closing(BlockDigests.open(directory, spec.volume, write=False)))
        grows = 0
        for piece in spec.tables.changes(directory, spec.volume, held).pieces:
            there = sums.get(piece.blocks, False)
            assert there is not None
            zero = kinds(piece.locations) == ZERO
            grows += int((~zero & (there == 0)).sum())
        return grows * BLOCK


def _batches(pieces: Iterable[DeltaMap]) -> Iterator[DeltaMap]:
    for piece in pieces:
        for at in range(0, len(piece), BATCH_BLOCKS):
            yield piece.entries(slice(at, at + BATCH_BLOCKS))


class _Apply:
    def __init__(self, spec: ApplySpec, content: File, image: File, sums: DigestWriter) -> None:
        self._spec = spec
        self._content = content
        self._sums = sums
        self._writer = ImageWriter(image, sums)
        self._damaged = 0

    def run(self, pieces: Iterator[DeltaMap]) -> Applied:
        spec, blocks, zeroed = self._spec, 0, 0
        self._writer.fit(spec.size)
        for piece in pieces:
            zero = kinds(piece.locations) == ZERO
            zeroed += self._writer.punch(Ranges(), piece.blocks[zero])
            blocks += self._write(with_content(piece))
            self._sums.put(piece.blocks, np.where(zero, np.uint64(0), piece.digests))
        self._writer.sync()
        self._sums.commit(spec.write, spec.address, spec.point, spec.pages_generation)
        return Applied(blocks, zeroed, self._damaged)

    def _write(self, piece: DeltaMap) -> int:
        piece = piece.entries(piece.digests != np.uint64(LOST_DIGEST))
        if not len(piece):
            return 0
        view = memoryview(bytearray(len(piece) * BLOCK))
        starts, counts, firsts = contiguous(indexes(piece))
        for start, count, first in zip(starts.tolist(), counts.tolist(), firsts.tolist(), strict=True):
            self._read(first, view[start * BLOCK : (start + count) * BLOCK])
        self._damaged += int((digest_array(view, len(piece)) != piece.digests).sum())
        self._writer.write(piece.blocks, view)
        return len(piece)

    def _read(self, first: int, view: memoryview) -> None:
        try:
            self._content.preadv([view], first * BLOCK)
        except OSError:
            if not self._spec.lossy:
                raise
            for at in range(0, len(view), BLOCK):
                self._read_block(first * BLOCK + at, view[at : at + BLOCK])

    def _read_block(self, offset: int, view: memoryview) -> None:
        try:
            self._content.preadv([view], offset)
        except OSError:
            view[:] = bytes(len(view))
