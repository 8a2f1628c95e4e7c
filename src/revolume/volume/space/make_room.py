"""Making room for the log, in the order in which somebody loses by it.

    fold what is older than anybody needs → make a point, where a newer one would help → end overlays, then views →
    give up points that only the policy keeps, oldest first → give up the log that is kept for an async mirror: its
    point is pinned instead → where the disk has no room for what pins keep, end those of mirrors → wait for a
    required mirror that keeps the log

A point, which waits for nobody, goes beyond the budget in the end, as far as the disk has room: nothing can be
folded before there is one. A volume may be opened with less room than its next point takes, since what lies behind
its last one was written under another budget, or as a mirror.

Only when none of this is possible is a client's write refused. ``retention.py`` decides who goes.
"""

from __future__ import annotations

import contextlib

from revolume.errors import RevolumeError
from revolume.host.clock import Clock
from revolume.volume.livemap.live_map import LiveMap
from revolume.volume.livemap.partial_blocks import PartialBlocks
from revolume.volume.members.mirrors import Mirrors
from revolume.volume.open_log import OpenLog
from revolume.volume.points.point_maker import PointMaker
from revolume.volume.points.retained_points import RetainedPoints
from revolume.volume.space.copy_on_write import Cover
from revolume.volume.space.folder import Folder
from revolume.volume.space.history_room import HistoryRoom
from revolume.volume.space.holder import Holder, HolderKind
from revolume.volume.space.holders import Holders
from revolume.volume.space.retention import first_freeing, who_goes
from revolume.volume.state.events import EventKind, Events

MOMENT_S = 0.05


class Evictions:
    """Ends readers of the past that keep log from being folded. ``gave_way`` counts the views and overlays that
    were ended because there was no other room."""

    def __init__(
        self,
        *,
        holders: Holders,
        retained: RetainedPoints,
        folder: Folder,
        log: OpenLog,
        cover: Cover,
        events: Events,
    ) -> None:
        self._holders = holders
        self._retained = retained
        self._folder = folder
        self._log = log
        self._cover = cover
        self._events = events
        self.gave_way = 0

    @property
    def readers_go(self) -> bool:
        """Whether there are views or overlays whose end would make room."""
        return any(holder.kind < HolderKind.MIRROR for holder in self._going())

    def _going(self) -> list[Holder]:
        pool, folder = self._log.pool, self._folder
        freeing = first_freeing(self._retained, folder.horizon.address, folder.retired_write, pool.segment_blocks)
        return who_goes(self._holders.all(), freeing, self.disk_short)

    def evict(self) -> HolderKind | None:
        """End the views or overlays that must go so that there is room. The kind that goes, None: nobody's end
        would help. What is kept durably for a mirror is the caller's to give up; who only reads for one is ended
        here."""
        going = self._going()
        for holder in going:
            if holder.kind != HolderKind.MIRROR:
                self.gave_way += 1
                told = f"{holder.name} was ended: the log needed the room that it kept"
                self._events.tell(told, EventKind.GAVE_WAY)
            self._holders.revoke(holder)
        return going[0].kind if going else None

    @property
    def disk_short(self) -> bool:
        """It is the disk that has no room, not the budget."""
        return self._log.pool.disk_short or self._folder.starved or not self._cover.covers(1, False)


class PrimaryRoom:
    """Makes room in a primary's log."""

    def __init__(
        self,
        *,
        log: OpenLog,
        live: LiveMap,
        partials: PartialBlocks,
        retained: RetainedPoints,
        holders: Holders,
        evictions: Evictions,
        folder: Folder,
        history: HistoryRoom,
        point_maker: PointMaker,
        mirrors: Mirrors,
        events: Events,
        clock: Clock,
    ) -> None:
        self._log = log
        self._live = live
        self._partials = partials
        self._retained = retained
        self._holders = holders
        self._evictions = evictions
        self._folder = folder
        self._history = history
        self._point_maker = point_maker
        self._mirrors = mirrors
        self._events = events
        self._clock = clock

    @property
    def point_blocks(self) -> int:
        """What the next point's record takes: a block for each partial one, 28 bytes for each run at most."""
        return 2 * len(self._partials) + self._live.interval.count // 128 + 4

    async def make(self, may_cut: bool, wanted: int) -> bool:
        """Whether there is more room now, or somebody is about to make some. Without ``may_cut`` it is a point
        that waits for room, which another can't help."""
        if await self._folder.step(True):
            return True
        if self._folder.interrupted:  # nobody is refused or given up for that
            return True
        if may_cut and await self._after_a_point():
            return True
        if not self._evictions.readers_go and await self._history.give_way():
            await self._folder.step(True)
            return True
        before = len(self._holders)
        kind = self._evictions.evict()
        dropped = kind == HolderKind.MIRROR and await self._mirrors.drop_hold()
        if dropped or len(self._holders) < before or await self._unpinned():
            await self._folder.step(True)
            return True
        return await self._mirror_catches_up() if may_cut else self._exceed_budget(wanted)

    def _exceed_budget(self, wanted: int) -> bool:
        """Whether the log may take more than its budget for a point now."""
        pool = self._log.pool
        if pool.disk_short or pool.failure is not None or not pool.loan.open(wanted):
            return False
        self._events.tell(
            f"the log takes more than its budget of {pool.limits.budget_bytes} bytes for a point, behind which it "
            "can be folded",
            EventKind.NEAR_FULL,
        )
        return True

    async def _unpinned(self) -> bool:
        """Whether a mirror's pins were ended because the disk has no room for what they keep."""
        if not self._evictions.disk_short:
            return False
        moments = await self._mirrors.kept.drop_pin()
        self._holders.end_readers(moments)
        return bool(moments)

    async def _mirror_catches_up(self) -> bool:
        """Whether it is a mirror that the log is kept for: then a moment has passed."""
        if not self._mirrors.fold_blocker():
            return False
        await self._clock.sleep(MOMENT_S)
        return True

    async def _after_a_point(self) -> bool:
        since = self._log.appender.address - self._retained.newest_address
        if not self._folder.starved and since <= self._log.pool.segment_blocks:
            return False
        with contextlib.suppress(RevolumeError):
            await self._point_maker.cut()
        return await self._folder.step(True)
