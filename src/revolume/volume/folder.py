"""The horizon's keeper: when to fold, how far, and the flip.

A fold begins when enough of the log is older than ``keep``, or when the log fills its budget, or when a
writer finds no room. It goes to a point, never beyond the oldest write that somebody holds (snapshot, open
view). The order is the one of design and ``foldjob``: retire the older moments (durably), fold in the helper
process, move the horizon (durably), flip in memory, give the segments back.

Beside it the live map's base: when the overlay fills up, or an opening would have to read much log, the
helper merges what changed since the last base into a new one.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from revolume.chain.mapfile import MapFile
from revolume.chain.mapjob import MapSpec, make_map
from revolume.chain.point import Point
from revolume.chain.versions import SegmentSpec, Stretch
from revolume.errors import Damaged
from revolume.log.transfer import BLOCK
from revolume.volume import layout
from revolume.volume.core import Core
from revolume.volume.foldjob import FoldSpec, fold
from revolume.volume.manifest import EditKind, Horizon, Mark, pack_horizon, pack_mark, pack_number, pack_pairs
from revolume.volume.status import Holder

REBASE_SEGMENTS = 48
REBASE_PRESSURE = 0.5


@dataclass(frozen=True, slots=True)
class FoldPlan:
    """Fold to ``target``, because of ``reason``."""

    target: Point
    reason: str


def holders(core: Core) -> list[Holder]:
    """Everybody who keeps log from being recycled, oldest first."""
    pins = [Holder(f"snapshot {s.name}", s.write) for s in core.manifest.state.snapshots]
    pins += [Holder(name, write) for name, write in core.leases.values()]
    return sorted(pins, key=lambda holder: holder.write)


def position_below(core: Core, base: MapFile | None) -> int:
    """The position up to which ``base`` knows everything; without one the horizon's."""
    number = base.meta.point if base is not None else 0
    found = (p.position for p in core.points if p.number == number)
    return next(found, core.manifest.state.horizon.position)


