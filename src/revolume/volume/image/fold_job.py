"""Folding: the volume's state at a point, written from the log into the image, in big sorted batches.

Runs in the helper process over files that nobody changes meanwhile: sealed segments, and the image below the
new horizon, which no live read uses before the flip (entries of blocks changed since the old horizon point
into the log until then). So a crash at any instant leaves something that is simply folded again.

Order: log read and checked → image written → image synced → its digests written and synced. The flip, a
manifest edit, is the caller's, and comes last.

A batch holds the newest versions of a few segments; it is read in order of place, sorted by block in memory,
and written in runs. Blocks are checked against their digests on the way: a fold never copies damage. Of a
block that a point calls lost nothing is written; its digest makes every read of it an error.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from revolume.blocks.digest import LOST_DIGEST, digest_array
from revolume.blocks.extents import contiguous
from revolume.blocks.word import ADDRESS_MASK, DATA, ZERO, kinds
from revolume.chain.delta_maps import changed
from revolume.chain.versions import Newest, Stretch
from revolume.errors import Damaged
from revolume.host.disk import Directory, Disk, File
from revolume.log.segment import segment_name
from revolume.volume import layout
from revolume.volume.sums import Sums

U64 = npt.NDArray[np.uint64]
BLOCK = 4096
BATCH_BLOCKS = 32768
MASK = np.uint64(ADDRESS_MASK)


@dataclass(frozen=True, slots=True)
class FoldSpec:
    """Fold everything written after ``after`` and up to ``upto`` into the image, whose size becomes ``size``."""

    path: str
    volume: bytes
    stretch: Stretch
    after: int
    upto: int
    point: int
    address: int
    size: int
    pages_generation: int


@dataclass(frozen=True, slots=True)
class Folded:
    """What a fold did."""

    blocks: int
    zeroed: int
    bytes_read: int
    bytes_written: int


def growth(disk: Disk, spec: FoldSpec) -> int:
    """The bytes by which this fold would make the image grow; negative if it would shrink. Zeroes come first, so
    that their room can be used. Nothing is written."""
    directory = disk.open(spec.path)
    log = directory.child(layout.LOG)
    sums = Sums.open(directory, spec.volume)
    try:
        state = _state(log, spec)
        held = sums.get(state.blocks, False)
        assert held is not None
        zero = kinds(state.words) == ZERO
        grows = int((~zero & (held == 0)).sum()) - int((zero & (held != 0)).sum())
        for start, end, _ in state.zero_ranges():
            grows -= sum(int((~np.isin(blocks, state.blocks)).sum()) for blocks, _ in sums.within(start, end))
        return grows * BLOCK
    finally:
        sums.close()
        log.close()
        directory.close()


def _state(log: Directory, spec: FoldSpec) -> Newest:
    state = changed(log, spec.stretch, spec.volume, spec.after, spec.upto)
    assert not state.fragments, "at a point every block is whole"
    return state


def fold(disk: Disk, spec: FoldSpec) -> Folded:
    """See the module's text. Damaged: a block in the log is not what was written; nothing was flipped."""
    directory = disk.open(spec.path)
    log = directory.child(layout.LOG)
    image = directory.open(layout.IMAGE)
    sums = Sums.open_to_change(directory, spec.volume, spec.pages_generation - 1)
    try:
        state = _state(log, spec)
        return _Fold(spec, log, image, sums).run(state)
    finally:
        sums.close()
        image.close()
        log.close()
        directory.close()


class _Fold:
    def __init__(self, spec: FoldSpec, log: Directory, image: File, sums: Sums) -> None:
        self._spec = spec
        self._log = log
        self._image = image
        self._sums = sums
        self._read = 0
        self._written = 0

    def run(self, state: Newest) -> Folded:
        if self._image.size() < self._spec.size:
            self._image.truncate(self._spec.size)
        blocks = -(-self._spec.size // BLOCK)
        if self._sums.blocks < blocks:
            self._sums.resize(blocks)
        kind = kinds(state.words)
        zero, data = kind == ZERO, kind == DATA
        zeroed = self._punch(state, state.blocks[zero])
        written = [self._batch(*batch) for batch in self._batches(state, data)]
        self._image.datasync()
        self._zero_sums(state, state.blocks[zero])
        self._sums.put(state.blocks[data], state.digests[data])
        spec = self._spec
        self._sums.commit(spec.upto, spec.address, spec.point, spec.pages_generation)
        return Folded(sum(written), zeroed, self._read, self._written)

    def _punch(self, state: Newest, blocks: U64) -> int:
        zeroed = 0
        for start, end, _ in state.zero_ranges():
            self._image.punch(start * BLOCK, (end - start) * BLOCK)
            zeroed += end - start
        _, counts, firsts = contiguous(blocks)
        for first, count in zip(firsts.tolist(), counts.tolist(), strict=True):
            self._image.punch(first * BLOCK, count * BLOCK)
            zeroed += count
        return zeroed

    def _zero_sums(self, state: Newest, blocks: U64) -> None:
        for start, end, _ in state.zero_ranges():
            self._sums.zero(start, end)
        if len(blocks):
            self._sums.put(blocks, np.zeros(len(blocks), np.uint64))

    def _batches(self, state: Newest, data: npt.NDArray[np.bool_]) -> Iterator[tuple[U64, U64, U64]]:
        """(blocks, addresses, digests) of at most a batch's size, in order of place."""
        data = data & (state.digests != np.uint64(LOST_DIGEST))
        addresses = state.words[data] & MASK
        order = np.argsort(addresses)
        blocks, digests = state.blocks[data], state.digests[data]
        for at in range(0, len(order), BATCH_BLOCKS):
            here = order[at : at + BATCH_BLOCKS]
            yield blocks[here], addresses[here], digests[here]

    def _batch(self, blocks: U64, addresses: U64, digests: U64) -> int:
        rows = np.empty((len(blocks), BLOCK), np.uint8)
        view = rows.data.cast("B")
        self._load(addresses, view)
        found = digest_array(view, len(blocks))
        if not (found == digests).all():
            bad = blocks[found != digests]
            raise Damaged(
                "log-block-damaged",
                f"Block {int(bad[0])} ({len(bad)} in all) in the log is not what was written.",
                "The log is kept as it is; run 'revolume check' for the whole extent.",
            )
        order = np.argsort(blocks)
        self._write_runs(blocks[order], rows[order].data.cast("B"))
        return len(blocks)

    def _load(self, addresses: U64, view: memoryview) -> None:
        """The blocks at these ascending addresses, one behind the other."""
        starts, counts, firsts = contiguous(addresses)
        segments = self._spec.stretch.segments
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
            self._read += file.preadv([part], first % per_segment * BLOCK)
        if file is not None:
            file.close()

    def _write_runs(self, blocks: U64, view: memoryview) -> None:
        starts, counts, firsts = contiguous(blocks)
        for start, count, first in zip(starts.tolist(), counts.tolist(), firsts.tolist(), strict=True):
            self._image.pwritev([view[start * BLOCK : (start + count) * BLOCK]], first * BLOCK)
        self._written += len(view)
