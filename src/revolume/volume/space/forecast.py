"""Whether, and when, the log will have no room because somebody keeps what is there.

Without a holder that never gives way (a snapshot, a required mirror) the oldest log is folded and its room comes
back. With one, the log behind it only grows: what it holds and how fast the log grows say when the room ends.
"""

from __future__ import annotations

import math

from revolume.blocks.geometry import BLOCK
from revolume.volume.context import VolumeContext
from revolume.volume.image.volume_image import VolumeImage
from revolume.volume.open_log import OpenLog
from revolume.volume.points.retained_points import RetainedPoints
from revolume.volume.space.holders import Holders
from revolume.volume.space.reserve import Reserve
from revolume.volume.state.events import EventKind, Events
from revolume.volume.state.status import Forecast

NEAR, FAR = 0.8, 0.7
"""Near full begins above the one share of the room, and ends below the other."""
STEADY_S = 60.0
"""The rate is an average over about so long."""


class Rate:
    """Bytes a second, lately."""

    def __init__(self) -> None:
        self._last: tuple[int, int] | None = None
        self.bytes_per_s = 0.0

    def sample(self, now_ns: int, total_bytes: int) -> None:
        """So many bytes in all until now."""
        last, self._last = self._last, (now_ns, total_bytes)
        if last is None or now_ns <= last[0]:
            return
        seconds = (now_ns - last[0]) / 1e9
        weight = 1.0 - math.exp(-seconds / STEADY_S)
        self.bytes_per_s += weight * ((total_bytes - last[1]) / seconds - self.bytes_per_s)


def near(before: bool, held: int, limit: int) -> bool:
    """Whether the room is nearly used up, with a gap between up and down."""
    return held >= (FAR if before else NEAR) * limit


def forecast(holder: str, held: int, limit: int, bytes_per_s: float) -> Forecast:
    """When ``limit`` is reached, if it goes on like this."""
    left = max(0, limit - held)
    return Forecast(holder, held, limit, round(left / bytes_per_s, 1) if bytes_per_s > 1.0 else None)


class Outlook:
    """An open volume's. ``look`` from time to time; what crosses the line is told once each way."""

    def __init__(
        self,
        context: VolumeContext,
        *,
        log: OpenLog,
        image: VolumeImage,
        retained: RetainedPoints,
        holders: Holders,
        reserve: Reserve,
        events: Events,
    ) -> None:
        self._clock = context.host.clock
        self._directory = context.directory
        self._log = log
        self._image = image
        self._retained = retained
        self._holders = holders
        self._reserve = reserve
        self._events = events
        self._rate = Rate()
        self._near = False
        self.now: Forecast | None = None

    def look(self) -> None:
        """Count anew."""
        self._rate.sample(self._clock.monotonic_ns(), self._log.appender.address * BLOCK)
        found = self._held()
        self.now = forecast(*found, self._limit(), self._rate.bytes_per_s) if found is not None else None
        now_near = self.now is not None and near(self._near, self.now.held_bytes, self.now.limit_bytes)
        if now_near and not self._near and self.now is not None:
            self._events.tell(self.now.sentence, EventKind.NEAR_FULL)
        elif self._near and not now_near:
            self._events.tell("the log is not nearly full any more", EventKind.ROOM_AGAIN)
        self._near = now_near

    @property
    def bytes_per_s(self) -> float:
        """How fast the log grows, lately."""
        return self._rate.bytes_per_s

    @property
    def warning(self) -> str:
        """The forecast in words, while the room is nearly used up."""
        return self.now.sentence if self._near and self.now is not None else ""

    def _held(self) -> tuple[str, int] | None:
        """Who keeps most of those who never give way, and how many bytes of log."""
        kept = self._holders.firm()
        if not kept:
            return None
        pool = self._log.pool
        below = [p.address for p in self._retained if p.write <= kept[0].write] or [self._image.horizon.address]
        begin, end, blocks = below[-1], self._log.appender.address, pool.segment_blocks
        spanned = (end // blocks - begin // blocks + 1) * blocks
        return kept[0].name, (spanned - pool.gap_between(begin, end)) * BLOCK

    def _limit(self) -> int:
        """What the log may come to: its budget, or what the disk has for it."""
        pool = self._log.pool
        free = self._directory.free_bytes() - self._reserve.missing - self._reserve.slack
        return min(pool.limits.budget_bytes, pool.bytes + max(0, free))
