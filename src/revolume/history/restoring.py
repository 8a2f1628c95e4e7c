"""The present goes back to a retained moment: which blocks differ from it, and writing what they were as one.

    difference   the blocks that were changed since, less those that hold the same again; by digests alone
    read         all that is to be written is read and checked once: what can't be read stops it here, where
                 nothing has happened
    write        what is read again, slice by slice, goes into the log as one write of many places
                 (``volume/whole_writes.py``)

Nobody may write between the first and the last: whoever calls keeps clients away. The moment is held by a lease
that does not give way, since it must not be folded away before its content is in the log again.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from revolume.blocks.block_set import BlockSet
from revolume.blocks.digest import LOST_DIGEST
from revolume.blocks.extents import contiguous
from revolume.blocks.geometry import BLOCK, ceil_div
from revolume.blocks.numbers import Position
from revolume.errors import Damaged, Refused
from revolume.history.allocation import STEP_BLOCKS, Extents
from revolume.history.block_scan import BlockScan
from revolume.history.exports import BITMAP, VolumeExports
from revolume.history.live_export import LiveExport
from revolume.history.open_history import OpenHistory
from revolume.history.resolved_moment import ResolvedMoment
from revolume.history.views import View, open_view
from revolume.log.format.columns import RANGE_BLOCKS
from revolume.log.write.operations import OP_WRITE, OP_ZERO, Op, WouldBlock
from revolume.log.write.pool_limits import WholeNeed
from revolume.volume.livemap.base_map_rebuild import MAP_SLACK
from revolume.volume.livemap.live_source import LiveSource
from revolume.volume.livemap.reader import block_numbers
from revolume.volume.primary import Volume
from revolume.volume.space.holder import HolderKind

U64 = npt.NDArray[np.uint64]
NOTHING = np.zeros(0, np.uint64)
READ_BLOCKS = 4096
"""Checked between two reports."""
Report = Callable[[int, int], None]
"""Is told bytes done, and of how many."""


def unreported(done: int, total: int) -> None:
    """Nobody is told."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Blocks that are not now what they were: those that held something, ascending (uint64), and those that read
    as zeroes."""

    held: U64
    zeroes: BlockSet

    @property
    def bytes(self) -> int:
        """Of content."""
        return len(self.held) * BLOCK

    @property
    def zero_bytes(self) -> int:
        """Of what becomes zeroes."""
        return self.zeroes.block_count() * BLOCK

    @property
    def empty(self) -> bool:
        """Nothing differs."""
        return not len(self.held) and not len(self.zeroes)


class Restoring:
    """One volume brought back to one moment, in the blocks [first, end). ``close`` it."""

    def __init__(self, volume: Volume, exports: VolumeExports, view: View, bounds: tuple[int, int]) -> None:
        self._volume = volume
        self._exports = exports
        self._view = view
        self._first, self._end = bounds
        work = volume.log.work
        self._then = BlockScan(work, view.source, view.reader)
        self._now = BlockScan(work, LiveSource(volume.live, volume.image, volume.partials), volume.reader)

    async def difference(self, report: Report) -> Difference:
        """What has to be written. No content is read, but of blocks that were modified in part. Damaged: nobody
        can tell what a block was."""
        held: list[U64] = []
        zeroed: list[U64] = []
        total = (self._end - self._first) * BLOCK
        for first in range(self._first, self._end, STEP_BLOCKS):
            blocks = await self._changed(first, min(first + STEP_BLOCKS, self._end))
            then, now = await self._digests(blocks), await self._now.digests(blocks)
            _refuse_lost(blocks, then)
            differs = (then != now) | (now == np.uint64(LOST_DIGEST))
            held.append(blocks[differs & (then != 0)])
            zeroed.append(blocks[differs & (then == 0)])
            report((first - self._first) * BLOCK, total)
        return Difference(np.concatenate([NOTHING, *held]), BlockSet.of_blocks(np.concatenate([NOTHING, *zeroed])))

    async def _changed(self, first: int, end: int) -> U64:
        """Blocks among [first, end) that were written or zeroed since the moment, ascending."""
        live = LiveExport(self._volume, self._exports)
        context, at, stop = (
            f"{BITMAP}w{self._view.moment.write}",
            first * BLOCK,
            min(end * BLOCK, self._volume.size),
        )
        found: list[U64] = []
        while at < stop:
            extents: Extents = await self._exports.changed(live, context, self._volume.live, at, stop - at)
            for length, flags in extents:
                if flags:
                    found.append(block_numbers(at // BLOCK, ceil_div(at + length, BLOCK) - at // BLOCK))
                at += length
        return np.unique(np.concatenate([NOTHING, *found]))

    async def _digests(self, blocks: U64) -> U64:
        """As of the moment. What lies behind the size that the volume had then were zeroes."""
        digests = await self._then.digests(blocks)
        digests[blocks >= np.uint64(ceil_div(self._view.size, BLOCK))] = 0
        return digests

    async def read(self, difference: Difference, report: Report) -> None:
        """Read everything once. Damaged: a block of the moment is not what was written."""
        for at in range(0, len(difference.held), READ_BLOCKS):
            blocks = difference.held[at : at + READ_BLOCKS]
            bad, _ = await self._then.damaged(blocks, await self._then.digests(blocks))
            if len(bad):
                raise _unreadable(int(bad[0]))
            report(at * BLOCK, difference.bytes)

    async def write(
        self, difference: Difference, check: Callable[[], None], report: Report = unreported
    ) -> Position:
        """Write what differs, as one; the position behind it, durable here. ``check`` is called once nobody else
        can append any more, and raises if it must not be done. Refused, NoSpace: it is too much."""
        volume, need = self._volume, _need(difference)
        await self._map_room(need.blocks + difference.zeroes.block_count())
        blocks = volume.whole_writes.log_blocks(need)
        self._refuse_beyond_budget(blocks)
        while True:
            await volume.room([], told=False)
            await volume.admission.wait(blocks, told=False)
            with suppress(WouldBlock):
                return await volume.whole_writes.append(self._slices(difference, report), need, check)

    def _refuse_beyond_budget(self, blocks: int) -> None:
        """It can never have room in the log, so nobody need give way for it."""
        volume, pool = self._volume, self._volume.log.pool
        budget = pool.limits.budget_bytes - (volume.admission.spare + 1) * pool.segment_blocks * BLOCK
        needed, kept = blocks * BLOCK, 0
        if firm := volume.holders.firm():
            begin = OpenHistory(volume).address_after(firm[0].write)
            end = volume.log.appender.address
            kept = (end - begin - pool.gap_between(begin, end)) * BLOCK
        if needed + kept > budget:
            raise Refused(
                "restore-too-large",
                f"{needed >> 10} KiB of log are needed; it may take {budget >> 10} KiB, and {kept >> 10} KiB "
                f"are kept{' for ' + firm[0].name if firm else ''}.",
                "Nothing has been changed. Raise --budget, or restore it in parts, with --range.",
            )

    async def _map_room(self, blocks: int) -> None:
        """The live map takes so many more blocks at once. Refused: it does not."""
        overlay = self._volume.live.overlay
        if overlay.room() < blocks + MAP_SLACK:
            await self._volume.point_maker.cut()
            await self._volume.base_maps.renew(force=True)
            overlay.sweep(1 << 30)
        if overlay.room() < blocks:
            raise Refused(
                "restore-too-large", f"{blocks} blocks differ, more than fit the memory of the volume's map.",
                "Nothing has been changed. Raise --map-memory, or restore it in parts, with --range.",
            )  # fmt: skip

    async def _slices(self, difference: Difference, report: Report) -> AsyncIterator[list[Op]]:
        """The operations, some MiB of content at a time."""
        step, size = self._volume.whole_writes.slice_blocks, self._volume.size
        for at in range(0, len(difference.held), step):
            blocks = difference.held[at : at + step]
            report(at * BLOCK, difference.bytes)
            yield _written(blocks, await self._volume.log.work.call(self._view.reader.load, blocks), size)
        zeroes = difference.zeroes
        for at in range(0, len(zeroes), step):
            starts, ends = zeroes.starts[at : at + step].tolist(), zeroes.ends[at : at + step].tolist()
            yield [
                (OP_ZERO, start * BLOCK, min(end * BLOCK, size) - start * BLOCK, None)
                for start, end in zip(starts, ends, strict=True)
            ]

    def close(self) -> None:
        """Let go of the moment."""
        self._view.close()


async def open_restoring(
    volume: Volume, exports: VolumeExports, moment: ResolvedMoment, bounds: tuple[int, int]
) -> Restoring:
    """Open the moment. NotFound: it has passed the horizon meanwhile. NoSpace: no room for its map."""
    view = await open_view(volume, moment, f"restore to w{moment.write}", HolderKind.UNDER_WAY)
    return Restoring(volume, exports, view, bounds)


def _refuse_lost(blocks: U64, digests: U64) -> None:
    lost = blocks[digests == np.uint64(LOST_DIGEST)]
    if len(lost):
        raise _unreadable(int(lost[0]))


def _unreadable(block: int) -> Damaged:
    return Damaged(
        "moment-damaged",
        f"Block {block} of that moment is not what was written, here and at every copy that could be asked.",
        "Nothing has been changed. Restore to another moment, or leave that block out with --range.",
    )


def _need(difference: Difference) -> WholeNeed:
    """What it takes of the log."""
    counts = difference.zeroes.counts
    return WholeNeed(
        blocks=len(difference.held),
        runs=len(contiguous(difference.held)[0]),
        zero_runs=len(counts),
        ranges=int((counts >= RANGE_BLOCKS).sum()),
    )


def _written(blocks: U64, content: memoryview, size: int) -> list[Op]:
    """Writes of these ascending blocks of a volume of ``size`` bytes."""
    ops = list[Op]()
    starts, counts, firsts = contiguous(blocks)
    for start, count, first in zip(starts.tolist(), counts.tolist(), firsts.tolist(), strict=True):
        length = min((first + count) * BLOCK, size) - first * BLOCK
        ops.append((OP_WRITE, first * BLOCK, length, content[start * BLOCK : start * BLOCK + length]))
    return ops
