"""The mirror takes over, and the old primary comes back: as it was, as an old image on another machine, or empty.

The operator is a person who keeps the rules. He promotes a mirror only when the primary is gone or, in ``sync``
mode, cut off from it: then the old one goes on for a while, and a single write that it answers on its own would be
found missing (O6). Then he ends the old one for good; a machine whose disk was wiped begins anew, as an empty
mirror.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

from revolume.errors import RevolumeError
from revolume.sim.platter import Platter, state_of
from revolume.sim.process import Process
from revolume.sim.service import MirrorService
from revolume.sim.worlds.pair.intruders import PairIntruders
from revolume.volume.base_history import History


class PairTakeover(PairIntruders):
    """See the module's text."""

    async def op_promote(self) -> None:
        """The primary's machine is lost, or cut off; its mirror takes over, and it comes back empty."""
        there = self.mirror.secondary if self.mirror is not None else None
        if there is None or there.base is not None or self._uneven or self._broken(self.second):
            return
        if self.primary is None or there.core.commit.durable < self.primary.opened_at:
            return  # a state from before the last recovery: the register knows no other than what was found then
        required = self._required()
        self._names_there(required)
        cut_off = required and self.chance.hit(0.4)
        both = required and not cut_off and self.chance.hit(0.5)  # the mirror too, which then stands for it alone
        self.orders.busy()
        if both:
            self.second.faults.slow = 300.0
            await asyncio.sleep(self.chance.delay(0.4))
            self.second.faults.quiet()
            self._lose(self.first, "lost power")
            self._lose(self.second, "lost power")
        elif cut_off:
            self.fabric.cut("a", "b")
            self.fabric.cut("b", "a")
            await asyncio.sleep(self.chance.uniform(0.0, 12.0))
        else:
            self._lose(self.first, self.chance.choice(("killed", "lost power")))
        await self._take_over()
        if self.second.process is not None:  # the old one, cut off until now: it must not have answered
            if self.chance.hit(0.5):
                await self._continued()
            self._lose(self.second, "killed")
        self._old = self.second.platter.copy()
        await self._old_returns()
        self.second.wipe()
        self.second.lost_power_ns = self.loop.now_ns
        await self._heal()
        self._forget_holder(self.second.name)
        await self.start_mirror()
        stale = self.chance.hit(0.4)
        if stale:  # while the new mirror's base is under way, and nothing but epochs says whose it is
            self.fabric.path(self.first.name, self.second.name).bytes_per_s = 1e5
        await self.op_stop()
        if stale and await self.patiently("the new mirror begins", self._begun, 30):
            await self.op_stale()

    async def _continued(self) -> None:
        """The old primary is heard again, like one that was paused and goes on; an empty mirror stands where its
        mirror was. What it was asked to write before waits, and must go on waiting."""
        await self._heal()
        beside = Process(self.first.name, f"{self.first.name}.beside")
        host = self.first.host_for(beside, Platter(self.first.platter.capacity))
        asked = replace(self._asked[self.first.name], size=None)
        opening = MirrorService.open(host, self.first.name, asked, self.tell)
        there = self.loop.create_task(opening, context=beside.context.copy())
        await asyncio.sleep(self.chance.uniform(0.5, 8.0))
        beside.die()
        self.fabric.process_ended(beside, silently=False)
        there.cancel()

    def _names_there(self, required: bool) -> None:
        """What a mirror that is promoted now must have of the names. Without one on which answers rest that is
        nothing; one that began without the past has what came after."""
        assert self.primary is not None
        since = next((mirror.state.since for mirror in self.primary.volume.mirrors), None)
        if not required or since is None:
            self.names = {}
        elif self.history == History.NONE:
            self.names = {name: write for name, write in self.names.items() if write >= since}

    async def _old_returns(self) -> None:
        """The old primary is started as it is, to be a mirror: it is refused, and keeps what it has."""
        before = state_of(self.second.platter.copy())
        try:
            await self.second.run(MirrorService.open(
                self.second.boot(), self.second.name, replace(self._asked[self.second.name], size=None), self.tell
            ))  # fmt: skip
            self.say("an old primary is a mirror without a word")
        except RevolumeError as error:
            self.tell(f"{error!r}")
        self.second.stopped()
        if state_of(self.second.platter.copy()) != before:
            self.say("an old primary was changed by its refusal")

    async def _take_over(self) -> None:
        service, self.mirror = self.mirror, None
        self.primary = None
        self._given_up()
        self.orders.uri = "nbd://none:1/vm"
        if service is not None:
            await self._closed(service)
        self.first, self.second = self.second, self.first
        self._crashes = {self.first.name: "promoted"}
        await self.start_primary(promote=True)
