"""The cuts of a comparison: the one at which it begins, and one for each batch that was copied."""

from __future__ import annotations

import asyncio

import numpy as np
import numpy.typing as npt

from revolume.chain.point import Point
from revolume.mirror.source.comparison import Comparison
from revolume.mirror.wire.codec import Pin
from revolume.mirror.wire.comparison_messages import FixupAt
from revolume.resync.fixup_merge import losers
from revolume.resync.host_changes import HostChanges
from revolume.volume.points.point_maker import AnnouncedCut
from revolume.volume.primary import Volume

U64 = npt.NDArray[np.uint64]


class PlainCut:
    """A ``CutWatcher`` that only wants the point, also if nothing has changed."""

    def __init__(self, volume: Volume) -> None:
        self.touch = volume.touch

    async def before_cut(self) -> None:
        """Nothing is to be known before."""

    def cut_made(self, cut: AnnouncedCut) -> None:
        """Nobody is told."""


class BatchCut:
    """A ``CutWatcher``: the point to which a batch belongs. The copy is told which it is, and which of ``blocks``,
    all that the batch is about, clients have changed until then, before it can have the point's record.
    ``stored``: see ``Comparison.name_point``."""

    def __init__(self, volume: Volume, host: HostChanges, batch: int, blocks: U64, copy: Comparison) -> None:
        self.touch = volume.touch
        self._host = host
        self._batch = batch
        self._blocks = blocks
        self._copy = copy
        self.stored: asyncio.Future[int] | None = None
        self.lost = np.zeros(0, np.uint64)
        """Of ``blocks``, those that clients have written since."""

    async def before_cut(self) -> None:
        """What clients changed up to the point before is known."""
        await self._host.gather()

    def cut_made(self, cut: AnnouncedCut) -> None:
        """What they changed since, too: merge, and tell the copy."""
        self._host.note(cut.changed)
        self.lost = losers(self._blocks, self._host.among_blocks(self._blocks))
        pin = Pin(cut.number, cut.position, cut.chain)
        self.stored = self._copy.name_point(FixupAt(self._batch, pin, self.lost))


def pin_of(point: Point) -> Pin:
    """By what proves it to be the same one."""
    return Pin(point.number, point.position, point.chain)
