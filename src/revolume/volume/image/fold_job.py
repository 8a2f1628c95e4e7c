"""Folding: the volume's state at a point, written from the log into the image, in big sorted batches.

Runs in the helper process over files that nobody changes meanwhile: sealed segments, and the image below the
new horizon, which no live read uses before the flip (entries of blocks changed since the old horizon point
into the log until then). So a crash at any instant leaves something that is simply folded again.

Order: log read and checked → image written → image synced → its digests written and synced. The flip, a
manifest edit, is the caller's, and comes last.

A batch holds the newest versions of a few segments; it is read in order of place, sorted by block in memory, and
written in runs. Blocks are checked against their digests on the way. If any is not what was written, nothing is
committed and the places are named: whoever asked for the fold has them healed, and has it done again. What nobody
can heal is taken as it is, with the digest that it should have: so reads of that block are errors, it can be
healed later, and the fold is done. Of a block that a point calls lost nothing is written; its digest makes every
read of it an error. """

from __future__ import annotations

import errno
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from revolume.blocks.block_location import ADDRESS_MASK, DATA, ZERO, kinds
from revolume.blocks.delta_map import DeltaMap
from revolume.blocks.digest import LOST_DIGEST, digest_array
from revolume.blocks.extents import contiguous
from revolume.blocks.geometry import BLOCK
from revolume.blocks.numbers import Address, WriteNumber
from revolume.blocks.ordering import among
from revolume.chain.point_deltas import changed
from revolume.chain.versions import LogRange
from revolume.host.disk import Directory, Disk, File
from revolume.log.format.segment import segment_name
from revolume.volume.image.block_digests import BlockDigests
from revolume.volume.image.digest_writer import DigestWriter
from revolume.volume.image.image_writer import ImageWriter
from revolume.volume.metadata import layout

U64 = npt.NDArray[np.uint64]
BATCH_BLOCKS = 32768
DAMAGED_MAX = 4096
MEDIUM_ERRORS = frozenset({errno.EIO, errno.ENODATA, errno.EILSEQ, errno.EREMOTEIO})
"""Of reads: the place is bad, not the file."""
MASK = np.uint64(ADDRESS_MASK)


@dataclass(frozen=True, slots=True)
class FoldSpec:
    """Fold everything written after ``after`` and up to ``upto`` into the image, whose size becomes ``size``.
    ``as_they_are``: addresses of damaged blocks that nobody can heal."""

    path: str
    volume: bytes
    log_range: LogRange
    after: WriteNumber
    upto: WriteNumber
    point: int
    address: Address
    size: int
    pages_generation: int
    as_they_are: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class DamagedInLog:
    """A block that the fold needs and that is not what was written; ``unreadable``: the disk fails there."""

    block: int
    digest: int
    address: int
    unreadable: bool


@dataclass(frozen=True, slots=True)
class Folded:
    """What a fold did. Where there is any damage, it is not done; of that at most ``DAMAGED_MAX`` are named."""

    blocks: int
    zeroed: int
    bytes_read: int
    bytes_written: int
    damaged: tuple[DamagedInLog, ...] = ()


def growth(disk: Disk, spec: FoldSpec) -> int:
    """The bytes by which this fold would make the image grow; negative if it would shrink. Zeroes come first, so
    that their room can be used. Nothing is written."""
    directory = disk.open(spec.path)
    log = directory.child(layout.LOG)
    sums = BlockDigests.open(directory, spec.volume)
    try:
        delta = _delta(log, spec)
        held = sums.get(delta.blocks, False)
        assert held is not None
        zero = kinds(delta.locations) == ZERO
        grows = int((~zero & (held == 0)).sum()) - int((zero & (held != 0)).sum())
        for start, end, _ in delta.zeroes:
            grows -= sum(int((~among(blocks, delta.blocks)).sum()) for blocks, _ in sums.within(start, end))
        return grows * BLOCK
    finally:
        sums.close()
        log.close()
        directory.close()


def _delta(log: Directory, spec: FoldSpec) -> DeltaMap:
    found = changed(log, spec.log_range, spec.volume, spec.after, spec.upto)
    assert not found.fragments, "at a point every block is whole"
    return found.delta


