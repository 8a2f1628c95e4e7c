"""Somebody who is not the source: a connection said again, an old image of a primary, a copy that runs beside it.

A mirror hears one source, in its newest opening. What anybody else sends is refused, and changes nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

from revolume.errors import RevolumeError
from revolume.host import Host
from revolume.mirror.link import Link
from revolume.node.mirror_to import MirrorTo
from revolume.node.service_options import ServiceOptions
from revolume.sim.actors.service import MIRROR_PORT, PrimaryService, mirror_at
from revolume.sim.kernel.machine import Ended
from revolume.sim.kernel.replay_attack import replayed
from revolume.sim.kernel.simulated_fs import Platter
from revolume.sim.oracle.model import Model
from revolume.sim.worlds.pair.crashes import Crashes
from revolume.sim.worlds.pair.running import Running
from revolume.sim.worlds.pair.state import PairState

PAST_S = 4.0
"""A source that lives has been heard by then, more than once."""
HEARD_S = 20.0
"""By then it has been, or the link is over."""


class Intruders:
    """Has a third machine speak to the mirror as if it were its source."""

    def __init__(self, pair: PairState, running: Running, crashes: Crashes) -> None:
        self.pair = pair
        self.world = pair.world
        self.loop = pair.world.loop
        self.fabric = pair.world.fabric
        self.chance = pair.world.chance
        self.running = running
        self.crashes = crashes

    def boot_intruder(self) -> Host:
        pair = self.pair
        if pair.intruder.process is not None:
            pair.intruder.stopped()
        return pair.intruder.boot()

    def intruding_primary(self, options: ServiceOptions) -> Coroutine[Any, Any, PrimaryService]:
        """To be opened on the intruder's machine; what it accepts is nobody's model."""
        world, name = self.world, self.pair.intruder.name
        return PrimaryService.open(self.boot_intruder(), name, options, Model(world.size), world.tell)

    def overhear(self) -> None:
        """Whatever the primary says to its mirror on its newest connection is written down."""
        self.fabric.overhear(self.pair.first.name, f"{self.pair.second.name}:{MIRROR_PORT}")

    async def op_replay(self) -> None:
        """Somebody has heard what the source said, and says it to the mirror again, twice at once. The source goes
        on meanwhile."""
        host, (_, address), pieces = self.boot_intruder(), self.fabric.overheard, list(self.fabric.heard)
        again = (self.pair.intruder.run(replayed(host, address, pieces)) for _ in range(2))
        for found in await asyncio.gather(*again, return_exceptions=True):
            if found is not None and not isinstance(found, Ended | OSError):
                raise found
        self.overhear()

    async def mirror_begins(self) -> bool:
        return self.pair.mirror is not None and self.pair.mirror.secondary is not None

    async def _intrude(self, platter: Platter, mirror: MirrorTo, alone: bool) -> bool:
        """What is on this disk runs as a primary on another machine for a while; whether the mirror took what it
        sent."""
        pair = self.pair
        seen = len(self.world.told)
        pair.intruder.platter = platter
        asked = replace(pair.options[pair.first.name], size=None, alone=alone, mirrors=(mirror,))
        running = asyncio.ensure_future(pair.intruder.run(self.intruding_primary(asked)))
        await asyncio.sleep(PAST_S)
        pair.intruder.kill()
        with contextlib.suppress(Ended, RevolumeError):
            await running
        return any(f"Source {pair.intruder.name}:" in told for told in self.world.told[seen:])

    async def _is_heard(self, link: Link) -> bool:
        """The mirror hears its source, again if it did not for a while."""
        before, until = link.bytes_in, self.loop.time() + HEARD_S
        while link.open and link.bytes_in == before and self.loop.time() < until:
            await asyncio.sleep(0.1)
        return link.open and link.bytes_in > before

    async def op_stale(self) -> None:
        """An image of a primary as it once was is started on another machine, while the primary is away. What it
        calls its mirror has become the primary; it is led to that one's mirror, which knows a later opening."""
        pair = self.pair
        if pair.old_disk is None or pair.primary is None or not await self.mirror_begins():
            return
        self.crashes.lose(pair.first, "killed")
        await pair.heal()
        mirror = replace(mirror_at(pair.second.name, True), name=pair.first.name)
        if await self._intrude(pair.old_disk.copy(), mirror, alone=self.chance.hit(0.5)):
            self.world.say("a mirror takes what an old image of its source sends")
        await self.running.start_primary()

    async def op_copy(self) -> None:
        """A copy of the primary's directory, made while it runs, is started beside it: two sources, one node."""
        pair = self.pair
        target = pair.mirror.target if pair.mirror is not None else None
        session = target.current if target is not None else None
        if pair.primary is None or session is None or not session.link.open or not await self.mirror_begins():
            return
        await pair.heal()
        if not await self._is_heard(session.link):
            return  # what the network still holds back keeps it from saying that it lives
        if await self._intrude(
            pair.first.platter.copy(), mirror_at(pair.second.name, pair.sync), self.chance.hit(0.7)
        ):
            self.world.say("a mirror takes what a copy of its source sends, and its source is there")
