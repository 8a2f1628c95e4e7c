"""Whether, and when, the log will have no room because somebody keeps what is there.

Without a holder that never gives way (a snapshot, a required mirror) the oldest log is folded and its room comes
back. With one, the log behind it only grows: what it holds and how fast the log grows say when the room ends.
"""

from __future__ import annotations

import math

from revolume.log.transfer import BLOCK
from revolume.volume.core import Core
from revolume.volume.events import EventKind
from revolume.volume.status import Forecast

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

    def __init__(self, core: Core) -> None:
        self._core = core
        self._rate = Rate()
        self._near = False
        self.now: Forecast | None = None

    def look(self) -> None:
        """Count anew."""
        core = self._core
        self._rate.sample(core.host.clock.monotonic_ns(), core.appender.address * BLOCK)
        found = self._held()
        self.now = forecast(*found, self._limit(), self._rate.bytes_per_s) if found is not None else None
        now_near = self.now is not None and near(self._near, self.now.held_bytes, self.now.limit_bytes)
        if now_near and not self._near and self.now is not None:
            core.events.tell(self.now.sentence, EventKind.NEAR_FULL)
        elif self._near and not now_near:
            core.events.tell("the log is not nearly full any more", EventKind.ROOM_AGAIN)
        self._near = now_near

    @property
    def warning(self) -> str:
        """The forecast in words, while the room is nearly used up."""
        return self.now.sentence if self._near and self.now is not None else ""

    def _held(self) -> tuple[str, int] | None:
        """Who keeps most of those who never give way, and how many bytes of log."""
        core = self._core
        kept = [(each.write, each.holder) for each in core.leases.values() if not each.kind.gives_way]
        kept += [(s.write, f"snapshot {s.name}") for s in core.manifest.state.snapshots]
        if not kept:
            return None
        write, name = min(kept)
        below = [p.address for p in core.points if p.write <= write] or [core.horizon.address]
        begin, end, blocks = below[-1], core.appender.address, core.pool.segment_blocks
        spanned = (end // blocks - begin // blocks + 1) * blocks
        return name, (spanned - core.pool.gap_between(begin, end)) * BLOCK

    def _limit(self) -> int:
        """What the log may come to: its budget, or what the disk has for it."""
        core = self._core
        free = core.directory.free_bytes() - core.reserve.missing - core.reserve.slack
        return min(core.pool.limits.budget_bytes, core.pool.bytes + max(0, free))
