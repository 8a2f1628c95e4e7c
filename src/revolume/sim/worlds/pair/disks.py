"""Disks that fail for a while, at either machine: reads, writes and syncs with errors, no room, slow or stuck.

A write or a sync that fails poisons what was open: it promises nothing more until somebody opens it anew. A
primary has given a small write to the link before its own log takes it, so its mirror may be a transfer ahead:
opened again, the primary asks for that. A mirror that can't go on from its point is opened anew as well.
"""

from __future__ import annotations

import asyncio

from revolume.sim.kernel.simulated_fs import PAGE
from revolume.sim.worlds.pair.crashes import Crashes
from revolume.sim.worlds.pair.running import Running
from revolume.sim.worlds.pair.state import PairState
from revolume.sim.worlds.world import KiB

NOTICED_S = 0.5
"""Until an error that has happened has come to whoever waited for it."""


class DiskFailures:
    """Lets the disk of either machine fail for a while, and opens anew what that has poisoned."""

    def __init__(self, pair: PairState, running: Running, crashes: Crashes) -> None:
        self.pair = pair
        self.world = pair.world
        self.chance = pair.world.chance
        self.running = running
        self.crashes = crashes

    async def open_broken(self) -> None:
        """Whatever is broken is ended in one way or another, and opened again."""
        pair = self.pair
        if pair.is_broken(pair.second):
            ends = self.crashes.op_kill_mirror, self.crashes.op_power_mirror, self.running.op_stop_mirror
            await self.chance.choice(ends)()
        if pair.is_broken(pair.first):
            await self.chance.choice((self.crashes.op_kill, self.crashes.op_power, self.running.op_stop))()

    async def _failing(self, fault: str) -> None:
        """One kind of error for a while, at one of the two."""
        faults = self.pair.either().faults
        setattr(faults, fault, self.chance.choice((0.02, 0.3)))
        await asyncio.sleep(self.chance.delay(0.5))
        setattr(faults, fault, 0.0)
        await asyncio.sleep(NOTICED_S)
        await self.open_broken()

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
        platter = self.pair.either().platter
        capacity, room = platter.capacity, self.chance.choice((0, 64, 256)) * KiB
        platter.capacity = min(capacity, platter.used_pages * PAGE + room)
        await asyncio.sleep(self.chance.delay(1.0))
        platter.capacity = capacity
        await asyncio.sleep(NOTICED_S)
        await self.open_broken()

    async def op_slow(self) -> None:
        """One of the disks is slow, or stuck."""
        machine = self.pair.either()
        machine.faults.slow, machine.faults.stuck = self.chance.choice((10.0, 100.0)), 0.01
        await asyncio.sleep(self.chance.delay(2.0))
        machine.faults.quiet()
