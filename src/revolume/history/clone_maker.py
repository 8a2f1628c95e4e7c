"""Makes the directory of a clone: digests of a moment, and the few blocks that differ from the point below it.

    image          the blocks that changed between the point and the moment; a sparse file
    image.sums     digests as of the moment
    origin/        digests as of the point, which never change
    manifest       last: it makes the directory a volume

Nothing of the content that the point has is read (decision 0053).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from revolume.blocks import root as roots
from revolume.blocks.digest import LOST_DIGEST
from revolume.blocks.extents import contiguous
from revolume.blocks.geometry import BLOCK, ceil_div
from revolume.blocks.numbers import Address, WriteNumber
from revolume.errors import Damaged
from revolume.history.block_scan import BlockScan
from revolume.history.views import View
from revolume.host.disk import Directory, File
from revolume.host.work import Work
from revolume.volume.image.block_digests import BlockDigests
from revolume.volume.image.digest_pages import PER_PAGE
from revolume.volume.image.digest_writer import DigestWriter
from revolume.volume.image.image_size import stretch
from revolume.volume.livemap.reader import block_numbers
from revolume.volume.metadata import layout
from revolume.volume.metadata.manifest_state import State
from revolume.volume.open.create import create_clone
from revolume.volume.open.options import OpenOptions

U64 = npt.NDArray[np.uint64]
REGION_BLOCKS: Final = 128 * PER_PAGE
GENERATION: Final = 1
RUN_BLOCKS: Final = 256


@dataclass(frozen=True, slots=True)
class CloneSource:
    """A moment of the parent, and the pinned point at or before it. One view where they are the same."""

    moment: View
    point: View


async def make_clone(
    work: Work, directory: Directory, source: CloneSource, options: OpenOptions, state: State
) -> int:
    """Make the volume ``state`` in an empty directory, or in what an earlier attempt left; the blocks that were
    copied. OSError: the disk is full, or fails. Damaged: a block that changed behind the point can't be read."""
    with ExitStack() as held:
        files = await work.call(_Files, directory, state, source, held)
        root, copied = await _Filling(work, source, files).run()
        await work.call_sync(files.commit, state.horizon.address)
    horizon = replace(state.horizon, root_low=root[0], root_high=root[1], pages_generation=GENERATION)
    await work.call(create_clone, directory, options, replace(state, horizon=horizon))
    return copied


class _Files:
    """What is written before the manifest; closed with ``held``."""

    def __init__(self, directory: Directory, state: State, source: CloneSource, held: ExitStack) -> None:
        self.directory = directory
        self.image: File = held.enter_context(closing(directory.open(layout.IMAGE, create=True)))
        self.image.truncate(0)
        stretch(self.image, state.horizon.size, directory.path)
        self.sums = _digests(directory, state.volume, state.horizon.size, held)
        origin = held.enter_context(closing(directory.child(layout.ORIGIN, create=True)))
        self.origin = _digests(origin, state.volume, source.point.size, held)

    def commit(self, address: Address) -> None:
        """All of it is durable, names too; the clone's log begins at ``address``."""
        self.image.datasync()
        for digests in (self.origin, self.sums):
            digests.commit(WriteNumber(0), address, 0, GENERATION)
        self.directory.sync()


def _digests(directory: Directory, volume: bytes, size: int, held: ExitStack) -> DigestWriter:
    BlockDigests.create(directory, volume, ceil_div(size, BLOCK)).close()
    return held.enter_context(closing(DigestWriter.open_to_change(directory, volume, 0)))


class _Filling:
    """Region by region, those that may hold something."""

    def __init__(self, work: Work, source: CloneSource, files: _Files) -> None:
        self._work = work
        self._source = source
        self._files = files
        self._root = roots.EMPTY
        self._copied = 0

    async def run(self) -> tuple[roots.Root, int]:
        """The volume root as of the moment, and how many blocks were copied."""
        size = max(self._source.moment.size, self._source.point.size)
        for first in range(0, ceil_div(size, BLOCK), REGION_BLOCKS):
            await self._region(first)
        return self._root, self._copied

    async def _region(self, first: int) -> None:
        moment, point = self._source.moment, self._source.point
        held = await self._scanned(moment, first)
        below = held if moment is point else await self._scanned(point, first)
        await self._put(self._files.sums, first, held)
        await self._put(self._files.origin, first, below)
        blocks = block_numbers(first, len(held))
        self._root = roots.add(self._root, blocks, held)
        below = np.concatenate([below, np.zeros(max(0, len(held) - len(below)), np.uint64)])[: len(held)]
        await self._copy(blocks[(held != below) & (held != 0) & (held != np.uint64(LOST_DIGEST))])

    async def _scanned(self, view: View, first: int) -> U64:
        """The digests of a region's blocks, as far as the volume went then."""
        count = max(0, min(REGION_BLOCKS, ceil_div(view.size, BLOCK) - first))
        if not count or not await self._work.call(view.source.may_hold, first, first + count):
            return np.zeros(count, np.uint64)
        return await BlockScan(self._work, view.source, view.reader).digests(block_numbers(first, count))

    async def _put(self, digests: DigestWriter, first: int, held: U64) -> None:
        at = np.flatnonzero(held)
        if len(at):
            put: Callable[[U64, U64], None] = digests.put
            await self._work.call(put, (at + first).astype(np.uint64), held[at])

    async def _copy(self, blocks: U64) -> None:
        _, counts, firsts = contiguous(blocks)
        for count, first in zip(counts.tolist(), firsts.tolist(), strict=True):
            for at in range(first, first + count, RUN_BLOCKS):
                await self._copy_run(at, min(RUN_BLOCKS, first + count - at))
        self._copied += len(blocks)

    async def _copy_run(self, first: int, count: int) -> None:
        """Blocks that the moment does not have any more are an error of those blocks alone, as in the parent."""
        end = min((first + count) * BLOCK, self._source.moment.size)
        content = memoryview(bytearray(end - first * BLOCK))
        try:
            await self._source.moment.reader.read(first * BLOCK, content)
        except Damaged:
            if count == 1:
                return
            for each in range(count):
                await self._copy_run(first + each, 1)
            return
        await self._work.call(self._files.image.pwritev, [content], first * BLOCK)
