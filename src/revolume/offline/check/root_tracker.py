"""The volume root, followed from point to point by what each changed."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from revolume.blocks import root as roots
from revolume.blocks.delta_map import DeltaMap
from revolume.blocks.overlay import Overlay
from revolume.blocks.ranges import Ranges
from revolume.blocks.root import Root
from revolume.volume.image.block_digests import BlockDigests
from revolume.volume.metadata.manifest_state import State

U64 = npt.NDArray[np.uint64]
DIGESTS_BYTES = 512 << 20


class RootTracker:
    """Computes the volume root at each point, beginning with the horizon's root and the image's digests.

    A fold that committed its digests but did not reach its flip leaves the digests as of its own point, ahead of
    the horizon. The roots of points before that one can't be computed; at that point the digests must add up to
    the root stated."""

    def __init__(self, state: State, sums: BlockDigests) -> None:
        self._sums = sums
        self._now = Overlay(DIGESTS_BYTES)
        self._zeroed = Ranges()
        self._step = 1
        self._root: Root = (state.horizon.root_low, state.horizon.root_high)
        self._ahead = sums.facts.point if sums.facts.write > state.horizon.write else 0

    def after(self, point: int, delta: DeltaMap) -> Root | None:
        """The volume root after ``point``, which changed ``delta``; None if it can't be known."""
        if point < self._ahead:
            return None
        if point == self._ahead:
            self._root = roots.EMPTY
            for found in self._sums.chunks():
                self._root = roots.add(self._root, *found)
        else:
            self._apply(delta)
        return self._root

    def restated(self, root: Root) -> None:
        """From here on the roots follow what a point states, not what was computed: the copy differed there."""
        self._root = root

    def put_right(self, fixups: DeltaMap) -> None:
        """These blocks are what the root counts from here on; before they were something else."""
        self._step += 1
        steps = np.full(len(fixups.blocks), self._step, np.uint64)
        self._now.put(fixups.blocks, steps, fixups.digests)

    def _apply(self, delta: DeltaMap) -> None:
        self._step += 1
        for start, end, _ in delta.zeroes:
            self._zero(start, end)
        self._root = roots.subtract(self._root, delta.blocks, self._digests(delta.blocks))
        self._root = roots.add(self._root, delta.blocks, delta.digests)
        steps = np.full(len(delta.blocks), self._step, np.uint64)
        self._now.put(delta.blocks, steps, delta.digests)

    def _digests(self, blocks: U64) -> U64:
        """The present digests of these blocks."""
        words, digests = self._now.get(blocks)
        covered = self._zeroed.get(blocks)
        digests[covered > words] = 0
        missing = np.flatnonzero((words == 0) & (covered == 0))
        if len(missing):
            sums = self._sums.get(blocks[missing], False)
            assert sums is not None
            digests[missing] = sums
        return digests

    def _zero(self, start: int, end: int) -> None:
        seen = [blocks for blocks, _, _ in self._now.within(start, end)]
        seen += [blocks for blocks, _ in self._sums.within(start, end)]
        if seen:
            blocks = np.unique(np.concatenate(seen))
            self._root = roots.subtract(self._root, blocks, self._digests(blocks))
        self._zeroed = self._zeroed.with_range(start, end, self._step)
