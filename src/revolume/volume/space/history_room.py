"""Room for what the policy promises: the points that it pins give way before anything of the log does.

The budget is for the log and for what is rescued for those points together. Where it is exceeded, and where the
disk has no room, the oldest points go first, a few at a time. Each time it is told before it is done, and durable
before anything is let go of. A fold that the budget forces beyond the window of every write gives up what it
passes.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import accumulate

from revolume.blocks.numbers import WriteNumber
from revolume.chain.point import Point
from revolume.volume.metadata.manifest_writer import ManifestWriter
from revolume.volume.space.fold_planner import FoldPlanner
from revolume.volume.space.holders import Holders
from revolume.volume.space.policy_pins import PolicyPins
from revolume.volume.space.policy_stops import Stop
from revolume.volume.state.events import EventKind, Events

SHARE = 16
"""At least this part of what is rescued for the policy's points goes at a time, so that few edits say so."""
BUDGET_FULL = "the budget for history is used up"
DISK_FULL = "the disk has no room"
FAR_END = "the log fills its budget"


class HistoryRoom:
    """Of one open copy."""

    def __init__(
        self,
        *,
        pins: PolicyPins,
        planner: FoldPlanner,
        holders: Holders,
        manifest: ManifestWriter,
        events: Events,
    ) -> None:
        self._pins = pins
        self._planner = planner
        self._holders = holders
        self._manifest = manifest
        self._events = events

    async def fit(self, retired_write: WriteNumber) -> bool:
        """Whether points were given up because log and points together exceed the budget."""
        if not self._pins.policy.pins or not self._pins.shrinks:
            return False
        facts = self._planner.facts(retired_write, False)
        if facts.excess_bytes <= 0 or not facts.pinned_bytes:
            return False
        wanted = max(facts.excess_bytes, facts.pinned_bytes // SHARE)
        return await self._given_up(self._oldest(wanted), BUDGET_FULL)

    async def give_way(self) -> bool:
        """Whether points were given up because the disk has no room; the oldest few."""
        if not self._pins.policy.pins or not self._pins.shrinks:
            return False
        return await self._given_up(self._oldest(self._pins.rescued_bytes // SHARE), DISK_FULL)

    async def pass_over(self, target: Point) -> None:
        """A fold goes to this point, which is younger than what is kept: it stops at no point of the policy on the
        way, and rescues for none."""
        if self._pins.policy.pins:
            passed = [stop for stop in self._pins.ahead() if stop.write < target.write]
            await self._given_up([*self._pins.behind(), *passed], FAR_END)

    def _oldest(self, wanted_bytes: int) -> Sequence[Stop]:
        """The oldest points for which so much is rescued, one at least; empty: nothing is rescued for any."""
        rescued, found = self._manifest.state.rescued_bytes(), self._pins.behind()
        sums = list(accumulate(rescued.get(stop.write, 0) for stop in found))
        if not sums or not sums[-1]:
            return []
        wanted = min(max(wanted_bytes, 1), sums[-1])
        return found[: 1 + next(at for at, total in enumerate(sums) if total >= wanted)]

    async def _given_up(self, gone: Sequence[Stop], why: str) -> bool:
        if not gone:
            return False
        self._events.tell(self._told(gone, why), EventKind.GAVE_WAY)
        await self._pins.give_up(gone)
        self._holders.end_readers(frozenset(stop.write for stop in gone))
        return True

    def _told(self, gone: Sequence[Stop], why: str) -> str:
        what = "1 point" if len(gone) == 1 else f"{len(gone)} points"
        upto = self._pins.time_ns(gone[-1].write)
        when = "" if upto is None else f", up to that of {_shown(upto)}"
        return f"{why}: the oldest {what} that --keep holds beyond every write{when}, go before their time"


def _shown(time_ns: int) -> str:
    return datetime.fromtimestamp(time_ns // 10**9, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
