"""Disks that fail for a while, at either machine: reads, writes and syncs with errors, no room, slow or stuck.

A write or a sync that fails poisons what was open: it promises nothing more until somebody opens it anew. A
primary has given a small write to the link before its own log takes it, so its mirror may be a transfer ahead:
opened again, the primary asks for that. A mirror that can't go on from its point is opened anew as well.
"""

from __future__ import annotations

import asyncio

from revolume.sim.machine import Machine
from revolume.sim.platter import PAGE
from revolume.sim.worlds.pair.blows import PairBlows
from revolume.sim.worlds.world import KiB

NOTICED_S = 0.5
"""Until an error that has happened has come to whoever waited for it."""


class PairDisks(PairBlows):
    """See the module's text."""

    def _either(self) -> Machine:
        return self.chance.choice((self.first, self.second))

    def _broken(self, machine: Machine) -> bool:
        """What is open there does not go on by itself."""
        if machine is self.first:
            return self.primary is not None and self.primary.volume.core.commit.failure is not None
        there = self.mirror.secondary if self.mirror is not None else None
        return there is not None and (there.failure is not None or there.core.commit.failure is not None)

    async def _open_broken(self) -> None:
        """Whatever is broken is ended in one way or another, and opened again."""
        if self._broken(self.second):
            await self.chance.choice((self.op_kill_mirror, self.op_power_mirror, self.op_stop_mirror))()
        if self._broken(self.first):
            await self.chance.choice((self.op_kill, self.op_power, self.op_stop))()

    async def _failing(self, fault: str) -> None:
        """One kind of error for a while, at one of the two."""
        faults = self._either().faults
        setattr(faults, fault, self.chance.choice((0.02, 0.3)))
        await asyncio.sleep(self.chance.delay(0.5))
        setattr(faults, fault, 0.0)
        await asyncio.sleep(NOTICED_S)
        await self._open_broken()

    async def op_sync_error(self) -> None:
        """Syncs fail, and lose what they were to sync."""
        await self._failing("sync_error")

    async def op_write_error(self) -> None:
        """Writes fail half-way."""
        await self._failing("write_error")

    async def op_read_error(self) -> None:
        """Reads fail."""
        await self._failing("read_error")

    async def op_helper(self) -> None:
        """One of the helpers is lost, again and again."""
        await self._failing("helper_lost")

    async def op_full(self) -> None:
        """Somebody else fills one of the disks for a while."""
        platter = self._either().platter
        capacity, room = platter.capacity, self.chance.choice((0, 64, 256)) * KiB
        platter.capacity = min(capacity, platter.used_pages * PAGE + room)
        await asyncio.sleep(self.chance.delay(1.0))
        platter.capacity = capacity
        await asyncio.sleep(NOTICED_S)
        await self._open_broken()

    async def op_slow(self) -> None:
        """One of the disks is slow, or stuck."""
        machine = self._either()
        machine.faults.slow, machine.faults.stuck = self.chance.choice((10.0, 100.0)), 0.01
        await asyncio.sleep(self.chance.delay(2.0))
        machine.faults.quiet()
