"""When to fold and how far, and the job that does it: what ``retention.py`` is asked of an open volume."""

from __future__ import annotations

from revolume.blocks.geometry import BLOCK
from revolume.blocks.numbers import WriteNumber
from revolume.chain.point import Point
from revolume.volume.context import VolumeContext
from revolume.volume.image.fold_job import FoldSpec
from revolume.volume.image.volume_image import VolumeImage
from revolume.volume.livemap.log_ranges import LogRanges, reach_of
from revolume.volume.open_log import OpenLog
from revolume.volume.points.retained_points import RetainedPoints
from revolume.volume.size_history import SizeHistory
from revolume.volume.space.disk_room import DiskRoom
from revolume.volume.space.holders import Holders
from revolume.volume.space.policy_pins import PolicyPins
from revolume.volume.space.retention import FoldPlan, LogFacts, plan_fold


class FoldPlanner:
    """Plans folds of one volume."""

    def __init__(
        self,
        context: VolumeContext,
        *,
        log: OpenLog,
        image: VolumeImage,
        retained: RetainedPoints,
        sizes: SizeHistory,
        ranges: LogRanges,
        holders: Holders,
        policy: PolicyPins,
        room: DiskRoom,
    ) -> None:
        self._context = context
        self._log = log
        self._image = image
        self._retained = retained
        self._sizes = sizes
        self._ranges = ranges
        self._holders = holders
        self._policy = policy
        self._room = room

    def plan(self, retired_write: WriteNumber, pressed: bool) -> FoldPlan | None:
        """What to fold now. Moments before ``retired_write`` are gone already; ``pressed``: a writer waits."""
        return plan_fold(self.facts(retired_write, pressed))

    def facts(self, retired_write: WriteNumber, pressed: bool) -> LogFacts:
        """What that is decided by."""
        pool = self._log.pool
        segment_bytes = pool.segment_blocks * BLOCK
        policy, horizon = self._policy, self._image.horizon.write
        return LogFacts(
            points=self._retained.points,
            horizon_address=self._image.horizon.address,
            retired_write=retired_write,
            held_write=self._holders.oldest_write(),
            keep_before_ms=policy.now_ms - policy.policy.every_write_ms,
            log_bytes=self.log_in_use,
            pinned_bytes=policy.rescued_bytes,
            budget_bytes=pool.limits.budget_bytes,
            segment_bytes=segment_bytes,
            next_pin=min((w for w in self._holders.firmly_pinned() if w > horizon), default=None),
            next_stop=policy.next_stop(),
            crowded=policy.crowded,
            shrinks=policy.shrinks,
            pressed=pressed,
            room_bytes=self._room.for_image,
        )

    @property
    def log_in_use(self) -> int:
        """Bytes of log, with the next two segments."""
        pool = self._log.pool
        return (len(pool.by_use) - len(pool.ready) + 2) * pool.segment_blocks * BLOCK

    @property
    def keeps_ms(self) -> int:
        """For how long every write is kept."""
        return self._policy.policy.every_write_ms

    def stop_before(self, point: Point) -> Point:
        """Where a fold to this point stops first: at the point of the next pinned moment, else at the point."""
        horizon = self._image.horizon
        pins = [write for write in self._holders.pinned_writes() if horizon.write < write < point.write]
        stops = [p for p in self._retained.points if pins and p.number > horizon.point and p.write <= pins[0]]
        return stops[-1] if stops else point

    def allows(self, target: Point) -> bool:
        """Whether nobody holds, or has pinned, what a fold to this point would take."""
        held, horizon = self._holders.oldest_write(), self._image.horizon.write
        crossed = any(horizon < write < target.write for write in self._holders.pinned_writes())
        return not crossed and (held is None or target.write <= held)

    def log_bytes(self, target: Point) -> int:
        """How much log is between the horizon and a point's record: the image grows by no more."""
        return (reach_of(self._retained, target.number) - self._image.horizon.address + 1) * BLOCK

    def job(self, target: Point) -> FoldSpec:
        """The job for the helper process that moves the image to a point."""
        context, horizon = self._context, self._image.horizon
        return FoldSpec(
            path=context.directory.path,
            volume=context.volume_id,
            log_range=self._ranges.up_to_point(None, target),
            after=horizon.write,
            upto=target.write,
            point=target.number,
            address=target.address,
            size=self._sizes.at(target.write),
            pages_generation=horizon.pages_generation + 1,
        )
