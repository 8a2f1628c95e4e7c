"""Making a clone independent: what its parent still has is copied into its own image, block by block in order.

Between slices folds go on. How far it has come is in the manifest (ORIGIN), never ahead of what is durable: below
that block everything is the clone's own, whatever its digests say. Interrupted, it goes on from there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from typing import Final

import numpy as np
import numpy.typing as npt

from revolume.blocks.extents import contiguous
from revolume.blocks.geometry import BLOCK
from revolume.errors import Damaged
from revolume.host.disk import Directory
from revolume.pace.pacer import Pacer
from revolume.volume.heal.damaged_block import IMAGE, DamagedBlock
from revolume.volume.heal.healer import Healer
from revolume.volume.image.origin_image import OriginImage
from revolume.volume.image.volume_image import VolumeImage
from revolume.volume.metadata import layout
from revolume.volume.metadata.clone_edits import pack_origin
from revolume.volume.metadata.manifest_edits import EditKind
from revolume.volume.open_log import OpenLog
from revolume.volume.space.folder import Folder

U64 = npt.NDArray[np.uint64]
Report = Callable[[str, int, int], None]
SLICE_BLOCKS: Final = 2048
RUN_BLOCKS: Final = 256
RECORD_BLOCKS: Final = 16384
"""So many are copied at most before the manifest says so."""
LOOK_UP: Final = 1 << 16


class CloneDetaching:
    """Of one open clone."""

    def __init__(
        self, directory: Directory, *, log: OpenLog, image: VolumeImage, folder: Folder, healer: Healer
    ) -> None:
        self._directory = directory
        self._work = log.work
        self._manifest = log.manifest
        self._image = image
        self._folder = folder
        self._healer = healer
        self._unrecorded = 0

    async def run(self, origin: OriginImage, pacers: Sequence[Pacer], report: Report) -> int:
        """Copy the rest; from then on the clone needs no parent. The bytes that were copied. OSError: the disk is
        full, or fails. Damaged: a block can't be read in the parent, nor healed there. It can be run again."""
        await self._record(origin, origin.digests.own_below)
        total = await self._work.call(lambda: sum(len(blocks) for blocks, _ in origin.digests.chunks(0)))
        done = copied = 0
        with ExitStack() as held:
            for pacer in pacers:
                held.enter_context(pacer.sending())
            pieces = origin.digests.chunks(0)
            while (piece := await self._work.call(next, pieces, None)) is not None:
                for blocks in _slices(piece[0]):
                    report("copying", done * BLOCK, total * BLOCK)
                    copied += await self._slice(origin, blocks, pacers)
                    done += len(blocks)
        await self._finish(origin)
        return copied * BLOCK

    async def _slice(self, origin: OriginImage, blocks: U64, pacers: Sequence[Pacer]) -> int:
        """What of these blocks lies in the parent."""
        if int(blocks[-1]) < origin.digests.own_below:
            return 0
        began_ns = [await pacer.turn() for pacer in pacers]
        async with self._folder.paused():
            there = await self._work.call(origin.there, blocks)
            assert there is not None
            mine = blocks[there]
            for first, count in _runs(mine):
                await self._copy(origin, first, count)
            self._unrecorded += len(mine)
            if self._unrecorded >= RECORD_BLOCKS:
                await self._work.call_sync(self._image.file.datasync)
                await self._record(origin, int(blocks[-1]) + 1)
        for pacer, began in zip(pacers, began_ns, strict=True):
            pacer.sent(len(mine) * BLOCK, began)
        return len(mine)

    async def _copy(self, origin: OriginImage, first: int, count: int) -> None:
        view = memoryview(bytearray(count * BLOCK))
        if not await self._work.call(origin.blocks.read, first, view):
            for at in range(count):
                view[at * BLOCK : (at + 1) * BLOCK] = await self._one(origin, first + at)
        end = min((first + count) * BLOCK, self._image.bytes)
        await self._work.call(self._image.file.pwritev, [view[: end - first * BLOCK]], first * BLOCK)

    async def _one(self, origin: OriginImage, block: int) -> bytes:
        """One block by itself, healed in the parent if need be."""
        content = memoryview(bytearray(BLOCK))
        if await self._work.call(origin.blocks.read, block, content):
            return bytes(content)
        stated = await self._work.call(self._image.digests.get, np.array([block], np.uint64), False)
        assert stated is not None
        damaged = DamagedBlock(block, int(stated[0]), IMAGE, block)
        found = await self._healer.contents([damaged])
        if damaged.key not in found:
            raise Damaged(
                "origin-damaged", f"Block {block} can't be read in {origin.record.parent}, nor healed there.",
                "Overwrite it in the clone, or connect a mirror of the parent, and detach the clone again.",
            )  # fmt: skip
        return found[damaged.key]

    async def _record(self, origin: OriginImage, below: int) -> None:
        origin.record = replace(origin.record, own_below=below, detaching=True)
        await self._manifest.record((EditKind.ORIGIN, pack_origin(origin.record)))
        origin.digests.own_below, self._unrecorded = below, 0

    async def _finish(self, origin: OriginImage) -> None:
        async with self._folder.paused():
            await self._work.call_sync(self._image.file.datasync)
            await self._manifest.record((EditKind.ORIGIN, pack_origin(None)))
            origin.release()
        await self._work.call(remove_origin, self._directory)


def remove_origin(directory: Directory) -> None:
    """The digests of a point over which nothing lies any more. Idempotent."""
    if directory.exists(layout.ORIGIN):
        with closing(directory.child(layout.ORIGIN)) as origin:
            for name in origin.names():
                origin.remove(name)
        directory.remove_child(layout.ORIGIN)


def _slices(blocks: U64) -> Iterator[U64]:
    for at in range(0, len(blocks), SLICE_BLOCKS):
        yield blocks[at : at + SLICE_BLOCKS]


def _runs(blocks: U64) -> Iterator[tuple[int, int]]:
    _, counts, firsts = contiguous(blocks)
    for first, count in zip(firsts.tolist(), counts.tolist(), strict=True):
        for at in range(0, count, RUN_BLOCKS):
            yield first + at, min(RUN_BLOCKS, count - at)
