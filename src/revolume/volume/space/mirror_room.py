"""Making room in a mirror's log, which must not hold its source up."""

from __future__ import annotations

from revolume.host.clock import Clock
from revolume.log.write.segment_pool import SegmentPool
from revolume.volume.members.resync_points import PinnedResyncPoints
from revolume.volume.points.record_processor import RecordProcessor
from revolume.volume.space.folder import Folder
from revolume.volume.space.history_room import HistoryRoom
from revolume.volume.space.holders import Holders
from revolume.volume.space.make_room import MOMENT_S, Evictions
from revolume.volume.state.events import EventKind, Events


class MirrorRoom:
    """Of one copy."""

    def __init__(
        self,
        *,
        pool: SegmentPool,
        records: RecordProcessor,
        folder: Folder,
        history: HistoryRoom,
        evictions: Evictions,
        holders: Holders,
        resync_points: PinnedResyncPoints,
        events: Events,
        clock: Clock,
    ) -> None:
        self._pool = pool
        self._records = records
        self._folder = folder
        self._history = history
        self._evictions = evictions
        self._holders = holders
        self._resync_points = resync_points
        self._events = events
        self._clock = clock
        self._told_keeper = ""

    @property
    def point_blocks(self) -> int:
        """A mirror makes no points of its own."""
        return 1

    async def make(self, may_cut: bool, wanted: int) -> bool:
        """Whether there is more room now, or will be soon."""
        if self._records.waits_for_base:
            return False
        if await self._folder.step(True) or self._folder.interrupted:
            return True
        if not self._evictions.readers_go and await self._history.give_way():
            await self._folder.step(True)
            return True
        if self._evictions.evict() is None:
            return await self._unpinned() or self._exceed_budget() or await self._point_comes()
        await self._folder.step(True)
        return True

    async def _unpinned(self) -> bool:
        """Whether another member's resync point was given up because the disk has no room for what it keeps."""
        moments = await self._resync_points.give_up() if self._evictions.disk_short else None
        if moments is None:
            return False
        self._holders.end_readers(moments)
        await self._folder.step(True)
        return True

    async def return_to_budget(self) -> None:
        """Back to the budget as soon as that is possible: readers give way, and what is free goes."""
        pool = self._pool
        if pool.over_budget and self._evictions.evict() is not None:
            await self._folder.step(True)
        if pool.over_budget:
            await pool.shrink()
        if pool.over_budget:
            self._tell_excess()
        else:
            self._told_keeper = ""

    def _exceed_budget(self) -> bool:
        """A mirror does not hold its source up for its budget's sake, which is this node's alone: what snapshots
        keep goes beyond it, as far as the disk has room. False: it does not go beyond, or has no room for it."""
        pool, waits = self._pool, self._records.progressing and not self._holders.refusal()
        if pool.disk_short or pool.failure is not None or waits:
            return False
        pool.over_budget = True
        self._tell_excess()
        return True

    async def _point_comes(self) -> bool:
        """Whether a point is being agreed, after which more may be folded: then a moment has passed. Who waits for
        room asks again at once."""
        if not self._records.progressing:
            return False
        await self._clock.sleep(MOMENT_S)
        return True

    def _tell_excess(self) -> None:
        keeper = self._holders.refusal() or "no point is agreed up to which it could be folded"
        if keeper != self._told_keeper:
            self._told_keeper = keeper
            self._events.tell(
                f"the log takes more than its budget of {self._pool.limits.budget_bytes} bytes, because {keeper}: "
                "the mirror does not hold its source up for that",
                EventKind.NEAR_FULL,
            )
