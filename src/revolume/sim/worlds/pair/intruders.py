"""Somebody who is not the source: a connection said again, an old image of a primary, a copy that runs beside it.

A mirror hears one source, in its newest opening. What anybody else sends is refused, and changes nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace

from revolume.cli.mirror_to import MirrorTo
from revolume.errors import RevolumeError
from revolume.host import Host
from revolume.mirror.link import Link
from revolume.sim.machine import Ended
from revolume.sim.model import Model
from revolume.sim.platter import Platter
from revolume.sim.replayed import replayed
from revolume.sim.service import MIRROR_PORT, PrimaryService, mirror_at
from revolume.sim.worlds.pair.bases import PairBases

PAST_S = 4.0
"""A source that lives has been heard by then, more than once."""
HEARD_S = 20.0
"""By then it has been, or the link is over."""


class PairIntruders(PairBases):
    """See the module's text."""

    def _intruding(self) -> Host:
        if self.intruder.process is not None:
            self.intruder.stopped()
        return self.intruder.boot()

    def _overhear(self) -> None:
        """Whatever the primary says to its mirror on its newest connection is written down."""
        self.fabric.overhear(self.first.name, f"{self.second.name}:{MIRROR_PORT}")

    async def op_replay(self) -> None:
        """Somebody has heard what the source said, and says it to the mirror again, twice at once. The source goes
        on meanwhile."""
        host, (_, address), pieces = self._intruding(), self.fabric.overheard, list(self.fabric.heard)
        again = (self.intruder.run(replayed(host, address, pieces)) for _ in range(2))
        for found in await asyncio.gather(*again, return_exceptions=True):
            if found is not None and not isinstance(found, Ended | OSError):
                raise found
        self._overhear()

    async def _begun(self) -> bool:
        return self.mirror is not None and self.mirror.secondary is not None

    async def _intrude(self, platter: Platter, mirror: MirrorTo, alone: bool) -> bool:
        """What is on this disk runs as a primary on another machine for a while; whether the mirror took what it
        sent."""
        seen = len(self.told)
        self.intruder.platter = platter
        asked = replace(self._asked[self.first.name], size=None, alone=alone, mirrors=(mirror,))
        opening = PrimaryService.open(self._intruding(), self.intruder.name, asked, Model(self.size), self.tell)
        running = asyncio.ensure_future(self.intruder.run(opening))
        await asyncio.sleep(PAST_S)
        self.intruder.kill()
        with contextlib.suppress(Ended, RevolumeError):
            await running
        return any(f"Source {self.intruder.name}:" in told for told in self.told[seen:])

    async def _heard(self, link: Link) -> bool:
        """The mirror hears its source, again if it did not for a while."""
        before, until = link.bytes_in, self.loop.time() + HEARD_S
        while link.open and link.bytes_in == before and self.loop.time() < until:
            await asyncio.sleep(0.1)
        return link.open and link.bytes_in > before

    async def op_stale(self) -> None:
        """An image of a primary as it once was is started on another machine, while the primary is away. What it
        calls its mirror has become the primary; it is led to that one's mirror, which knows a later opening."""
        if self._old is None or self.primary is None or not await self._begun():
            return
        self._lose(self.first, "killed")
        await self._heal()
        mirror = replace(mirror_at(self.second.name, True), name=self.first.name)
        if await self._intrude(self._old.copy(), mirror, alone=self.chance.hit(0.5)):
            self.say("a mirror takes what an old image of its source sends")
        await self.start_primary()

    async def op_copy(self) -> None:
        """A copy of the primary's directory, made while it runs, is started beside it: two sources, one node."""
        session = self.mirror.target.current if self.mirror is not None else None
        if self.primary is None or session is None or not session.link.open or not await self._begun():
            return
        await self._heal()
        if not await self._heard(session.link):
            return  # what the network still holds back keeps it from saying that it lives
        if await self._intrude(
            self.first.platter.copy(), mirror_at(self.second.name, self.sync), self.chance.hit(0.7)
        ):
            self.say("a mirror takes what a copy of its source sends, and its source is there")
