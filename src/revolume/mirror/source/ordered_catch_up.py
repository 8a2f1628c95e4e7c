"""What was ordered of how a mirror is brought up to date, as its sessions carry it out: durable until it is done.

The preference is done with when a difference has been sent, or the mirror is level. To take back what it wrote
alone is done once: before the copy is told to, the end of its log is noted, and a copy whose log ends otherwise
has done it. A copy that goes its own way afterwards needs another order, whatever crashed in between.
"""

from __future__ import annotations

from dataclasses import replace

from revolume.mirror.catch_up_plan import CatchUpPlan, Rule
from revolume.mirror.link import Link
from revolume.mirror.storage_protocols import SourceVolume
from revolume.mirror.wire.greeting_messages import Welcome
from revolume.volume.members.mirror import Mirror
from revolume.volume.metadata.resync_order import NO_ORDER, Prefer, ResyncOrder

CANCELLED_HINT = (
    "Go on with 'revolume resync DIR --mirror {name}'; with '--prefer history' by the log, if it is there."
)


class OrderedCatchUp:
    """In one session."""

    def __init__(self, link: Link, volume: SourceVolume, mirror: Mirror) -> None:
        self._link = link
        self._volume = volume
        self._mirror = mirror
        self._over = False

    @property
    def order(self) -> ResyncOrder:
        """What is not done yet."""
        return self._mirror.state.order

    async def _record(self, order: ResyncOrder) -> None:
        await self._volume.differences.ordered(self._mirror, order)

    async def has_taken_back(self, there: Welcome) -> bool:
        """Whether the copy that answers has taken back what it wrote alone, by an order that is done with that. It
        is greeted anew, without the order."""
        done = self.order.taken_back(there.end.chain)
        if done:
            await self._record(_taken_back(self.order))
        return done

    async def judged(self, plan: CatchUpPlan, there: Welcome) -> CatchUpPlan:
        """The plan, if the order lets it be carried out; what it says of the order is recorded before anything is
        sent."""
        order, name = self.order, self._mirror.name
        if plan.rule.jumps and order.cancelled:
            cause = f"That mirror {name} is resynchronised was cancelled; what has come of it stays there."
            return CatchUpPlan(Rule.RESYNC_CANCELLED, cause, CANCELLED_HINT.format(name=name))
        if order.take_back and plan.rule == Rule.COMMON_POINT:
            await self._record(replace(order, let_back=there.end.chain))
        elif order.take_back and not plan.rule.refuses:  # there is nothing to take back
            await self._record(_taken_back(order))
        return plan

    async def difference_sent(self, last: bool = True) -> None:
        """The copy stands at the point to which a difference led. If it is the ``last``, and not a snapshot on the
        way, what follows on that is not by order. The session ends."""
        if last:
            await self._record(replace(self.order, prefer=Prefer.EITHER))
        await self._link.close()

    def level(self) -> None:
        """The mirror lacks nothing any more."""
        if self.order != NO_ORDER and not self._over:
            self._over = True
            self._link.spawn(self._end())

    async def _end(self) -> None:
        try:
            await self._record(NO_ORDER)
        finally:
            self._over = False


def _taken_back(order: ResyncOrder) -> ResyncOrder:
    return replace(order, take_back=False, let_back=NO_ORDER.let_back)
