"""What must hold before a copy's jump is flipped: that it sums up to the source's point, and that the image has
room for it. Nothing is changed here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Final

import numpy as np

from revolume.blocks import root as roots
from revolume.blocks.block_set import BlockSet
from revolume.blocks.delta_map import DeltaMap
from revolume.blocks.geometry import BLOCK
from revolume.blocks.root import Root
from revolume.errors import NoSpace
from revolume.volume.context import VolumeContext
from revolume.volume.image.volume_image import VolumeImage
from revolume.volume.jump.apply_job import apply_growth
from revolume.volume.jump.jump_tables import U64, JumpTables, pieces
from revolume.volume.jump.landing import apply_spec, owner
from revolume.volume.livemap.live_map import LiveMap
from revolume.volume.metadata import layout
from revolume.volume.metadata.manifest_state import Jump
from revolume.volume.open_log import OpenLog
from revolume.volume.rescue.rescue_job import rescue_growth
from revolume.volume.rescue.rescue_owner import rescue_spec
from revolume.volume.space.disk_room import DiskRoom

SUMMED_BLOCKS: Final = 1 << 14
"""Looked up at a time where the whole copy is summed up."""


class JumpProof:
    """Of one copy, as its image and its log are when it is asked."""

    def __init__(
        self, context: VolumeContext, *, log: OpenLog, live: LiveMap, image: VolumeImage, room: DiskRoom
    ) -> None:
        self._context = context
        self._log = log
        self._manifest = log.manifest
        self._work = context.host.work
        self._live = live
        self._image = image
        self._room = room

    async def root(self, root: Root, jump: Jump) -> Root:
        """``root`` is that of the point at which the copy stands: what it becomes with what has arrived in place
        of what the copy has of those blocks."""
        with closing(self._context.directory.child(layout.JUMP)) as staged:
            found = pieces(staged, self._context.volume_id, JumpTables.of(jump).numbers)
            while (piece := await self._work.call(_next, found)) is not None:
                digests = await self._digests(piece.blocks)
                root = roots.add(roots.subtract(root, piece.blocks, digests), piece.blocks, piece.digests)
        return root

    async def own_root(self, size: int) -> Root:
        """What the digests of this copy sum up to now, over a volume of ``size`` bytes: not what is stated of the
        point at which it stands, where the two are not the same."""
        root, end = roots.EMPTY, -(-size // BLOCK)
        for first in range(0, end, SUMMED_BLOCKS):
            blocks = np.arange(first, min(first + SUMMED_BLOCKS, end), dtype=np.uint64)
            root = roots.add(root, blocks, await self._digests(blocks))
        return root

    async def blocks(self, jump: Jump) -> BlockSet:
        """Those that have arrived."""
        found = BlockSet()
        with closing(self._context.directory.child(layout.JUMP)) as staged:
            rows = pieces(staged, self._context.volume_id, JumpTables.of(jump).numbers)
            while (piece := await self._work.call(_next, rows)) is not None:
                found = found.union(BlockSet.of_blocks(piece.blocks))
        return found

    async def _digests(self, blocks: U64) -> U64:
        async with self._image.lock:  # no layer is exchanged meanwhile
            words, digests = self._live.lookup(blocks)
            await self._work.call(self._live.settle, blocks, words, digests, False)
        return digests

    async def check_room(self, jump: Jump) -> None:
        """NoSpace, before anything is decided, if the image can't take it. The copy's own log will be free."""
        state, path = self._manifest.state, self._context.directory.path
        spec, moment = apply_spec(state, jump, path), owner(state, jump)
        need = await self._work.job(apply_growth, spec)
        if moment is not None:
            need += await self._work.job(rescue_growth, rescue_spec(state, moment, path, spec.tables))
        pool = self._log.pool
        room = self._room.for_image + max(0, pool.bytes - 2 * pool.segment_blocks * BLOCK)
        if need > room:
            raise NoSpace(
                "jump-no-space",
                f"Going on to cp{jump.target.point.point} takes {need} bytes more on the disk of {path}, which "
                f"has room for {room}.",
                "Free room there, and it goes on; the copy is what it was, and what has arrived is kept.",
            )


def _next(found: Iterator[DeltaMap]) -> DeltaMap | None:
    return next(found, None)
