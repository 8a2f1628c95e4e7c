"""What a mirror's copy does by itself: records dealt with, syncs on time, and its room."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from revolume.errors import Poisoned
from revolume.volume.context import VolumeContext
from revolume.volume.heal.healer import Healer
from revolume.volume.open_log import OpenLog
from revolume.volume.points.record_processor import RecordProcessor
from revolume.volume.space.mirror_room import MirrorRoom
from revolume.volume.space.reserve import Reserve
from revolume.volume.space.space_parts import SpaceParts
from revolume.volume.state.events import EventKind, Events


class SecondaryUpkeep:
    """The loops of one copy. A round that fails is told and tried again."""

    def __init__(
        self,
        context: VolumeContext,
        *,
        log: OpenLog,
        records: RecordProcessor,
        room: MirrorRoom,
        space: SpaceParts,
        reserve: Reserve,
        events: Events,
        healer: Healer,
        forget_marks: Callable[[], Awaitable[None]],
    ) -> None:
        """``forget_marks``: those of moments that have gone."""
        self._clock = context.host.clock
        self._options = context.options
        self._log = log
        self._records = records
        self._room = room
        self._space = space
        self._reserve = reserve
        self._events = events
        self._healer = healer
        self._forget_marks = forget_marks
        self._stopping = False
        self.tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin."""
        loops = (self._records.run, self._sync, self._keep_room)
        self.tasks = [asyncio.create_task(loop()) for loop in loops]

    async def stop(self) -> None:
        """End every loop, wherever it is: a point that is being applied is applied by the next opening."""
        self._stopping = True
        self._space.ladder.stop()
        self._records.stop()
        for task in self.tasks:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _sync(self) -> None:
        commit = self._log.commit
        while not self._stopping:
            await self._clock.sleep(self._options.sync_interval_s)
            if commit.unsynced_bytes:
                commit.start()

    async def _keep_room(self) -> None:
        before, records, appender = -1, self._records, self._log.appender
        grown = False
        while not self._stopping:
            quiet, before = appender.complete_position == before, appender.complete_position
            await self._clock.sleep(0.1 if grown else 2.0 if quiet else 0.5)
            self._space.outlook.look()
            if records.waits_for_base or records.failure is not None or self._stopping:
                continue
            try:
                grown = await self._round()
            except Exception as error:  # what poisons has poisoned by itself
                if not isinstance(error, Poisoned):
                    self._events.tell(str(error), EventKind.TROUBLE)
                    await self._clock.sleep(1.0)

    async def _round(self) -> bool:
        """Whether the ladder has grown, and may grow on."""
        space = self._space
        self._healer.tend()
        if space.base_maps.due():
            await space.base_maps.renew()
        grown = await space.ladder.step()
        await space.folder.step()
        await self._forget_marks()
        await space.retention.return_to_budget()
        if self._reserve.missing:
            await space.room.tend_reserve()
        await self._room.return_to_budget()
        return grown
