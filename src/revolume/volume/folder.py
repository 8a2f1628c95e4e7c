"""The horizon's keeper: when to fold, how far, and the flip.

``retention.py`` says when and how far. The fold goes to a point, never beyond the oldest write that somebody
holds (snapshot, open view). The order is the one of design and ``foldjob``: retire the older moments (durably),
fold in the helper process, move the horizon (durably), flip in memory, give the segments back.

Beside it the live map's base: when the overlay fills up, or an opening would have to read much log, the
helper merges what changed since the last base into a new one.
"""

from __future__ import annotations

import asyncio
import errno

from revolume.chain.mapfile import MapFile
from revolume.chain.mapjob import MapMade, MapSpec, make_map
from revolume.chain.point import Point
from revolume.chain.versions import SegmentSpec, Stretch
from revolume.errors import Damaged, NoSpace
from revolume.host import JobFailed
from revolume.log.columns import LIVED_NS
from revolume.log.transfer import BLOCK
from revolume.volume import layout
from revolume.volume.core import Core
from revolume.volume.events import EventKind
from revolume.volume.foldjob import FoldSpec, fold, growth
from revolume.volume.manifest import EditKind, Horizon, Mark, pack_horizon, pack_mark, pack_number, pack_pairs
from revolume.volume.retention import OLDER_THAN_KEEP, FoldPlan, plan_fold
from revolume.volume.status import Holder
from revolume.volume.stretches import agreed_span, position_below, reach_of

REBASE_SEGMENTS = 48
REBASE_PRESSURE = 0.5
LOSSES_MAX = 8
SMALL_FILES = 64 << 10
FILES_MIN = 6
"""Segment files that stay whatever the disk lacks."""


def holders(core: Core) -> list[Holder]:
    """Everybody who keeps log from being recycled, oldest first."""
    pins = [Holder(f"snapshot {s.name}", s.write) for s in core.manifest.state.snapshots]
    pins += [Holder(each.holder, each.write, each.kind.gives_way, each.bytes()) for each in core.leases.values()]
    return sorted(pins, key=lambda holder: holder.write)


