"""A simulated machine: a disk, clocks, a place in the network, and one process at a time.

It can be switched on (``boot``), have its process killed (what is in memory stays with the kernel), lose its power
(the disk keeps what a ``Cut`` says) and have its disk replaced by an empty one.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Coroutine
from typing import Any, TypeVar

from revolume.host import Host
from revolume.sim.kernel.chance import Chance, SimEntropy
from revolume.sim.kernel.clock import SimClock
from revolume.sim.kernel.disk import SimDisk
from revolume.sim.kernel.disk_faults import DiskFaults
from revolume.sim.kernel.fabric import Fabric
from revolume.sim.kernel.loop import SimLoop
from revolume.sim.kernel.network import SimNetwork
from revolume.sim.kernel.process import Process
from revolume.sim.kernel.simulated_fs import Cut, Platter
from revolume.sim.kernel.trace import Trace
from revolume.sim.kernel.work import SimWork

Result = TypeVar("Result")


class Ended(Exception):
    """The process that was to do it has died meanwhile."""


class Machine:
    """One machine in a world. ``lost_power_ns``: virtual time of its last power cut; None: there was none."""

    def __init__(
        self, name: str, loop: SimLoop, fabric: Fabric, chance: Chance, trace: Trace, capacity: int
    ) -> None:
        self.name = name
        self.loop = loop
        self.platter = Platter(capacity)
        self.faults = DiskFaults()
        self.clock = SimClock(loop)
        self.process: Process | None = None
        self.lost_power_ns: int | None = None
        self.lives = 0
        self.blows = 0
        """Kills, losses of power and of disks."""
        self._fabric = fabric
        self._chance = chance.stream(name)
        self._trace = trace
        self.host: Host

    def boot(self) -> Host:
        """A new process, with a host of its own."""
        assert self.process is None
        self.lives += 1
        self.process = Process(self.name, f"{self.name}.{self.lives}")
        self.host = self.host_for(self.process)
        return self.host

    def host_for(self, process: Process, platter: Platter | None = None) -> Host:
        """What a process on this machine is given."""
        chance = self._chance.stream(f"life {self.lives}")
        faults = self.faults if platter is None else DiskFaults(not_in_memory=0.0)
        disk = SimDisk(platter or self.platter, process, faults, chance.stream("disk"), self._trace)
        return Host(
            self.clock, SimEntropy(chance.stream("entropy")), disk, SimWork(process, disk, chance.stream("work")),
            SimNetwork(self._fabric, process),
        )  # fmt: skip

    async def run(self, job: Coroutine[Any, Any, Result]) -> Result:
        """``job``, done by this machine's process. Ended: it died before that was done."""
        process = self.process
        if process is None:
            job.close()
            raise Ended(self.name)
        over: asyncio.Future[None] = self.loop.create_future()

        def told(*_: object) -> None:
            if not over.done():
                over.set_result(None)

        process.at_end(told)
        task = self.loop.create_task(job, context=process.context.copy())
        task.add_done_callback(told, context=contextvars.copy_context())
        await over
        if not process.alive:
            raise Ended(self.name)
        return task.result()

    def kill(self) -> None:
        """``kill -9``: what it wrote stays in the kernel's memory."""
        self._trace.note("kill", self.name)
        self.blows += 1
        self._end(silently=False)

    def pause(self) -> None:
        """SIGSTOP: nothing is done, and what others send waits."""
        assert self.process is not None
        self._trace.note("pause", self.name)
        self.process.held = []

    def resume(self) -> None:
        """SIGCONT, if the process that was paused is still there."""
        if self.process is not None and self.process.held is not None:
            self._trace.note("resume", self.name)
            self.loop.resume(self.process)

    def power_cut(self, cut: Cut) -> None:
        """Everything but the disk is gone, and of what the disk was to have any part may be."""
        self._trace.note("power cut", self.name)
        self.blows += 1
        self.lost_power_ns = self.loop.now_ns
        self.clock.boots += 1
        self._end(silently=True)
        self.platter = self.platter.after(cut)

    def wipe(self) -> None:
        """An empty disk in the place of the old one."""
        assert self.process is None
        self.blows += 1
        self.platter = Platter(self.platter.capacity)

    def stopped(self) -> None:
        """The process has ended by itself."""
        self._end(silently=False)

    def _end(self, *, silently: bool) -> None:
        process, self.process = self.process, None
        if process is not None:
            self.loop.bury()
            process.die()
            self._fabric.process_ended(process, silently=silently)
