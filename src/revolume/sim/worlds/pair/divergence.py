"""Two logs that part: an async mirror has what its source's disk has not, and the source goes on without it."""

from __future__ import annotations

import asyncio

from revolume.sim.worlds.pair.crashes import Crashes
from revolume.sim.worlds.pair.running import Running
from revolume.sim.worlds.pair.state import PairState


class Divergence:
    """Makes the two logs part, and sees that the mirror is refused rather than changed."""

    def __init__(self, pair: PairState, running: Running, crashes: Crashes) -> None:
        self.pair = pair
        self.world = pair.world
        self.fabric = pair.world.fabric
        self.chance = pair.world.chance
        self.running = running
        self.crashes = crashes

    async def op_cut_off_power(self) -> None:
        """The primary loses its power while it does not reach its mirror. An async mirror may have more of the log
        than the primary's disk then: the primary goes on without it, and the two logs part. Neither gives way."""
        pair = self.pair
        there = pair.there
        if pair.sync or pair.primary is None or pair.required() or there is None or there.base is not None:
            return
        self.fabric.partition([["a"], ["b"]])
        await self.crashes.power(pair.first)
        await self.running.start_primary()
        apart = there.end.position > pair.primary.opened_at
        near, seen = there.end.position > pair.primary.opened_at - 8, len(self.world.told)
        await asyncio.sleep(self.chance.delay(1.0))
        await pair.heal()

        async def settled() -> bool:
            return pair.was_refused(seen) or pair.lacks_room(seen) or (not apart and await self._near())

        said = await self.world.patiently("the mirror is refused, or has everything", settled, 90)
        if said and pair.was_refused(seen):
            if not near:
                self.world.say("the mirror was refused for nothing" + self.world.state())
            await self.crashes.op_wipe_mirror()

    async def _near(self) -> bool:
        """The mirror takes what the primary sends, or has lost its claim to it."""
        primary = self.pair.primary
        return primary is not None and any(
            mirror.log_given_up or mirror.received > primary.opened_at for mirror in primary.volume.mirrors
        )
