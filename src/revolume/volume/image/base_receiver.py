"""The base of a new mirror: the blocks of the point at which its log begins, written straight into its image.

Until all of them are there the copy is nobody's state and says so. Progress is made durable (image synced, digests
committed, BASE edit) by size and by time, one stretch while the next one arrives, so that the link does not wait
for the disk; and what has arrived when a link is lost is made durable before the next one begins (``settle``). So
a link that breaks again and again sends only that a second time which was under way, and a power cut costs two
stretches. When all are there the whole map is summed once and compared with the root of the point: only then is
this copy one of the volume.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from revolume.blocks import root as roots
from revolume.blocks.digest import ZERO_DIGEST, digest_array
from revolume.blocks.extents import contiguous
from revolume.blocks.geometry import BLOCK
from revolume.errors import Refused, RevolumeError
from revolume.host.disk import Buffer
from revolume.volume.context import VolumeContext
from revolume.volume.image.block_digests import BlockDigests
from revolume.volume.image.digest_writer import DigestWriter
from revolume.volume.image.volume_image import VolumeImage
from revolume.volume.metadata.manifest_edits import EditKind, pack_base
from revolume.volume.metadata.manifest_writer import ManifestWriter
from revolume.volume.metadata.moment_edits import pack_horizon

U64 = npt.NDArray[np.uint64]
STRETCH_BYTES = 64 << 20
STRETCH_S = 0.5


class BaseFill:
    """Fills the image of a secondary whose base is not complete.

    Digests are put and committed one after the other, and no digest is committed before its block is durable: what
    is behind the BASE edit is compared by digests when the link is back. After a sync that failed nothing more is
    taken until ``settle``: everything behind the last durable block has to be sent again."""

    def __init__(self, context: VolumeContext, image: VolumeImage, manifest: ManifestWriter) -> None:
        self._context = context
        self._clock = context.host.clock
        self._work = context.host.work
        self._image = image
        self._manifest = manifest
        self._sums = self._committed_digests()
        self._generation = self._sums.facts.generation
        self._unsynced = 0
        self._since_ns = self._clock.monotonic_ns()
        self._turn = asyncio.Lock()
        self._digests = asyncio.Lock()
        self._committing: asyncio.Task[None] | None = None
        self._failure: OSError | RevolumeError | None = None
        self.next_block = manifest.state.base or 0
        ahead = self._sums.within(self.next_block, self._sums.blocks)
        self.seeded = next(ahead, None) is not None
        """There is something where no block has come yet: it has to be compared, and may have to become zeroes."""
        self.durable_block = self.next_block

    def _committed_digests(self) -> DigestWriter:
        context, generation = self._context, self._manifest.state.horizon.pages_generation
        return DigestWriter.open_to_change(context.directory, context.volume_id, generation)

    async def put(self, blocks: U64, digests: U64, payload: Buffer, next_block: int) -> None:
        """Blocks, ascending, with the content of those whose digest is not 0; everything below ``next_block`` has
        then been sent. Refused: the content is not what the digests say."""
        async with self._turn:
            self._raise_failure()
            async with self._digests:
                await self._work.call(self._put, blocks, digests, memoryview(payload))
            self.next_block = next_block
            self._unsynced += len(payload)
            if self._stretch_ends():
                await self._committed()  # a disk that is slower than the link sets the pace
                self._committing = asyncio.create_task(self._commit())

    def _stretch_ends(self) -> bool:
        now_ns = self._clock.monotonic_ns()
        if self._unsynced < STRETCH_BYTES and (now_ns - self._since_ns < STRETCH_S * 1e9 or not self._unsynced):
            return False
        self._since_ns = now_ns
        return True

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _put(self, blocks: U64, digests: U64, payload: memoryview) -> None:
        filled = digests != 0
        found, stated = digest_array(payload, int(filled.sum())), digests[filled]
        unreadable = found == ZERO_DIGEST  # what is lost or damaged there travels as zeroes, with its digest
        found[unreadable] = stated[unreadable]
        if not np.array_equal(found, stated):
            raise _refused("blocks of its base are not what their digests say")
        if len(blocks) and (int(blocks[-1]) >= self._sums.blocks or not (blocks[1:] > blocks[:-1]).all()):
            raise _refused("blocks of its base are out of order or outside the volume")
        image, size = self._image.file, self._manifest.state.horizon.size
        _, counts, firsts = contiguous(blocks[~filled])
        for count, first in zip(counts.tolist(), firsts.tolist(), strict=True):
            image.punch(first * BLOCK, min(count * BLOCK, size - first * BLOCK))
        starts, counts, firsts = contiguous(blocks[filled])
        for start, count, first in zip(starts.tolist(), counts.tolist(), firsts.tolist(), strict=True):
            end = min((first + count) * BLOCK, size)
            piece = payload[start * BLOCK : start * BLOCK + end - first * BLOCK]
            image.pwritev([piece], first * BLOCK)
        self._sums.put(blocks, digests)

    async def held(self, blocks: U64) -> U64:
        """The digests of these blocks, 0 for zeroes: of what was here before, where none has come."""
        async with self._digests:
            found = await self._work.call(self._sums.get, blocks, False)
        assert found is not None
        return found

    async def settle(self) -> None:
        """Between two links: what has been put survives a power cut; where that failed it has not been put."""
        async with self._turn:
            with contextlib.suppress(OSError, RevolumeError):
                await self._commit_rest()
            if self._failure is not None:
                async with self._digests:
                    await self._work.call(self._forget_uncommitted)
                self._failure, self._unsynced, self.next_block = None, 0, self.durable_block

    def _forget_uncommitted(self) -> None:
        """Digests of blocks that may not be on the disk."""
        sums, self._sums = self._sums, self._committed_digests()
        sums.close()
        self._generation = self._sums.facts.generation

    async def commit(self) -> None:
        """What has been put survives a power cut."""
        async with self._turn:
            await self._commit_rest()

    async def _commit_rest(self) -> None:
        await self._committed()
        if self._unsynced:
            await self._commit()

    async def _committed(self) -> None:
        """The stretch before this one."""
        committing, self._committing = self._committing, None
        if committing is not None:
            await committing
        self._raise_failure()

    async def _commit(self) -> None:
        try:
            await self._commit_stretch()
        except (OSError, RevolumeError) as error:
            self._failure = error
            raise

    async def _commit_stretch(self) -> None:
        synced, self._unsynced = self.next_block, 0
        await self._work.call_sync(self._image.file.datasync)
        async with self._digests:
            reached, self._unsynced = self.next_block, 0
            if reached != synced:  # these digests are put already
                await self._work.call_sync(self._image.file.datasync)
            self._generation += 1
            await self._work.call_sync(self._commit_digests, self._generation)
        await self._manifest.record((EditKind.BASE, pack_base(reached)))
        self.durable_block = reached

    def _commit_digests(self, generation: int) -> None:
        horizon = self._manifest.state.horizon
        self._sums.commit(horizon.write, horizon.address, horizon.point, generation)

    async def finish(self, verify: Callable[[BlockDigests], None]) -> None:
        """Everything has been sent. ``verify`` is called with the image's digests, in a thread. Refused: what is
        here is not what was at the source. Else the image holds the point at which the log begins, and its root is
        the horizon's."""
        self._unsynced += 1
        await self.commit()
        horizon = self._manifest.state.horizon
        if await self._work.call(self._root) != (horizon.root_low, horizon.root_high):
            raise _refused("its base, summed up, differs from the source's point")
        await self._work.call(verify, self._sums)
        complete = replace(horizon, pages_generation=self._generation)
        digests = await self._work.call(self._image.digests.committed, self._generation)
        await self._manifest.record((EditKind.HORIZON, pack_horizon(complete)), (EditKind.BASE, pack_base(None)))
        self._image.digests.adopt(digests)

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
