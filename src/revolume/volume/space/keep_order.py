"""What is kept by the policy now, what another one would let go, and the change from one to the other, online."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import takewhile

from revolume.blocks.geometry import BLOCK
from revolume.chain.point import Point
from revolume.volume.context import VolumeContext
from revolume.volume.image.volume_image import VolumeImage
from revolume.volume.metadata.keep_policy import KeepPolicy, WhenFull, pack_policy
from revolume.volume.metadata.manifest_edits import EditKind, pack_number, pack_pairs
from revolume.volume.open_log import OpenLog
from revolume.volume.points.retained_points import RetainedPoints
from revolume.volume.space.budget import refuse_less_than_an_interval, refuse_small_budget
from revolume.volume.space.fold_planner import FoldPlanner
from revolume.volume.space.forecast import Outlook
from revolume.volume.space.kept_history import KeptHistory, goes_next
from revolume.volume.space.policy_pins import PolicyPins
from revolume.volume.space.policy_stops import Stop


@dataclass(frozen=True, slots=True)
class Going:
    """What would go: so many points of which nothing is left, so many writes that are no moment of their own any
    more, the oldest and the newest time of those, in ns since 1970 (0: nothing goes), and the bytes that come
    back."""

    points: int
    writes: int
    since_ns: int
    until_ns: int
    bytes: int


class KeepOrders:
    """Of one open copy."""

    def __init__(
        self,
        context: VolumeContext,
        *,
        log: OpenLog,
        image: VolumeImage,
        retained: RetainedPoints,
        pins: PolicyPins,
        planner: FoldPlanner,
        outlook: Outlook,
    ) -> None:
        self._context = context
        self._log = log
        self._image = image
        self._retained = retained
        self._pins = pins
        self._planner = planner
        self._outlook = outlook
        self._tighter = False
        """The budget has been made smaller than what the log takes."""

    def kept(self) -> KeptHistory:
        """As it is now."""
        facts, behind = self._planner.facts(self._image.horizon.write, False), self._pinned(self._pins.recorded)
        rate, state = self._outlook.bytes_per_s, self._log.manifest.state
        budget = state.budget or facts.budget_bytes
        left = max(0, budget - facts.log_bytes - facts.pinned_bytes)
        return KeptHistory(
            policy=self._pins.recorded,
            budget_bytes=budget,
            log_bytes=facts.log_bytes,
            pinned_bytes=facts.pinned_bytes,
            points=len(self._retained),
            pinned_points=len(behind),
            oldest_ns=self._image.horizon.time_ns,
            oldest_pinned_ns=self._pins.time_ns(behind[0].write) if behind else None,
            bytes_per_s=rate,
            full_in_s=round(left / rate, 1) if rate > 1.0 else None,
            goes_next=goes_next(state.role, self._pins.recorded, bool(behind)),
        )

    def _pinned(self, policy: KeepPolicy) -> list[Stop]:
        horizon = self._image.horizon.write
        return [stop for stop in self._pins.behind(policy) if stop.write != horizon]

    def going(self, policy: KeepPolicy, budget_bytes: int | None = None) -> Going:
        """What would go by this policy and budget. Nothing is changed."""
        before, after = self._pinned(self._pins.recorded), self._pinned(policy)
        kept, rescued = {stop.write for stop in after}, self._log.manifest.state.rescued_bytes()
        released = [stop for stop in before if stop.write not in kept]
        budget = self._log.pool.limits.budget_bytes if budget_bytes is None else budget_bytes
        facts = replace(self._planner.facts(self._image.horizon.write, False), budget_bytes=budget)
        pinned_bytes = sum(rescued.get(stop.write, 0) for stop in after)
        excess = max(0, facts.log_bytes + pinned_bytes - (budget - facts.step_bytes))
        if policy.when_full == WhenFull.SHRINK:
            while after and excess > 0:
                released.append(after.pop(0))
                excess -= rescued.get(released[-1].write, 0)
        target = self._target(policy, excess if policy.when_full == WhenFull.SHRINK else 0)
        return self._gone(policy, released, target)

    def _target(self, policy: KeepPolicy, excess: int) -> Point | None:
        """The point to which the log would be folded; None: none of it."""
        horizon, before_ms = self._image.horizon, self._pins.now_ms - policy.every_write_ms
        points = [point for point in self._retained if point.address > horizon.address]
        older = list(takewhile(lambda point: point.lived_ms <= before_ms, points))
        enough = [p for p in points if (p.address - horizon.address) * BLOCK >= excess] if excess > 0 else []
        by_room = (enough or points[-1:])[:1] if excess > 0 else []
        return max([*older[-1:], *by_room], key=lambda point: point.address, default=None)

    def _gone(self, policy: KeepPolicy, released: Sequence[Stop], target: Point | None) -> Going:
        horizon, rescued = self._image.horizon, self._log.manifest.state.rescued_bytes()
        times = [time for stop in released if (time := self._pins.time_ns(stop.write)) is not None]
        freed = sum(rescued.get(stop.write, 0) for stop in released)
        if target is None:
            return Going(len(released), 0, min(times, default=0), max(times, default=0), freed)
        stay = {stop.write for stop in self._pins.ahead(policy)} | set(self._log.manifest.state.pinned_writes())
        passed = [p for p in self._retained if p.write < target.write and p.write not in stay]
        blocks = self._log.pool.segment_blocks
        segments = target.address // blocks - horizon.address // blocks
        return Going(
            points=len(released) + len(passed),
            writes=target.write - horizon.write,
            since_ns=min([horizon.time_ns, *times]),
            until_ns=target.time_ns,
            bytes=freed + segments * blocks * BLOCK,
        )

    async def set(self, policy: KeepPolicy, budget_bytes: int | None) -> None:
        """From now on this is kept, in so much room (None: as before); durable when it returns. UsageError: the
        budget is too small for the volume's log."""
        edits = [(EditKind.KEEP_POLICY, pack_policy(policy))]
        if budget_bytes is not None:
            self.check_budget(budget_bytes)
            edits.append((EditKind.BUDGET, pack_number(budget_bytes)))
        await self._log.manifest.record(*edits)
        if budget_bytes is not None and not self._context.options.budget_once:
            pool = self._log.pool
            pool.limits = replace(pool.limits, budget_bytes=budget_bytes)
            self._tighter = pool.bytes > budget_bytes

    def check_budget(self, budget_bytes: int) -> None:
        """UsageError: the log could not turn round in it, or what is written between two points does not fit."""
        refuse_small_budget(budget_bytes, self._log.pool.segment_blocks * BLOCK)
        interval_bytes = int(self._outlook.bytes_per_s * self._context.options.cp_interval_s)
        refuse_less_than_an_interval(budget_bytes, interval_bytes)

    async def return_to_budget(self) -> None:
        """Files of the log that are free go from the disk where they are beyond the budget: because that has been
        made smaller, or because a point needed them."""
        pool = self._log.pool
        if (self._tighter or pool.loan.owed) and not pool.loan.segments:
            if pool.loan.owed:
                await self._free_ready()
            await pool.shrink()
            within = pool.bytes <= pool.limits.budget_bytes
            pool.loan.settle(within)
            self._tighter = self._tighter and not within

    async def _free_ready(self) -> None:
        """Segments that stand ready become free, durably, as many as are beyond the budget and the usual number: a
        point may have needed fewer than were made for it."""
        pool = self._log.pool
        excess = -(-(pool.bytes - pool.limits.budget_bytes) // (pool.segment_blocks * BLOCK))
        count = min(excess, len(pool.ready) - max(1, pool.limits.ready))
        if count > 0:
            edit = pool.give_back([pool.ready.pop().use for _ in range(count)])
            await self._log.manifest.record((EditKind.USES, pack_pairs(edit)))
            pool.release(edit)
