"""What a refusal advises, and who follows it: a mirror that can't go on is made anew, or given more room."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from revolume.sim.oracle.jump_watch import JumpWatch
from revolume.sim.worlds.pair.crashes import Crashes
from revolume.sim.worlds.pair.running import Running
from revolume.sim.worlds.pair.state import PairState
from revolume.sim.worlds.world import MiB

ANSWERED_S = 10.0
"""By then a mirror that was made anew has been begun or refused."""


class Remedies:
    """Does what the refusals of a mirror advise."""

    def __init__(self, pair: PairState, running: Running, crashes: Crashes, watch: JumpWatch) -> None:
        self.pair = pair
        self.watch = watch
        self.world = pair.world
        self.running = running
        self.crashes = crashes

    async def follow_advice(self) -> None:
        """Do as we were told. Only what was detached, lost for want of room, or has what its source lost, may be
        told to begin anew."""
        pair = self.pair
        if pair.lacks_room(0):
            await self.more_room()
        lost = pair.primary is not None and any(mirror.lost for mirror in pair.primary.volume.mirrors)
        if lost and not self.watch.pins_dropped:
            self.world.say("nothing is kept for the mirror, and no disk was short" + self.world.state())
        given_up = pair.detached_at is not None and pair.was_told("Create the mirror anew", pair.detached_at)
        if lost or given_up or (pair.may_part is not None and pair.was_refused(pair.may_part)):
            seen = len(self.world.told)
            await self.crashes.op_wipe_mirror()
            await asyncio.sleep(ANSWERED_S)
            if pair.lacks_room(seen):  # what was made anew may need more than what was lost
                await self.more_room()

    async def more_room(self) -> None:
        """A bigger disk, and leave to use it."""
        pair = self.pair
        for machine in (pair.first, pair.second):
            machine.platter.capacity *= 4
            pair.options[machine.name] = replace(pair.options[machine.name], budget_bytes=256 * MiB)
        await self.running.op_stop_mirror()
        await self.running.op_stop()
