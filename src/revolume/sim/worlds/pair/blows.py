"""What ends a process without asking it: kill -9, the loss of power, an empty disk in the place of the old one.

A blow has the disk checked as it is left. What must be there afterwards is looked at when the primary is opened.
"""

from __future__ import annotations

import asyncio
import contextlib

from revolume.errors import NotFound
from revolume.sim.checks.clean import check_clean
from revolume.sim.checks.salvaged import check_salvaged
from revolume.sim.machine import Ended, Machine
from revolume.sim.platter import Cut, state_of
from revolume.sim.worlds.pair.running import PairRunning


class PairBlows(PairRunning):
    """See the module's text."""

    def _lose(self, machine: Machine, how: str) -> None:
        if machine is self.first:
            if how == "lost power" and not self._required() and self._may_part is None:
                self._may_part = len(self.told)
            self.primary = None
            self._crashes[machine.name] = how
        else:
            self.mirror = None
        if machine.process is None:
            return
        if how == "killed":
            machine.kill()
        else:
            machine.platter.before_change = lambda number, what: None
            machine.power_cut(Cut.drawn(self.chance))
            self.cuts.add(state_of(machine.platter))
        who = f"{machine.name} {how}"
        self.wrong += check_clean(machine, machine.platter, who)
        if machine is self.first:  # a mirror may have what its source loses
            platter, bare = machine.platter.copy(), self.chance.hit(0.5)
            self.loop.call_soon(  # the model does not yet know of a write in whose middle it was
                lambda: self.wrong.extend(check_salvaged(machine, platter, self.model, who, bare=bare))
            )

    async def _power(self, machine: Machine) -> None:
        """Now, or in the middle of what it does to its disk."""
        if self.chance.hit(0.5):
            left, process = [self.chance.randrange(40)], machine.process

            def before(number: int, what: str) -> None:
                left[0] -= 1
                if left[0] < 0:
                    self._lose(machine, "lost power")

            machine.platter.before_change = before
            for _ in range(25):
                await asyncio.sleep(0.02)
                if machine.process is not process:
                    return
            machine.platter.before_change = lambda number, what: None
        self._lose(machine, "lost power")

    async def op_kill(self) -> None:
        """kill -9 of the primary."""
        self._lose(self.first, "killed")
        await asyncio.sleep(self.chance.delay(0.3))
        await self.start_primary()

    async def op_power(self) -> None:
        """The primary loses its power."""
        await self._power(self.first)
        await asyncio.sleep(self.chance.delay(0.3))
        await self.start_primary()

    async def op_kill_mirror(self) -> None:
        """kill -9 of the mirror; answers wait until it is back."""
        self._lose(self.second, "killed")
        await asyncio.sleep(self.chance.delay(0.5))
        await self.start_mirror()

    async def op_power_mirror(self) -> None:
        """The mirror loses its power."""
        await self._power(self.second)
        await asyncio.sleep(self.chance.delay(0.5))
        await self.start_mirror()

    async def op_both(self) -> None:
        """Both at once: killed, or without power. What was flushed survives that too."""
        how = self.chance.choice(("killed", "lost power"))
        self._lose(self.first, how)
        self._lose(self.second, how)
        await asyncio.sleep(self.chance.delay(0.3))
        await self.start_mirror()
        await self.start_primary()

    async def op_wipe_mirror(self) -> None:
        """The mirror's disk is replaced by an empty one: it is detached, and comes again from nothing."""
        self._lose(self.second, "lost power")
        self.second.wipe()
        self.second.lost_power_ns = self.loop.now_ns
        await self._anew()

    async def _anew(self) -> None:
        """The other machine is an empty mirror of this one from now on."""
        self._forget_holder(self.second.name)
        primary = self.primary
        if primary is not None:
            with contextlib.suppress(Ended, NotFound):
                await self.first.run(primary.role.detach(self.second.name))
            self._given_up()
            await self.op_stop()
            await self.start_mirror()
