"""Folding: the oldest of the log becomes part of the image, and its segments come back.

``retention.py`` says when and how far: to a point, never beyond the oldest write that somebody holds (open view,
mirror), and never across a pinned moment (snapshot): a fold stops there and goes on.

The order of a fold makes every crash harmless: retire the older moments (durably), note what changed for mirrors
of which nothing else is kept (``dirty_regions.py``), rescue what pinned moments need of what will be overwritten
(``rescuer.py``), fold in the helper process (``image/fold_job.py``), move the horizon
(durably) and memory with it (``horizon_flip.py``), give the segments back.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial

from revolume.blocks.block_location import DATA
from revolume.blocks.numbers import Position, WriteNumber
from revolume.chain.point import Point
from revolume.errors import Damaged, NoSpace, Refused, Unreadable
from revolume.host import JobFailed
from revolume.host.clock import Clock
from revolume.host.disk import out_of_room
from revolume.volume.dirty.dirty_regions import DirtyRegions
from revolume.volume.heal.damaged_block import IMAGE, DamagedBlock
from revolume.volume.heal.healer import Healer
from revolume.volume.heal.transfer_healer import TransferHealer
from revolume.volume.image.fold_job import DamagedInLog, Folded, FoldSpec, fold, growth
from revolume.volume.image.volume_image import VolumeImage
from revolume.volume.metadata.manifest_edits import EditKind, pack_number
from revolume.volume.metadata.manifest_state import Horizon
from revolume.volume.open_log import OpenLog
from revolume.volume.space.disk_room import DiskRoom
from revolume.volume.space.fold_planner import FoldPlanner
from revolume.volume.space.history_room import HistoryRoom
from revolume.volume.space.horizon_flip import HorizonFlip
from revolume.volume.space.rescuer import Rescuer
from revolume.volume.space.retention import OLDER_THAN_KEEP, FoldPlan
from revolume.volume.state.events import EventKind, Events
from revolume.volume.uncancelled_tasks import UncancelledTasks

LOSSES_MAX = 8
UNREADABLE_MAX = 3
"""So many folds in a row may fail before a block that the disk can't read, and nobody has, goes as it is."""
AS_THEY_ARE_MAX = 1 << 16
"""More damage than that in what is folded is no matter of single blocks."""
A_JUMP = "a jump"


