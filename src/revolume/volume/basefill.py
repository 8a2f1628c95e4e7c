"""The base of a new mirror: the blocks of the point at which its log begins, written straight into its image.

Until all of them are there the copy is nobody's state and says so. Progress is durable now and then (image synced,
digests committed, BASE edit), so a break costs no more than the last two stretches: one is synced while the next
one arrives, so that the link does not wait for the disk. When all are there the whole map is summed once and
compared with the root of the point: only then is this copy one of the volume.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from revolume.blocks import root as roots
from revolume.blocks.digest import LOST_DIGEST, ZERO_DIGEST, digest_array
from revolume.blocks.extents import contiguous
from revolume.errors import Refused
from revolume.host.disk import Buffer
from revolume.volume.core import Core
from revolume.volume.manifest import EditKind, pack_base, pack_horizon
from revolume.volume.sums import Sums

U64 = npt.NDArray[np.uint64]
BLOCK = 4096
STRETCH_BYTES = 64 << 20


class BaseFill:
    """Fills the image of ``core``, a secondary whose base is not complete. One call at a time.

    Digests are put and committed one after the other; those of blocks that came after the image's sync are
    committed early, which does no harm: what is behind the BASE edit is sent again."""

    def __init__(self, core: Core) -> None:
        self._core = core
        horizon = core.manifest.state.horizon
        self._sums = Sums.open_to_change(core.directory, core.volume_id, horizon.pages_generation)
        self._generation = self._sums.facts.generation
        self._unsynced = 0
        self._digests = asyncio.Lock()
        self._committing: asyncio.Task[None] | None = None
        self.next_block = core.manifest.state.base or 0
        self.durable_block = self.next_block

    async def put(self, blocks: U64, digests: U64, payload: Buffer, next_block: int) -> None:
        """Blocks, ascending, with their content; everything below ``next_block`` has then been sent. Refused: the
        content is not what the digests say."""
        async with self._digests:
            await self._core.host.work.call(self._put, blocks, digests, memoryview(payload))
        self.next_block = next_block
        self._unsynced += len(payload)
        if self._unsynced >= STRETCH_BYTES:
            await self._committed()  # a disk that is slower than the link sets the pace
            self._committing = asyncio.create_task(self._commit())

    def _put(self, blocks: U64, digests: U64, payload: memoryview) -> None:
        found = digest_array(payload, len(blocks))
        found[(digests == LOST_DIGEST) & (found == ZERO_DIGEST)] = LOST_DIGEST  # a lost block travels as zeroes
        if not np.array_equal(found, digests):
            raise _refused("blocks of its base are not what their digests say")
        if len(blocks) and (int(blocks[-1]) >= self._sums.blocks or not (blocks[1:] > blocks[:-1]).all()):
            raise _refused("blocks of its base are out of order or outside the volume")
        image, size = self._core.store.image, self._core.manifest.state.horizon.size
        starts, counts, firsts = contiguous(blocks)
        for start, count, first in zip(starts.tolist(), counts.tolist(), firsts.tolist(), strict=True):
            end = min((first + count) * BLOCK, size)
            piece = payload[start * BLOCK : start * BLOCK + end - first * BLOCK]
            image.pwritev([piece], first * BLOCK)
        self._sums.put(blocks, digests)

    async def commit(self) -> None:
        """What has been put survives a power cut."""
        await self._committed()
        if self._unsynced:
            await self._commit()

    async def _committed(self) -> None:
        """The stretch before this one."""
        committing, self._committing = self._committing, None
        if committing is not None:
            await committing

    async def _commit(self) -> None:
        core, reached, self._unsynced = self._core, self.next_block, 0
        await core.host.work.call_sync(core.store.image.datasync)
        async with self._digests:
            self._generation += 1
            await core.host.work.call_sync(self._commit_digests, self._generation)
        await core.recorder.record((EditKind.BASE, pack_base(reached)))
        self.durable_block = reached

    def _commit_digests(self, generation: int) -> None:
        horizon = self._core.manifest.state.horizon
        self._sums.commit(horizon.write, horizon.address, horizon.point, generation)

    async def finish(self) -> None:
        """Everything has been sent. Refused: what is here is not what was at the source."""
        core = self._core
        self._unsynced += 1
        await self.commit()
        horizon = core.manifest.state.horizon
        if await core.host.work.call(self._root) != (horizon.root_low, horizon.root_high):
            raise _refused("its base, summed up, differs from the source's point")
        complete = replace(horizon, pages_generation=self._generation)
        digests = await core.host.work.call(core.sums.committed, self._generation)
        await core.recorder.record(
            (EditKind.HORIZON, pack_horizon(complete)), (EditKind.BASE, pack_base(None))
        )
        core.sums.take_up(digests)
        core.last.root = (horizon.root_low, horizon.root_high)

    def _root(self) -> roots.Root:
        total = roots.EMPTY
        for blocks, digests in self._sums.chunks():
            total = roots.add(total, blocks, digests)
        return total

    async def close(self) -> None:
        """What was put and not committed is sent again."""
        if self._committing is not None:
            await asyncio.wait([self._committing])
        self._sums.close()


def _refused(why: str) -> Refused:
    return Refused(
        "base-not-equal", f"The mirror can't be brought up: {why}.", "Start again with an empty directory."
    )