def fold(disk: Disk, spec: FoldSpec) -> Folded:
    """Write the volume's state at a point into the image, in the helper process. Nothing is flipped. Damaged: what
    says which blocks changed can't be read."""
    directory = disk.open(spec.path)
    log = directory.child(layout.LOG)
    image = directory.open(layout.IMAGE)
    sums = DigestWriter.open_to_change(directory, spec.volume, spec.pages_generation - 1)
    try:
        delta = _delta(log, spec)
        return _Fold(spec, log, image, sums).run(delta)
    finally:
        sums.close()
        image.close()
        log.close()
        directory.close()


class _Fold:
    def __init__(self, spec: FoldSpec, log: Directory, image: File, sums: DigestWriter) -> None:
        self._spec = spec
        self._log = log
        self._writer = ImageWriter(image, sums)
        self._sums = sums
        self._read = 0
        self._damaged: list[DamagedInLog] = []
        self._unreadable: set[int] = set()

    def run(self, delta: DeltaMap) -> Folded:
        writer = self._writer
        writer.fit(self._spec.size)
        kind = kinds(delta.locations)
        zero, data = kind == ZERO, kind == DATA
        zeroed = writer.punch(delta.zeroes, delta.blocks[zero])
        written = [self._batch(*batch) for batch in self._batches(delta, data)]
        if self._damaged:
            return Folded(0, 0, self._read, writer.written, tuple(self._damaged[:DAMAGED_MAX]))
        writer.sync()
        writer.zero_sums(delta.zeroes, delta.blocks[zero])
        self._sums.put(delta.blocks[data], delta.digests[data])
        spec = self._spec
        self._sums.commit(spec.upto, spec.address, spec.point, spec.pages_generation)
        return Folded(sum(written), zeroed, self._read, writer.written)

    def _batches(self, delta: DeltaMap, data: npt.NDArray[np.bool_]) -> Iterator[tuple[U64, U64, U64]]:
        """(blocks, addresses, digests) of at most a batch's size, in order of place."""
        data = data & (delta.digests != np.uint64(LOST_DIGEST))
        addresses = delta.locations[data] & MASK
        order = np.argsort(addresses)
        blocks, digests = delta.blocks[data], delta.digests[data]
        for at in range(0, len(order), BATCH_BLOCKS):
            here = order[at : at + BATCH_BLOCKS]
            yield blocks[here], addresses[here], digests[here]

    def _batch(self, blocks: U64, addresses: U64, digests: U64) -> int:
        rows = np.empty((len(blocks), BLOCK), np.uint8)
        view = rows.data.cast("B")
        self._load(addresses, view)
        bad = np.flatnonzero(digest_array(view, len(blocks)) != digests)
        named = zip(blocks[bad].tolist(), digests[bad].tolist(), addresses[bad].tolist(), strict=True)
        for block, digest, address in named if len(self._damaged) < DAMAGED_MAX else ():
            if address not in self._spec.as_they_are:
                self._damaged.append(DamagedInLog(block, digest, address, address in self._unreadable))
        if self._damaged:  # what is written now would be written again
            return 0
        self._writer.write(blocks, view)
        return len(blocks)

    def _load(self, addresses: U64, view: memoryview) -> None:
        """The blocks at these ascending addresses, one behind the other; zeroes where the disk fails."""
        starts, counts, firsts = contiguous(addresses)
        segments = self._spec.log_range.segments
        per_segment = segments[0].blocks
        index = {spec.use: spec.index for spec in segments}
        file: File | None = None
        use = -1
        for start, count, first in zip(starts.tolist(), counts.tolist(), firsts.tolist(), strict=True):
            if first // per_segment != use:
                if file is not None:
                    file.close()
                use = first // per_segment
                file = self._log.open(segment_name(index[use]), write=False)
            assert file is not None
            part = view[start * BLOCK : (start + count) * BLOCK]
            self._fill(file, first, first % per_segment * BLOCK, part)
        if file is not None:
            file.close()

    def _fill(self, file: File, address: int, offset: int, view: memoryview) -> None:
        try:
            self._read += file.preadv([view], offset)
        except OSError as error:
            if error.errno not in MEDIUM_ERRORS:
                raise
            for at in range(0, len(view), BLOCK):
                self._fill_one(file, address + at // BLOCK, offset + at, view[at : at + BLOCK])

    def _fill_one(self, file: File, address: int, offset: int, view: memoryview) -> None:
        try:
            self._read += file.preadv([view], offset)
        except OSError:
            view[:] = bytes(BLOCK)
            self._unreadable.add(address)
