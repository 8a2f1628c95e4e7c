"""A point of a copy, held open to be compared with its source: ``copy_protocols.ComparedPoint`` over a view."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from revolume.blocks.geometry import BLOCK
from revolume.errors import NotFound
from revolume.history.block_scan import BlockScan
from revolume.history.resolved_moment import ResolvedMoment
from revolume.history.views import View, open_view
from revolume.mirror.wire.codec import Pin
from revolume.volume.livemap.reader import block_numbers
from revolume.volume.secondary import Secondary
from revolume.volume.space.holder import HolderKind

U64 = npt.NDArray[np.uint64]
STEP_BLOCKS: Final = 1 << 12
"""Looked at between two turns of the loop."""
NOTHING: Final = np.zeros(0, np.uint64)


class ViewedPoint:
    """Of one copy. ``quick``: what is stored of digests is believed."""

    def __init__(self, view: View, quick: bool) -> None:
        self._view = view
        self._quick = quick
        self._end = -(-view.size // BLOCK)
        self._scan = BlockScan(view.volume.log.work, view.source, view.reader)

    async def scan(self, first: int, count: int, read: bool) -> tuple[U64, U64, int]:
        """The digests of ``count`` blocks from ``first`` on, 0 for zeroes and behind the end; with ``read``,
        unless it is ``quick``, also which blocks have another content than was stored, ascending, and how many
        bytes were read. GaveWay: the volume needed the room."""
        digests, damaged, size = np.zeros(count, np.uint64), [NOTHING], 0
        for at in range(first, min(first + count, self._end), STEP_BLOCKS):
            blocks = block_numbers(at, min(STEP_BLOCKS, first + count - at, self._end - at))
            with self._view.using():
                found = await self._scan.digests(blocks)
                if read and not self._quick:
                    bad, held = await self._scan.damaged(blocks, found)
                    damaged.append(bad)
                    size += held
            digests[at - first : at - first + len(blocks)] = found
            await self._view.volume.context.host.clock.sleep(0)
        return digests, np.concatenate(damaged), size

    def close(self) -> None:
        """Let the view go."""
        self._view.close()


class SeededImage:
    """``copy_protocols.ComparedPoint`` of a copy whose base comes over a seed: what is in its image now."""

    def __init__(self, copy: Secondary) -> None:
        self._copy = copy
        self._end = -(-copy.size // BLOCK)

    async def scan(self, first: int, count: int, read: bool) -> tuple[U64, U64, int]:
        """The digests of ``count`` blocks from ``first`` on, 0 for zeroes and behind the end. No content is read,
        also with ``read``: nothing is said of damage."""
        digests = np.zeros(count, np.uint64)
        held = await self._copy.seed_digests(block_numbers(first, max(0, min(count, self._end - first))))
        digests[: len(held)] = held
        return digests, NOTHING, 0

    def close(self) -> None: ...


async def view_point(copy: Secondary, pin: Pin, quick: bool) -> ViewedPoint:
    """Open the view of a point. NotFound: the copy does not retain that point, and does not stand there."""
    for point in (*copy.points(), copy.agreed):
        if (point.number, point.position, point.chain) == (pin.number, pin.position, pin.chain):
            moment = ResolvedMoment(point.write, point.time_ns)
            return ViewedPoint(await open_view(copy, moment, "comparison", HolderKind.MIRROR), quick)
    raise NotFound("no-point", f"The copy does not have point cp{pin.number}.", "Verify it again.")
