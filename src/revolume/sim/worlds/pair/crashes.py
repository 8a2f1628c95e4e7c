"""What ends a process without asking it: kill -9, the loss of power, an empty disk in the place of the old one.

A blow has the disk checked as it is left. What must be there afterwards is looked at when the primary is opened.
"""

from __future__ import annotations

import asyncio
import contextlib

from revolume.errors import NotFound
from revolume.sim.checks.clean import check_clean
from revolume.sim.checks.salvage_result import check_salvaged
from revolume.sim.kernel.machine import Ended, Machine
from revolume.sim.kernel.simulated_fs import Cut, state_of
from revolume.sim.worlds.pair.running import Running
from revolume.sim.worlds.pair.state import PairState


class Crashes:
    """Kills processes, cuts power and replaces disks, and has the disk checked that is left."""

    def __init__(self, pair: PairState, running: Running) -> None:
        self.pair = pair
        self.world = pair.world
        self.loop = pair.world.loop
        self.chance = pair.world.chance
        self.running = running

    def lose(self, machine: Machine, how: str) -> None:
        pair = self.pair
        if machine is pair.first:
            if how == "lost power" and not pair.required() and pair.may_part is None:
                pair.may_part = len(self.world.told)
            pair.primary = None
            pair.crashes[machine.name] = how
        else:
            pair.mirror = None
        if machine.process is None:
            return
        if how == "lost power" and machine is pair.first and pair.labelled is not None:
            self.world.clock_lost(machine, pair.labelled)
        if how == "killed":
            machine.kill()
        else:
            machine.platter.before_change = lambda number, what: None
            machine.power_cut(Cut.drawn(self.chance))
            self.world.cuts.add(state_of(machine.platter))
        who = f"{machine.name} {how}"
        if not self.pair.wrong_now(machine):
            self.world.wrong += check_clean(machine, machine.platter, who)
        if machine is pair.first:  # a mirror may have what its source loses
            platter, bare = machine.platter.copy(), self.chance.hit(0.5)
            self.loop.call_soon(  # the model does not yet know of a write in whose middle it was
                lambda: self.world.wrong.extend(check_salvaged(machine, platter, self.world.model, who, bare=bare))
            )

    async def power(self, machine: Machine) -> None:
        """Now, or in the middle of what it does to its disk."""
        if self.chance.hit(0.5):
            left, process = [self.chance.randrange(40)], machine.process

            def before(number: int, what: str) -> None:
                left[0] -= 1
                if left[0] < 0:
                    self.lose(machine, "lost power")

            machine.platter.before_change = before
            for _ in range(25):
                await asyncio.sleep(0.02)
                if machine.process is not process:
                    return
            machine.platter.before_change = lambda number, what: None
        self.lose(machine, "lost power")

    async def op_kill(self) -> None:
        """kill -9 of the primary."""
        self.lose(self.pair.first, "killed")
        await asyncio.sleep(self.chance.delay(0.3))
        await self.running.start_primary()

    async def op_power(self) -> None:
        """The primary loses its power."""
        await self.power(self.pair.first)
        await asyncio.sleep(self.chance.delay(0.3))
        await self.running.start_primary()

    async def op_kill_mirror(self) -> None:
        """kill -9 of the mirror; answers wait until it is back."""
        self.lose(self.pair.second, "killed")
        await asyncio.sleep(self.chance.delay(0.5))
        await self.running.start_mirror()

    async def op_power_mirror(self) -> None:
        """The mirror loses its power."""
        await self.power(self.pair.second)
        await asyncio.sleep(self.chance.delay(0.5))
        await self.running.start_mirror()

    async def op_both(self) -> None:
        """Both at once: killed, or without power. What was flushed survives that too."""
        how = self.chance.choice(("killed", "lost power"))
        self.lose(self.pair.first, how)
        self.lose(self.pair.second, how)
        await asyncio.sleep(self.chance.delay(0.3))
        await self.running.start_mirror()
        await self.running.start_primary()

    async def op_wipe_mirror(self) -> None:
        """The mirror's disk is replaced by an empty one: it is detached, and comes again from nothing."""
        pair = self.pair
        self.lose(pair.second, "lost power")
        pair.second.wipe()
        pair.second.lost_power_ns = self.loop.now_ns
        await self._anew()

    async def _anew(self) -> None:
        """The other machine is an empty mirror of this one from now on."""
        pair = self.pair
        pair.forget_holder(pair.second.name)
        primary = pair.primary
        if primary is not None:
            with contextlib.suppress(Ended, NotFound):
                await pair.first.run(primary.role.detach(pair.second.name))
            pair.give_up_mirror()
            await self.running.op_stop()
            await self.running.start_mirror()
