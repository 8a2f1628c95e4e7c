"""What stands at a mirror's address and is not the copy that the mirror is: nothing, another volume, another copy
of the volume, an older state of the same copy.

Who answers for a write is for the operator's orders to say here, not for what the primary believes: a mirror that
was required once stays so until it is detached or replaced by order.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace

from revolume.errors import RevolumeError
from revolume.sim.machine import Ended
from revolume.sim.model import Model
from revolume.sim.platter import Platter
from revolume.sim.process import Process
from revolume.sim.service import MIRROR_PORT, MirrorService, PrimaryService, mirror_at
from revolume.sim.worlds.pair.takeover import PairTakeover

JOINING_S = 20.0
LOOK_S = 0.02


class PairStrangers(PairTakeover):
    """See the module's text."""

    def _is_member(self) -> bool:
        """The mirror is a whole copy, and the primary rests answers on it."""
        there = self.mirror.secondary if self.mirror is not None else None
        return self._required() and there is not None and there.base is None and not self._broken(self.second)

    async def op_stranger(self) -> None:
        """Something else stands at the mirror's address for a while; then the mirror's own disk is back, and as
        often as not the primary is lost before it has met it again."""
        if not self._is_member():
            return
        await self._heal()
        stranger = await self._stranger()
        self._lose(self.second, "killed")
        own, self.second.platter = self.second.platter, stranger
        await self.start_mirror()
        await asyncio.sleep(self.chance.uniform(1.0, 8.0))
        self._lose(self.second, "killed")
        self.second.platter = own
        before_they_meet = self.chance.hit(0.5)
        if before_they_meet:
            self.fabric.partition([["a"], ["b"]])
        await self.start_mirror()
        if before_they_meet:
            await self._promoted_apart()
            await self._heal()

    def _node_there(self) -> bytes:
        assert self.mirror is not None
        assert self.mirror.secondary is not None
        return self.mirror.secondary.core.manifest.state.node

    async def _promoted_apart(self) -> None:
        if self.primary is None or self.mirror is None or self.mirror.secondary is None:
            return
        await self.op_promote()

    async def _stranger(self) -> Platter:
        """A disk with nothing, or with another volume's mirror, or with another copy of this volume."""
        kind = self.chance.choice(("nothing", "another volume", "another copy"))
        if kind == "another copy" and self._retired is not None:
            self._lives.pop(self._retired_node, None)
            return self._retired.copy()
        if kind == "another volume":
            return await self._another_volume()
        return Platter(self.second.platter.capacity)

    async def _another_volume(self) -> Platter:
        """Another primary's mirror, made beside this one on the mirror's machine."""
        platter, address = Platter(self.second.platter.capacity), f"{self.second.name}:{MIRROR_PORT + 1}"
        asked = replace(self._asked[self.second.name], size=None)
        beside = Process(self.second.name, f"{self.second.name}.beside")
        context = beside.context.copy()
        host = self.second.host_for(beside, platter)

        async def mirrored() -> None:
            made = await MirrorService.open(host, self.second.name, asked, self.tell, port=MIRROR_PORT + 1)
            await asyncio.sleep(JOINING_S)
            await made.close()

        there = self.loop.create_task(mirrored(), context=context)
        self.intruder.platter = Platter(self.intruder.platter.capacity)
        mirror = replace(mirror_at(self.second.name, True), address=address)
        opening = replace(self._asked[self.first.name], mirrors=(mirror,))
        with contextlib.suppress(Ended, RevolumeError):
            await self.intruder.run(
                PrimaryService.open(self._intruding(), self.intruder.name, opening, Model(self.size), self.tell)
            )
        with contextlib.suppress(Ended, RevolumeError, OSError):
            await there
        self.intruder.kill()
        beside.die()
        self.fabric.process_ended(beside, silently=False)
        return platter

    async def op_replace(self) -> None:
        """By order another copy becomes the mirror; the one of before is kept, and may turn up again."""
        if not self._is_member() or self.primary is None:
            return
        self._retired_node = self._node_there()
        self._lose(self.second, "killed")
        self._retired = self.second.platter.copy()
        self.second.wipe()
        self.second.lost_power_ns = self.loop.now_ns
        with contextlib.suppress(Ended, RevolumeError):
            await self.first.run(self.primary.role.replace_mirror(self.second.name, True))
        self._given_up()
        self._forget_holder(self.second.name)
        await self.start_mirror()
        await self._until_member()

    async def _until_member(self) -> None:
        deadline = self.loop.time() + JOINING_S
        while not self._is_member() and self.loop.time() < deadline:
            await asyncio.sleep(0.1)

    async def op_older(self) -> None:
        """The mirror's disk is put back to an older state of itself. What it had acknowledged since is not there:
        the primary must not go by it, until the mirror has it again."""
        if not self._is_member():
            return
        older = self.second.platter.copy()  # as a snapshot below the file system
        await asyncio.sleep(self.chance.uniform(0.5, 4.0))
        if not self._is_member():
            return
        self._lives.pop(self._node_there(), None)  # what it had given out since is given out again
        self._lose(self.second, "killed")
        self.second.platter = older
        self.second.lost_power_ns = self.loop.now_ns
        self._forget_holder(self.second.name)
        for way in (("a", "b"), ("b", "a")):
            self.fabric.path(*way).bytes_per_s = self.chance.choice((1e5, 1e6))
        await self.start_mirror()
        deadline = self.loop.time() + self.chance.uniform(2.0, 10.0)
        while self.loop.time() < deadline:
            await asyncio.sleep(LOOK_S)
            self._look_at_knowledge()
        await self._heal()
        await self._until_level()

    def _look_at_knowledge(self) -> None:
        """A primary never takes a copy that it is connected to for further than it is."""
        there = self.mirror.secondary if self.mirror is not None else None
        if self.primary is None or there is None:
            return
        source = self.primary.role._sources.get(self.second.name)
        if source is None or not source.connected:
            return
        known = self.primary.volume.mirrors.get(self.second.name)
        if known.received > there.received or known.durable > there.durable:
            self.say(
                f"the primary goes by {known.received} received and {known.durable} durable; its mirror has "
                f"{there.received} and {there.durable}"
            )

    async def _until_level(self) -> None:
        """It catches up; or, where the log that it lacks is not kept any more, it is made anew by order."""
        seen, deadline = len(self.told) - 1, self.loop.time() + 60.0
        while self.loop.time() < deadline:
            await asyncio.sleep(0.1)
            self._look_at_knowledge()
            there = self.mirror.secondary if self.mirror is not None else None
            if self.primary is None or there is None or self._broken(self.second) or self._broken(self.first):
                return
            if self._was_told("the source keeps it from", max(0, seen - 20)):
                await self.op_wipe_mirror()
                return
            if there.durable >= self.primary.volume.position:
                return
