"""Writes of many places as one, of any size: after a crash, and at a mirror, all of them are there or none.

    nobody else    the turn of the log is taken, and no point is cut, until it is over
    slice          a few MiB each, over many turns of the loop: transfers that each go on in the next (CONTINUED)
    end            once every slice is on the disk: the volume's size once more, which completes it

Nothing of it is promised before its end, and mirrors receive it meanwhile as they receive any log. A crash in
between leaves a write that is half there, which recovery drops; behind the end it is all known to be on the disk
(``log/write/appender.py``), and is not copied. What goes wrong in between leaves half of it in the log, behind
which nothing may follow: the log is poisoned, and the next opening drops it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence

from revolume.blocks.geometry import BLOCK
from revolume.blocks.numbers import Position
from revolume.errors import NoSpace
from revolume.log.format.columns import RANGE_BLOCKS
from revolume.log.format.transfer import Flag
from revolume.log.write.operations import OP_WRITE, Op, WouldBlock
from revolume.log.write.pool_limits import WholeNeed
from revolume.log.write.writer import Group
from revolume.volume.livemap.live_map import LiveMap
from revolume.volume.metadata.number_reservation import NumberReservation
from revolume.volume.open_log import OpenLog
from revolume.volume.points.point_maker import PointMaker
from revolume.volume.size_history import SizeHistory
from revolume.volume.space.admission import Admission

SLICE_BLOCKS = 2048
SLICES_IN_SEGMENT = 8
"""A slice is no larger than such a part of a segment."""
PATIENCE_S = 0.25
ATTEMPTS = 240


class WholeWrites:
    """Of one open primary. ``appended`` is called after each slice."""

    def __init__(
        self,
        *,
        log: OpenLog,
        live: LiveMap,
        sizes: SizeHistory,
        admission: Admission,
        numbers: NumberReservation,
        point_maker: PointMaker,
        unsynced_bytes_max: int,
        appended: Callable[[], None],
    ) -> None:
        self._log = log
        self._live = live
        self._sizes = sizes
        self._admission = admission
        self._numbers = numbers
        self._point_maker = point_maker
        self._unsynced_bytes_max = unsynced_bytes_max
        self._appended = appended

    @property
    def slice_blocks(self) -> int:
        """Blocks of content that are appended in one turn of the loop."""
        return max(1, min(SLICE_BLOCKS, self._log.pool.segment_blocks // SLICES_IN_SEGMENT))

    def log_blocks(self, need: WholeNeed) -> int:
        """Blocks of log that it takes at most, with the record of the point behind it."""
        slices = 2 + -(-need.blocks // self.slice_blocks) + -(-need.zero_runs // self.slice_blocks)
        return need.log_blocks(self._transfer_blocks) + 2 * slices + need.record_blocks()

    @property
    def _transfer_blocks(self) -> int:
        """Of the largest transfer."""
        return min(self._log.pool.segment_blocks, self._log.appender.largest_blocks)

    async def append(
        self, slices: AsyncIterator[Sequence[Op]], need: WholeNeed, check: Callable[[], None]
    ) -> Position:
        """Append writes of whole blocks, and zeroes, as one; durable here when it returns the position behind it.
        ``check`` is called once nobody else can append any more, and raises if it must not be done. WouldBlock:
        wait for room, nothing was done. Poisoned: it was broken off, or writing failed."""
        log = self._log
        async with self._point_maker.paused(), log.turn.held():
            check()
            if log.commit.failure is not None:
                raise log.commit.failure
            if not self._admission.admits(self.log_blocks(need)):
                raise WouldBlock
            try:
                async for ops in slices:
                    await self._append_slice(ops)
                await log.commit.synced()
                self._complete()
            except (Exception, asyncio.CancelledError) as error:
                if log.appender.complete_position == log.appender.position:
                    raise
                raise log.commit.poison(f"Writing many blocks as one was broken off: {error}.") from error
            await log.commit.wait_durable(log.appender.position)  # before anybody appends behind it
            return log.appender.position

    async def _append_slice(self, ops: Sequence[Op]) -> None:
        log = self._log
        await self._numbers.wait_for(len(ops))
        await self._room(need_of(ops).log_blocks(self._transfer_blocks))
        group = Group(log.writer, Flag.CONTINUED | Flag.UNDIVIDED)
        for op in ops:
            group.add(op)
        group.flush()
        self._live.absorb()
        self._appended()
        await asyncio.sleep(0)  # the loop has its turn, also where nothing is read or synced
        if log.commit.unsynced_bytes > self._unsynced_bytes_max:
            await log.commit.synced()

    async def _room(self, blocks: int) -> None:
        """There was room for all of it. But a segment that stands ready may be withdrawn for a moment, to be
        written with zeroes."""
        log, attempts = self._log, 0
        while not log.writer.holds(blocks, 0):
            if log.commit.failure is not None:
                raise log.commit.failure
            log.pool.demand(log.pool.segments_for(blocks))
            await log.pool.wait_ready(PATIENCE_S)
            attempts += 1
            if attempts > ATTEMPTS:
                raise NoSpace(
                    "no-space", "The log has no room left for the rest of what is written as one.",
                    "Free room on the disk, or raise --budget.",
                )  # fmt: skip

    def _complete(self) -> None:
        appender, size = self._log.appender, self._sizes.now
        self._log.writer.resize(size)
        self._sizes.grow(appender.written, size)
        self._appended()


def need_of(ops: Sequence[Op]) -> WholeNeed:
    """What these operations take."""
    writes = [length for kind, _, length, _ in ops if kind == OP_WRITE]
    zeroes = [length for kind, _, length, _ in ops if kind != OP_WRITE]
    return WholeNeed(
        blocks=sum(-(-length // BLOCK) for length in writes),
        runs=len(writes),
        zero_runs=len(zeroes),
        ranges=sum(length >= RANGE_BLOCKS * BLOCK for length in zeroes),
    )
