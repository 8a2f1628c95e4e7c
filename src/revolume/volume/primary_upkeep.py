"""What a primary does by itself: points on time, syncs on time, and its room.

Three loops. One makes a point when it is due. One follows the wall clock and syncs what nobody has flushed. One
looks after everything else: the forecast, damage that may have healed, the live map's base, the reserve, folding.
A round that fails is told and tried again. An idle volume does not wake the machine: the loops rest until
something is appended.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from revolume.errors import Poisoned, RevolumeError
from revolume.host.clock import within
from revolume.volume.clocks.clock_step import follow_clock
from revolume.volume.clocks.volume_clocks import VolumeClocks
from revolume.volume.context import VolumeContext
from revolume.volume.heal.healer import Healer
from revolume.volume.livemap.live_map import LiveMap
from revolume.volume.livemap.reader import Reader
from revolume.volume.open_log import OpenLog
from revolume.volume.points.point_maker import PointMaker
from revolume.volume.size_history import SizeHistory
from revolume.volume.space.reserve import Reserve
from revolume.volume.space.space_parts import SpaceParts
from revolume.volume.state.damage import Damage
from revolume.volume.state.events import EventKind, Events

SWEEP_PRESSURE = 0.4  # below it what the overlay need not know any more is still worth having at hand
IDLE_S = 3.0


class PrimaryUpkeep:
    """The loops of one volume. ``points_failure``: why the last point could not be made."""

    def __init__(
        self,
        context: VolumeContext,
        *,
        log: OpenLog,
        live: LiveMap,
        reader: Reader,
        damage: Damage,
        sizes: SizeHistory,
        clocks: VolumeClocks,
        reserve: Reserve,
        space: SpaceParts,
        point_maker: PointMaker,
        events: Events,
        healer: Healer,
        forget_marks: Callable[[], Awaitable[None]],
        drop_expired: Callable[[], Awaitable[None]],
    ) -> None:
        """``forget_marks``: those of moments that have gone; ``drop_expired``: the snapshots whose time is
        over."""
        self._clock = context.host.clock
        self._options = context.options
        self._log = log
        self._live = live
        self._reader = reader
        self._damage = damage
        self._sizes = sizes
        self._clocks = clocks
        self._reserve = reserve
        self._space = space
        self._point_maker = point_maker
        self._events = events
        self._healer = healer
        self._forget_marks = forget_marks
        self._drop_expired = drop_expired
        self._resting: list[asyncio.Task[None] | None] = []
        self._stopping = False
        self.tasks: list[asyncio.Task[None]] = []
        self.active = asyncio.Event()
        """Set by whoever appends."""
        self.points_failure: str | None = None
        self.log_ended = False
        """Nothing may be appended any more."""

    def start(self) -> None:
        """Begin."""
        self.tasks = [asyncio.create_task(loop()) for loop in (self._make_points, self._sync, self._keep_room)]

    async def stop(self) -> None:
        """Return once every loop has ended: what rests at once, the others when their round is over."""
        self._stopping = True
        self._space.ladder.stop()
        self._point_maker.request()
        for task in self.tasks:
            if task in self._resting:
                task.cancel()
        for task in self.tasks:
            done, _ = await asyncio.wait([task], timeout=30)
            if not done:
                task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _make_points(self) -> None:
        while not self._stopping:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._point_maker.interval_due.wait(), self._options.cp_interval_s)
            if not self._stopping and not self.log_ended:
                await self._guarded(self._make_point)

    async def _make_point(self) -> None:
        try:
            await self._point_maker.cut()
            self.points_failure = None
        except Exception as error:
            if not isinstance(error, Poisoned):
                self.points_failure = str(error)
            raise

    async def _sync(self) -> None:
        while not self._stopping:
            await self._rest(self._options.sync_interval_s)
            with contextlib.suppress(RevolumeError):  # what it meets has poisoned the volume
                if not self.log_ended:
                    follow_clock(self._clocks, self._log, self._events)
                await self._clocks.remember_steps(self._log.appender.complete_position)
            if self._log.commit.unsynced_bytes:
                self._log.commit.start()
            else:
                await self._idle(IDLE_S)

    async def _keep_room(self) -> None:
        space, appender, overlay = self._space, self._log.appender, self._live.overlay
        while not self._stopping:
            before = appender.position
            await self._rest(0.1)
            if self._stopping:
                return
            space.outlook.look()
            self._healer.tend()
            if self._damage:
                await self._guarded(self._look_at_damage)
            if space.base_maps.due():
                await self._guarded(space.base_maps.renew)
            grown = await self._guarded(space.ladder.step)
            if self._reserve.missing:
                await self._guarded(space.room.tend_reserve)
            await self._guarded(self._forget_marks)
            if not self.log_ended:
                await self._guarded(self._drop_expired)
            await self._guarded(space.retention.return_to_budget)
            if not await self._guarded(space.folder.step) and not grown:
                if overlay.pressure > SWEEP_PRESSURE:
                    overlay.sweep(8)
                await (self._idle(IDLE_S) if appender.position == before else self._rest(0.4))

    async def _look_at_damage(self) -> None:
        await self._damage.look_again(self._reader, self._sizes.now)

    async def _guarded(self, job: Callable[[], Awaitable[object]]) -> object:
        """A round that fails is told, not fatal; what poisons has poisoned by itself."""
        try:
            return await job()
        except Exception as error:
            if not isinstance(error, Poisoned):
                self._events.tell(str(error), EventKind.TROUBLE)
                await self._rest(1.0)
            return None

    async def _rest(self, seconds: float) -> None:
        """Between two rounds: there is nothing in hand, and a stop need not wait for it."""
        task = asyncio.current_task()
        self._resting.append(task)
        try:
            await self._clock.sleep(seconds)
        finally:
            self._resting.remove(task)

    async def _idle(self, seconds: float) -> None:
        """Rest until something is appended, or for so long."""
        task = asyncio.current_task()
        self._resting.append(task)
        self.active.clear()
        try:
            with contextlib.suppress(TimeoutError):
                await within(self._clock, seconds, self.active.wait())
        finally:
            self._resting.remove(task)