def plan_fold(
    points: list[Point],
    horizon: Horizon,
    retired_write: int,
    held_write: int | None,
    keep_before_ns: int,
    log_bytes: int,
    budget_bytes: int,
    segment_bytes: int,
    pressed: bool,
) -> FoldPlan | None:
    """How far to fold now, or None. Pure. A step takes at least an eighth of the budget where it can, so that
    folds are few and sorted; under pressure anything that frees a segment will do."""
    free_to = [
        p
        for p in points
        if p.address > horizon.address
        and p.write >= retired_write
        and (held_write is None or p.write <= held_write)
    ]
    if not free_to:
        return None
    segment_blocks = segment_bytes // BLOCK

    def frees(point: Point) -> int:
        return (point.address // segment_blocks - horizon.address // segment_blocks) * segment_bytes

    newest = free_to[-1]
    step = min(budget_bytes // 8, 1 << 30)
    expired = [p for p in free_to if p.time_ns <= keep_before_ns]
    if expired and frees(expired[-1]) >= max(segment_bytes, min(step, 8 * segment_bytes)):
        target = next((p for p in expired if frees(p) >= step), expired[-1])
        return FoldPlan(target, "older than keep")
    if log_bytes >= budget_bytes - step or pressed:
        enough = next((p for p in free_to if frees(p) >= max(segment_bytes, step)), newest)
        if frees(enough) >= segment_bytes:
            return FoldPlan(enough, "the log fills its budget")
    return None


class Folder:
    """See the module's text. ``cut`` makes a point when folding needs a newer one."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._busy = asyncio.Lock()
        self.folding = False
        self.folds = 0
        self.folded_blocks = 0
        self.written_bytes = 0
        state = core.manifest.state
        self.retired_write = max(state.horizon.write, state.folding)
        self.failure: str | None = None

    @property
    def horizon(self) -> Horizon:
        """The image's moment."""
        return self._core.manifest.state.horizon

    def plan(self, pressed: bool = False) -> FoldPlan | None:
        """What to do now."""
        core, pool = self._core, self._core.pool
        held = holders(core)
        keep_before = core.host.clock.wall_ns() - int(core.options.keep_s * 1e9)
        in_use = (len(pool.by_use) - len(pool.ready)) * pool.segment_blocks * BLOCK
        return plan_fold(
            core.points, self.horizon, self.retired_write, held[0].write if held else None, keep_before,
            in_use + 2 * pool.segment_blocks * BLOCK, pool.limits.budget_bytes,
            pool.segment_blocks * BLOCK, pressed,
        )  # fmt: skip

    async def step(self, pressed: bool = False) -> bool:
        """Fold once if there is reason to; whether log was given back."""
        return await self._core.maintenance.finished(self._step(pressed))

    async def _step(self, pressed: bool) -> bool:
        async with self._busy:
            plan = self.plan(pressed)
            if plan is None:
                return False
            self.folding = True
            try:
                await self._fold(plan)
                self.failure = None
                return True
            except Exception as error:  # whatever it was: the log is as it was, and the operator is told
                self.failure = str(error)
                self._core.events.tell(f"folding failed: {error}")
                return False
            finally:
                self.folding = False

    async def _fold(self, plan: FoldPlan) -> None:
        core, target = self._core, plan.target
        state = core.manifest.state
        self.retired_write = target.write
        await core.recorder.record((EditKind.FOLDING, pack_number(target.write)))
        await core.commit.wait_durable(target.position)
        await core.footers_written()
        generation = state.horizon.pages_generation + 1
        spec = FoldSpec(
            core.directory.path, core.volume_id, self._stretch(None, target), state.horizon.write, target.write,
            target.number, target.address, core.size_at(target.write), generation,
        )  # fmt: skip
        done = await core.host.work.job(fold, spec)
        self.folds += 1
        self.folded_blocks += done.blocks
        self.written_bytes += done.bytes_written
        await self._flip(target, spec)

    def _stretch(self, base: MapFile | None, point: Point) -> Stretch:
        """Where versions between ``base`` (without one, the horizon) and the cut of ``point`` lie: up to the
        point's record, which carries blocks as of its cut and lies behind the cut."""
        pool, ends = self._core.pool, self._core.manifest.state.ends
        begin = base.meta.address if base is not None else self.horizon.address
        first, last = begin // pool.segment_blocks, point.record // pool.segment_blocks
        specs = tuple(
            SegmentSpec(s.index, s.use, s.blocks, ends.get(s.use))
            for s in pool.segments()
            if first <= s.use <= last
        )
        return Stretch(specs, position_below(self._core, base), point.record + 1)

    async def _flip(self, target: Point, spec: FoldSpec) -> None:
        core = self._core
        horizon = Horizon(
            target.number, target.write, target.position, target.address, target.time_ns, spec.size,
            *target.root, target.chain, spec.pages_generation,
        )  # fmt: skip
        gone = [s for s in core.pool.by_use.values() if s.use < target.address // core.pool.segment_blocks]
        freed = {s.index: 0 for s in gone}
        passed = core.live.base is not None and core.live.based <= target.address
        base_name = core.base_name
        await core.recorder.record(
            (EditKind.HORIZON, pack_horizon(horizon)),
            (EditKind.USES, pack_pairs(freed)),
            (EditKind.BASE_MAP, b"" if passed else base_name.encode()),
        )
        async with core.below_lock:
            core.sums.reload(spec.pages_generation)
            base = core.live.moved_horizon(target.address)
            core.base_name = "" if base is not None else base_name
            core.generation += 1
        if base is not None:
            base.close()
            core.retire_map(base_name)
        core.points[:] = [p for p in core.points if p.number >= target.number]
        core.recorder.stated.horizon = target.write
        core.pool.give_back([s.use for s in gone])
        core.pool.release(freed)

    async def _settled_place(self) -> Mark:
        """The log's end, once it is durable. A map file names addresses, and what recovery finds beyond the
        position that it knows to be durable gets new ones; so the manifest learns of it with the map."""
        appender = self._core.appender
        mark = Mark(appender.position, appender.address, appender.chain, appender.write, appender.time_ns)
        await self._core.commit.wait_durable(mark.position)
        return mark

    def rebase_due(self) -> bool:
        """Whether the live map wants a new base."""
        core = self._core
        if not core.points or core.points[-1].address <= max(core.live.based, core.live.folded):
            return False
        since = core.appender.address - max(core.live.based, core.live.folded)
        return (
            core.live.overlay.pressure > REBASE_PRESSURE or since > REBASE_SEGMENTS * core.pool.segment_blocks
        )

    async def rebase(self, force: bool = False) -> None:
        """Merge what changed since the last base, up to the newest point, into a new base map."""
        await self._core.maintenance.finished(self._rebase(force))

    async def _rebase(self, force: bool) -> None:
        async with self._busy:
            core = self._core
            newest = core.points[-1].address if core.points else 0
            if newest <= max(core.live.based, core.live.folded) or not (force or self.rebase_due()):
                return
            point = core.points[-1]
            durable = await self._settled_place()
            await core.footers_written()
            name = layout.base_map_name(point.number, core.manifest.number)
            state = core.manifest.state
            after = core.live.base.meta.write if core.live.base is not None else state.horizon.write
            based = core.live.base is not None
            spec = MapSpec(
                core.log_directory.path, core.maps_directory.path, core.volume_id,
                self._stretch(core.live.base, point),
                core.base_name if based else "", after, point.write, core.live.folded, name,
                point.address, point.number,
            )  # fmt: skip
            made = await core.host.work.job(make_map, spec)
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