class Folder:
    """Folds one volume, a step at a time. ``busy`` is held meanwhile."""

    def __init__(
        self,
        *,
        planner: FoldPlanner,
        flip: HorizonFlip,
        room: DiskRoom,
        log: OpenLog,
        image: VolumeImage,
        rescuer: Rescuer,
        history: HistoryRoom,
        dirty: DirtyRegions,
        healer: Healer,
        transfer_healer: TransferHealer,
        clock: Clock,
        events: Events,
        tasks: UncancelledTasks,
        busy: asyncio.Lock,
    ) -> None:
        self._planner = planner
        self._flip = flip
        self._room = room
        self._log = log
        self._image = image
        self._rescuer = rescuer
        self._history = history
        self._dirty = dirty
        self._healer = healer
        self._transfer_healer = transfer_healer
        self._unreadable = 0
        self._clock = clock
        self._events = events
        self._tasks = tasks
        self._busy = busy
        self.folding = False
        self.aged = 0, 0, 0
        """Up to which write the last fold because of age went, by the monotonic clock when, and for how many ms
        every write was kept then."""
        self.folds = 0
        self.folded_blocks = 0
        self.written_bytes = 0
        state = log.manifest.state
        self.retired_write = max(state.horizon.write, state.folding)
        """Moments before this write can't be opened any more."""
        self.failure: str | None = None
        self._losses = 0
        self.starved = False
        """The last fold had no room for the image, or for what it would have rescued: only zeroes, in a newer
        point, or the end of a pin can make some."""

    @asynccontextmanager
    async def paused(self) -> AsyncIterator[None]:
        """Within the block no fold is under way, and none begins; nor is the base map exchanged."""
        async with self._busy:
            yield

    @property
    def horizon(self) -> Horizon:
        """The image's moment."""
        return self._image.horizon

    def plan(self, pressed: bool = False) -> FoldPlan | None:
        """What to do now."""
        return self._planner.plan(self.retired_write, pressed)

    async def step(self, pressed: bool = False) -> bool:
        """Fold once if there is reason to; whether log was given back. ``pressed``: a writer waits for room."""
        return await self._tasks.finish(self._step(pressed))

    @property
    def interrupted(self) -> bool:
        """The last fold's helper process was lost, and not yet many in a row: it is done again, and that says
        nothing of room."""
        return 0 < self._losses <= LOSSES_MAX

    async def _step(self, pressed: bool) -> bool:
        async with self._busy:
            if self._rescuer.due:
                await self._rescuer.tidy()
            if await self._history.fit(self.retired_write):
                return True
            plan = self.plan(pressed)
            if plan is None:
                self._losses, self.starved = 0, False
                return False
            self.folding = True
            if plan.reason == OLDER_THAN_KEEP:
                self.aged = plan.target.write, self._clock.monotonic_ns(), self._planner.keeps_ms
            else:
                await self._history.pass_over(plan.target)
            try:
                target = await self._affordable(plan)
                if self._planner.allows(target):  # nobody has begun to hold something before it meanwhile
                    await self._fold(target)
                self.failure, self.starved, self._losses = None, False, 0
                return True
            except Exception as error:  # whatever it was: the log is as it was, and the operator is told
                self.failure = str(error)
                self.starved = isinstance(error, NoSpace) or (isinstance(error, OSError) and out_of_room(error))
                self._losses = self._losses + 1 if isinstance(error, JobFailed) else 0
                self._events.tell(f"folding failed: {error}", EventKind.TROUBLE)
                return False
            finally:
                self.folding = False
                await self._room.refill()

    async def fold_to(self, point: Point, give_way: Callable[[WriteNumber], None]) -> None:
        """Fold up to this point, however young it is; pinned moments on the way are stops. ``give_way`` ends, at
        once, whoever holds log before a write. What prevents it is raised; it may be tried again."""
        await self._tasks.finish(self._fold_to(point, give_way))

    async def _fold_to(self, point: Point, give_way: Callable[[WriteNumber], None]) -> None:
        while self.horizon.point != point.number:
            async with self._busy:
                stop = self._planner.stop_before(point)
                self.folding = True
                try:
                    await self._affordable(FoldPlan(stop, A_JUMP, stop))
                    give_way(stop.write)
                    if not self._planner.allows(stop):
                        raise Refused("history-held", f"The log behind w{stop.write} is held.", "Try again.")
                    await self._fold(stop)
                    self.failure, self.starved, self._losses = None, False, 0
                finally:
                    self.folding = False
                    await self._room.refill()

    async def _affordable(self, plan: FoldPlan) -> Point:
        """How far to fold with the room there is: to the target, or farther where later zeroes take back what the
        image would grow by. NoSpace: neither has room. No moment is retired for a fold that can't be done."""
        room = self._room.for_image
        if self._planner.log_bytes(plan.target) * (1 + self._rescuer.rescues) <= room:
            return plan.target
        await self._log.footers.written()
        grows = 0
        for target in (plan.target, plan.last):
            job = self._planner.job(target)
            grows = await self._transfer_healer.with_records(partial(self._growth, job))
            if grows <= room:
                return target
        raise NoSpace(
            "image-no-space",
            f"folding would take {grows} bytes more for the image and what snapshots keep of it, and the disk has "
            f"room for {room}.",
            "Free room on the disk; until then the log keeps what it has.",
        )

    async def _growth(self, job: FoldSpec) -> int:
        """Bytes that image and rescue files would take more."""
        return await self._log.work.job(growth, job) + await self._rescuer.growth(job)

    async def _fold(self, target: Point) -> None:
        log = self._log
        self.retired_write = target.write
        await log.manifest.record((EditKind.FOLDING, pack_number(target.write)))
        # With the point's record: it has blocks of which the log in front of it has only sectors, and the image is
        # the rest of them. Behind what is whole a mirror may have half a write, which nothing makes durable.
        await log.commit.wait_durable(log.appender.complete_position)
        await log.footers.written()
        job = self._planner.job(target)
        await self._room.make(self._planner.log_bytes(target) * (1 + self._rescuer.rescues))
        done, damaged = await self._transfer_healer.with_records(partial(self._prepared, job, target.position))
        self.folds += 1
        self.folded_blocks += done.blocks
        self.written_bytes += done.bytes_written
        await self._flip.to(target, job)
        self._healer.unhealed_at(damaged)

    async def _prepared(self, job: FoldSpec, upto: Position) -> tuple[Folded, list[DamagedBlock]]:
        """Done, once what the fold takes away has been kept for those who need it."""
        await self._dirty.before(job, upto)
        await self._rescuer.before(job)
        return await self._folded(job)

    async def _folded(self, job: FoldSpec) -> tuple[Folded, list[DamagedBlock]]:
        """Done to its end: damaged blocks of the log are healed on the way, and what nobody can heal goes into the
        image as it is, with the digest that it should have. Those come with it."""
        as_they_are: dict[int, DamagedInLog] = {}
        while (done := await self._tried(replace(job, as_they_are=frozenset(as_they_are)))).damaged:
            left = await self._healed(done.damaged)
            if any(each.unreadable for each in left) and self._unreadable < UNREADABLE_MAX:
                self._unreadable += 1
                raise Unreadable("read-error", f"The disk can't read block {left[0].block} in the log.")
            as_they_are |= {each.address: each for each in left}
            if len(as_they_are) > AS_THEY_ARE_MAX:
                raise Damaged("log-damaged", f"More than {AS_THEY_ARE_MAX} blocks in the log are damaged.")
        self._unreadable = 0
        return done, [DamagedBlock(each.block, each.digest, IMAGE, each.block) for each in as_they_are.values()]

    async def _healed(self, damaged: Sequence[DamagedInLog]) -> list[DamagedInLog]:
        """Those that could not be healed."""
        places = {DamagedBlock(each.block, each.digest, DATA, each.address): each for each in damaged}
        return [places[left] for left in await self._healer.heal(places, busy_held=True)]

    async def _tried(self, job: FoldSpec) -> Folded:
        """Where a quota ends before the disk does, once more with the room that was kept back."""
        try:
            return await self._log.work.job(fold, job)
        except OSError as error:
            if not out_of_room(error) or not await self._room.take():
                raise
            return await self._log.work.job(fold, job)