class Folder:
    """See the module's text. ``cut`` makes a point when folding needs a newer one."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._busy = asyncio.Lock()
        self.folding = False
        self.aged = 0, 0
        """Up to which write the last fold because of age went, and by the monotonic clock when."""
        self.folds = 0
        self.folded_blocks = 0
        self.written_bytes = 0
        state = core.manifest.state
        self.retired_write = max(state.horizon.write, state.folding)
        self.failure: str | None = None
        self._losses = 0
        self.starved = False
        """The image had no room to grow: only zeroes, in a newer point, can make some."""

    @property
    def horizon(self) -> Horizon:
        """The image's moment."""
        return self._core.horizon

    def plan(self, pressed: bool = False) -> FoldPlan | None:
        """What to do now."""
        core, pool = self._core, self._core.pool
        held = holders(core)
        in_use = (len(pool.by_use) - len(pool.ready)) * pool.segment_blocks * BLOCK
        return plan_fold(
            core.points,
            horizon_address=self.horizon.address,
            retired_write=self.retired_write,
            held_write=held[0].write if held else None,
            keep_before_ms=core.lived.now_ns() // LIVED_NS - int(core.options.keep_s * 1000),
            log_bytes=in_use + 2 * pool.segment_blocks * BLOCK,
            budget_bytes=pool.limits.budget_bytes,
            segment_bytes=pool.segment_blocks * BLOCK,
            pressed=pressed,
            room_bytes=self._room(),
        )

    def _room(self) -> int:
        """How much the image may grow by: what is free and what is kept back, less what sums take and what is left
        for the manifest, whatever happens."""
        reserve = self._core.reserve
        room = self._core.directory.free_bytes() + reserve.held - reserve.slack
        return max(0, room - room // 64 - SMALL_FILES)

    async def tend_reserve(self) -> None:
        """Keep back again what was used of the reserve. Not beside a fold, which may be using it."""
        async with self._busy:
            await self._core.host.work.call(self._core.reserve.fill)

    async def step(self, pressed: bool = False) -> bool:
        """Fold once if there is reason to; whether log was given back."""
        return await self._core.maintenance.finished(self._step(pressed))

    @property
    def interrupted(self) -> bool:
        """The last fold's helper process was lost, and not yet many in a row: it is done again, and that says
        nothing of room."""
        return 0 < self._losses <= LOSSES_MAX

    async def _step(self, pressed: bool) -> bool:
        async with self._busy:
            plan = self.plan(pressed)
            if plan is None:
                self._losses = 0
                return False
            self.folding = True
            if plan.reason == OLDER_THAN_KEEP:
                self.aged = plan.target.write, self._core.host.clock.monotonic_ns()
            try:
                await self._fold(await self._affordable(plan))
                self.failure, self.starved, self._losses = None, False, 0
                return True
            except Exception as error:  # whatever it was: the log is as it was, and the operator is told
                self.failure = str(error)
                self.starved = isinstance(error, NoSpace)
                self._losses = self._losses + 1 if isinstance(error, JobFailed) else 0
                self._core.events.tell(f"folding failed: {error}", EventKind.TROUBLE)
                return False
            finally:
                self.folding = False
                await self._core.host.work.call(self._core.reserve.fill)

    async def _affordable(self, plan: FoldPlan) -> Point:
        """How far to fold with the room there is: to the target, or farther where later zeroes take back what the
        image would grow by. NoSpace: neither has room. No moment is retired for a fold that can't be done."""
        room = self._room()
        if self._stretch_bytes(plan.target) <= room:
            return plan.target
        await self._core.footers_written()
        grows = 0
        for target in (plan.target, plan.last):
            grows = await self._core.host.work.job(growth, self._spec(target))
            if grows <= room:
                return target
        raise NoSpace(
            "image-no-space",
            f"the image would grow by {grows} bytes, and the disk has room for {room}.",
            "Free room on the disk; until then the log keeps what it has.",
        )

    def _stretch_bytes(self, target: Point) -> int:
        return (reach_of(self._core.points, target.number) - self.horizon.address + 1) * BLOCK

    def _spec(self, target: Point) -> FoldSpec:
        core, horizon = self._core, self.horizon
        return FoldSpec(
            core.directory.path, core.volume_id, self._stretch(None, target), horizon.write, target.write,
            target.number, target.address, core.size_at(target.write), horizon.pages_generation + 1,
        )  # fmt: skip

    async def _fold(self, target: Point) -> None:
        core = self._core
        self.retired_write = target.write
        await core.recorder.record((EditKind.FOLDING, pack_number(target.write)))
        # With the point's record: it has blocks of which the log in front of it has only sectors, and the image is
        # the rest of them. Behind what is whole a mirror may have half a write, which nothing makes durable.
        await core.commit.wait_durable(core.appender.whole)
        await core.footers_written()
        spec = self._spec(target)
        await self._give_room(target)
        done = await core.host.work.job(fold, spec)
        self.folds += 1
        self.folded_blocks += done.blocks
        self.written_bytes += done.bytes_written
        await self._flip(target, spec)

    async def _give_room(self, target: Point) -> None:
        """Empty the reserve if the image might need it."""
        core = self._core
        stretch = self._stretch_bytes(target)
        if core.directory.free_bytes() < stretch + stretch // 64 + SMALL_FILES:
            await core.host.work.call(core.reserve.take)

    async def _released(self, freed: dict[int, int]) -> None:
        """Freed files make up for what a fold took of the reserve, and are used again where nothing lacks."""
        core, pool = self._core, self._core.pool
        lacks = core.reserve.missing + core.reserve.slack - core.directory.free_bytes()
        if core.cover.copies:  # there a free file is no room
            lacks += 2 * pool.segment_blocks * BLOCK + core.commit.unsynced_bytes
        files = -(-lacks // (pool.segment_blocks * BLOCK)) if core.reserve.missing or core.cover.copies else 0
        gone = list(freed)[: max(0, min(files, pool.files + len(freed) - FILES_MIN))]
        if gone:
            await core.host.work.call(pool.remove, gone)
        await core.host.work.call(core.reserve.fill)
        pool.release({index: 0 for index in freed if index not in gone})

    def _stretch(self, base: MapFile | None, point: Point) -> Stretch:
        """Where versions between ``base`` (without one, the horizon) and the cut of ``point`` lie: up to the
        point's record, which carries blocks as of its cut and lies behind the cut."""
        pool, ends = self._core.pool, self._core.manifest.state.ends
        begin = base.meta.address if base is not None else self.horizon.address
        reach = reach_of(self._core.points, point.number)
        first, last = begin // pool.segment_blocks, reach // pool.segment_blocks
        specs = tuple(
            SegmentSpec(s.index, s.use, s.blocks, ends.get(s.use))
            for s in pool.segments()
            if first <= s.use <= last
        )
        agreed = agreed_span(self._core, base, point.number)
        return Stretch(specs, position_below(self._core, base), reach + 1, agreed)

    async def _flip(self, target: Point, spec: FoldSpec) -> None:
        """What may fail comes before the horizon's edit: from there on memory has to follow the manifest."""
        core = self._core
        sums = await core.host.work.call(core.sums.committed, spec.pages_generation)
        horizon = Horizon(
            target.number, target.write, target.position, target.address, target.time_ns, spec.size,
            *target.root, target.chain, spec.pages_generation,
        )  # fmt: skip
        gone = [s for s in core.pool.by_use.values() if s.use < target.address // core.pool.segment_blocks]
        freed = {s.index: 0 for s in gone}
        passed = core.live.base is not None and core.live.based <= target.address
        base_name = core.base_name
        core.horizon_before = core.horizon
        try:
            await core.recorder.record(
                (EditKind.HORIZON, pack_horizon(horizon)),
                (EditKind.USES, pack_pairs(freed)),
                (EditKind.BASE_MAP, b"" if passed else base_name.encode()),
            )
        except BaseException:
            core.horizon_before = None
            raise
        async with core.below_lock:
            core.horizon_before = None
            core.sums.take_up(sums)
            base = core.live.moved_horizon(target.address)
            core.base_name = "" if base is not None else base_name
            core.generation += 1
        if base is not None:
            base.close()
            core.retire_map(base_name)
        core.points[:] = [p for p in core.points if p.number >= target.number]
        core.recorder.stated.horizon = target.write
        core.pool.give_back([s.use for s in gone])
        await self._released(freed)

    async def _made(self, spec: MapSpec) -> MapMade:
        """With no room, once more with the room that was kept back: a new base gives memory, which folds need."""
        work, reserve = self._core.host.work, self._core.reserve
        try:
            return await work.job(make_map, spec)
        except OSError as error:
            if error.errno != errno.ENOSPC or not await work.call(reserve.take):
                raise
            return await work.job(make_map, spec)

    async def _settled_place(self) -> Mark:
        """The log's end, once it is durable. A map file names addresses, and what recovery finds beyond the
        position that it knows to be durable gets new ones; so the manifest learns of it with the map. (Behind a
        write that is half there nothing is promised, and no map names it.)"""
        appender = self._core.appender
        mark = Mark(appender.position, appender.address, appender.chain, appender.write, appender.time_ns)
        if appender.whole != appender.position:
            mark = Mark(appender.whole)
        await self._core.commit.wait_durable(mark.position)
        return mark

    def rebase_due(self) -> bool:
        """Whether the live map wants a new base."""
        core = self._core
        if not self._rebase_possible():
            return False
        since = core.appender.address - max(core.live.based, core.live.folded)
        return (
            core.live.overlay.pressure > REBASE_PRESSURE or since > REBASE_SEGMENTS * core.pool.segment_blocks
            or self._base_damaged()
        )  # fmt: skip

    def _base_damaged(self) -> bool:
        base = self._core.live.base
        return base is not None and base.damaged

    def _rebase_possible(self) -> bool:
        """There is a newer point than the base's, or the base is damaged and its own point will do."""
        core = self._core
        newest = core.points[-1].address if core.points else 0
        return newest > max(core.live.based, core.live.folded) or (
            self._base_damaged() and newest == core.live.based > core.live.folded
        )

    def _map_spec(self, point: Point, name: str) -> MapSpec:
        """A base up to ``point``, over the one that there is. A damaged one is left aside, and not tried twice
        before it is met again: the log has all that it had."""
        core = self._core
        base = core.live.base
        if base is not None and base.damaged:
            core.events.tell(f"the map {core.base_name} is damaged and is made anew")
            base.damaged, base = False, None
        after = base.meta.write if base is not None else core.horizon.write
        return MapSpec(
            core.log_directory.path, core.maps_directory.path, core.volume_id, self._stretch(base, point),
            core.base_name if base is not None else "", after, point.write, core.live.folded, name,
            point.address, point.number,
        )  # fmt: skip

    async def rebase(self, force: bool = False) -> None:
        """Merge what changed since the last base, up to the newest point, into a new base map."""
        await self._core.maintenance.finished(self._rebase(force))

    async def _rebase(self, force: bool) -> None:
        async with self._busy:
            core = self._core
            if not self._rebase_possible() or not (force or self.rebase_due()):
                return
            point = core.points[-1]
            durable = await self._settled_place()
            await core.footers_written()
            name = layout.base_map_name(point.number, core.manifest.number)
            spec = self._map_spec(point, name)
            try:
                made = await self._made(spec)
            except Damaged:
                if spec.base and core.live.base is not None:
                    core.live.base.damaged = True  # the next attempt does without it
                raise
            if made.fragments:
                raise Damaged(
                    "point-damaged",
                    f"Point cp{point.number} does not carry every block that was partially modified before it.",
                    "Run 'revolume check' on the stopped volume.",
                )
            await core.recorder.record(
                (EditKind.DURABLE, pack_mark(durable)), (EditKind.BASE_MAP, name.encode())
            )
            base = MapFile.open(core.maps_directory.open(name, write=False), core.volume_id)
            async with core.below_lock:
                old = core.live.moved_base(base, point.address)
                old_name, core.base_name = core.base_name, name
                core.generation += 1
            if old is not None:
                old.close()
                core.retire_map(old_name)
