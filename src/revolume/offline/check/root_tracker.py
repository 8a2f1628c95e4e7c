"""The volume root, followed from point to point by what each changed."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from revolume.blocks import root as roots
from revolume.blocks.overlay import Overlay
from revolume.blocks.ranges import Ranges
from revolume.blocks.root import Root
from revolume.offline.delta import Delta
from revolume.volume.manifest import State
from revolume.volume.sums import Sums

U64 = npt.NDArray[np.uint64]
DIGESTS_BYTES = 512 << 20


class FollowedRoot:
    """Starts at the horizon: its root, and the image's digests.

    A fold that committed its digests and did not come to its flip leaves them at its own point, ahead of the
    horizon. Before that point no root can be followed, since nothing says any more what was there; at it the
    digests must add up to the root stated, and from there on all is as ever."""

    def __init__(self, state: State, sums: Sums) -> None:
        self._sums = sums
        self._now = Overlay(DIGESTS_BYTES)
        self._zeroed = Ranges()
        self._step = 1
        self._root: Root = (state.horizon.root_low, state.horizon.root_high)
        self._ahead = sums.facts.point if sums.facts.write > state.horizon.write else 0

    def after(self, point: int, delta: Delta) -> Root | None:
        """The root behind ``point``; None: it cannot be known."""
        if point < self._ahead:
            return None
        if point == self._ahead:
            self._root = roots.EMPTY
            for found in self._sums.chunks():
                self._root = roots.add(self._root, *found)
        else:
            self._apply(delta)
        return self._root

    def _apply(self, delta: Delta) -> None:
        self._step += 1
        for first, count in zip(delta.zeroes[0].tolist(), delta.zeroes[1].tolist(), strict=True):
            self._zero(first, first + count)
        self._root = roots.subtract(self._root, delta.blocks, self._digests(delta.blocks))
        self._root = roots.add(self._root, delta.blocks, delta.digests)
        steps = np.full(len(delta.blocks), self._step, np.uint64)
        self._now.put(delta.blocks, steps, delta.digests)

    def _digests(self, blocks: U64) -> U64:
        """What these blocks are now."""
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
