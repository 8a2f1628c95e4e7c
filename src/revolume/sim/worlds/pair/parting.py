"""Two logs that part: an async mirror has what its source's disk has not, and the source goes on without it."""

from __future__ import annotations

import asyncio

from revolume.sim.worlds.pair.advice import PairAdvice


class PairParting(PairAdvice):
    """See the module's text."""

    async def op_cut_off_power(self) -> None:
        """The primary loses its power while it does not reach its mirror. An async mirror may have more of the log
        than the primary's disk then: the primary goes on without it, and the two logs part. Neither gives way."""
        there = self.mirror.secondary if self.mirror is not None else None
        if self.sync or self.primary is None or self._required() or there is None or there.base is not None:
            return
        self.fabric.partition([["a"], ["b"]])
        await self._power(self.first)
        await self.start_primary()
        apart = there.end.position > self.primary.opened_at
        near, seen = there.end.position > self.primary.opened_at - 8, len(self.told)
        await asyncio.sleep(self.chance.delay(1.0))
        await self._heal()

        async def settled() -> bool:
            return self._refused(seen) or self._no_room(seen) or (not apart and await self._near())

        if await self.patiently("the mirror is refused, or has everything", settled, 90) and self._refused(seen):
            if not near:
                self.say("the mirror was refused for nothing" + self.state())
            await self.op_wipe_mirror()

    async def _near(self) -> bool:
        """The mirror takes what the primary sends, or has lost its claim to it."""
        primary = self.primary
        return primary is not None and any(
            mirror.lost or mirror.received > primary.opened_at for mirror in primary.volume.mirrors
        )
