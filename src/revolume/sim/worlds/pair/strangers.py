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
from revolume.sim.actors.service import MIRROR_PORT, MirrorService, mirror_at
from revolume.sim.kernel.machine import Ended
from revolume.sim.kernel.process import Process
from revolume.sim.kernel.simulated_fs import Platter
from revolume.sim.worlds.pair.crashes import Crashes
from revolume.sim.worlds.pair.intruders import Intruders
from revolume.sim.worlds.pair.running import Running
from revolume.sim.worlds.pair.state import PairState
from revolume.sim.worlds.pair.takeover import Takeover

JOINING_S = 20.0
LOOK_S = 0.02


class Strangers:
    """Puts another disk in the place of the mirror's, and replaces a mirror by order."""

    def __init__(
        self, pair: PairState, running: Running, crashes: Crashes, intruders: Intruders, takeover: Takeover
    ) -> None:
        self.pair = pair
        self.world = pair.world
        self.loop = pair.world.loop
        self.fabric = pair.world.fabric
        self.chance = pair.world.chance
        self.running = running
        self.crashes = crashes
        self.intruders = intruders
        self.takeover = takeover
        self._retired: Platter | None = None
        """The disk of a copy that was the mirror, until it was replaced by order; and that copy's node."""
        self._retired_node = b""

    async def op_stranger(self) -> None:
        """A stranger stands at the mirror's address for a while; then the mirror's own disk is back, and as
        often as not the primary is lost before it has met it again."""
        pair = self.pair
        if not pair.is_member():
            return
        await pair.heal()
        stranger = await self._stranger()
        self.crashes.lose(pair.second, "killed")
        own, pair.second.platter = pair.second.platter, stranger
        await self.running.start_mirror()
        await asyncio.sleep(self.chance.uniform(1.0, 8.0))
        self.crashes.lose(pair.second, "killed")
        pair.second.platter = own
        before_they_meet = self.chance.hit(0.5)
        if before_they_meet:
            self.fabric.partition([["a"], ["b"]])
        await self.running.start_mirror()
        if before_they_meet:
            await self._promoted_apart()
            await pair.heal()

    def _node_there(self) -> bytes:
        pair = self.pair
        assert pair.mirror is not None
        assert pair.mirror.secondary is not None
        return pair.mirror.secondary.manifest.state.node

    async def _promoted_apart(self) -> None:
        pair = self.pair
        if pair.primary is None or pair.mirror is None or pair.mirror.secondary is None:
            return
        await self.takeover.op_promote()

    async def _stranger(self) -> Platter:
        """A disk with nothing, or with another volume's mirror, or with another copy of this volume."""
        kind = self.chance.choice(("nothing", "another volume", "another copy"))
        if kind == "another copy" and self._retired is not None:
            self.world.forget_life(self._retired_node)
            return self._retired.copy()
        if kind == "another volume":
            return await self._another_volume()
        return Platter(self.pair.second.platter.capacity)

    async def _another_volume(self) -> Platter:
        """Another primary's mirror, made beside this one on the mirror's machine."""
        pair = self.pair
        platter, address = Platter(pair.second.platter.capacity), f"{pair.second.name}:{MIRROR_PORT + 1}"
        asked = replace(pair.options[pair.second.name], size=None)
        beside = Process(pair.second.name, f"{pair.second.name}.beside")
        context = beside.context.copy()
        host = pair.second.host_for(beside, platter)

        async def mirrored() -> None:
            made = await MirrorService.open(host, pair.second.name, asked, self.world.tell, port=MIRROR_PORT + 1)
            await asyncio.sleep(JOINING_S)
            await made.close()

        there = self.loop.create_task(mirrored(), context=context)
        pair.intruder.platter = Platter(pair.intruder.platter.capacity)
        mirror = replace(mirror_at(pair.second.name, True), address=address)
        opening = replace(pair.options[pair.first.name], mirrors=(mirror,))
        with contextlib.suppress(Ended, RevolumeError):
            await pair.intruder.run(self.intruders.intruding_primary(opening))
        with contextlib.suppress(Ended, RevolumeError, OSError):
            await there
        pair.intruder.kill()
        beside.die()
        self.fabric.process_ended(beside, silently=False)
        return platter

    async def op_replace(self) -> None:
        """By order another copy becomes the mirror; the one of before is kept, and may turn up again."""
        pair = self.pair
        if not pair.is_member() or pair.primary is None:
            return
        self._retired_node = self._node_there()
        self.crashes.lose(pair.second, "killed")
        self._retired = pair.second.platter.copy()
        pair.second.wipe()
        pair.second.lost_power_ns = self.loop.now_ns
        with contextlib.suppress(Ended, RevolumeError):
            await pair.first.run(pair.primary.role.replace_mirror(pair.second.name, True))
        pair.give_up_mirror()
        pair.forget_holder(pair.second.name)
        await self.running.start_mirror()
        await self._until_member()

    async def _until_member(self) -> None:
        deadline = self.loop.time() + JOINING_S
        while not self.pair.is_member() and self.loop.time() < deadline:
            await asyncio.sleep(0.1)

    async def op_older(self) -> None:
        """The mirror's disk is put back to an older state of itself. What it had acknowledged since is not there:
        the primary must not go by it, until the mirror has it again."""
        pair = self.pair
        if not pair.is_member():
            return
        older = pair.second.platter.copy()  # as a snapshot below the file system
        await asyncio.sleep(self.chance.uniform(0.5, 4.0))
        if not pair.is_member():
            return
        self.world.forget_life(self._node_there())  # what it had given out since is given out again
        self.crashes.lose(pair.second, "killed")
        pair.second.platter = older
        pair.second.lost_power_ns = self.loop.now_ns
        pair.forget_holder(pair.second.name)
        for way in (("a", "b"), ("b", "a")):
            self.fabric.path(*way).bytes_per_s = self.chance.choice((1e5, 1e6))
        await self.running.start_mirror()
        deadline = self.loop.time() + self.chance.uniform(2.0, 10.0)
        while self.loop.time() < deadline:
            await asyncio.sleep(LOOK_S)
            self._look_at_knowledge()
        await pair.heal()
        await self._until_level()

    def _look_at_knowledge(self) -> None:
        """A primary never takes a copy that it is connected to for further than it is. What counts is a
        session that the copy has, too: that an earlier process has died it may not have heard yet."""
        pair = self.pair
        there, target = pair.there, pair.mirror.target if pair.mirror is not None else None
        if pair.primary is None or there is None or target is None or target.current is None:
            return
        source = pair.primary.role.links.get(pair.second.name)
        if source is None or not source.connected:
            return
        known = pair.primary.volume.mirrors.get(pair.second.name)
        if known.received > there.received or known.durable > there.durable:
            self.world.say(
                f"the primary goes by {known.received} received and {known.durable} durable; its mirror has "
                f"{there.received} and {there.durable}"
            )

    async def _until_level(self) -> None:
        """It catches up; or, where the log that it lacks is not kept any more, it is made anew by order."""
        pair = self.pair
        seen, deadline = len(self.world.told) - 1, self.loop.time() + 60.0
        while self.loop.time() < deadline:
            await asyncio.sleep(0.1)
            self._look_at_knowledge()
            there = pair.there
            if pair.primary is None or there is None or pair.is_broken(pair.second) or pair.is_broken(pair.first):
                return
            if pair.was_told("the source keeps it from", max(0, seen - 20)):
                await self.crashes.op_wipe_mirror()
                return
            if there.durable >= pair.primary.volume.position:
                return
