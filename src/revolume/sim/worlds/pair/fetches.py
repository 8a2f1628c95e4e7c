"""A primary brings moments back that only its mirror holds, while clients write, and while either may be killed.

A moment that was fetched is a snapshot of the primary: from then on it is judged with every look into the past.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final

from revolume.errors import GaveWay, NotFound, RevolumeError
from revolume.jobs.job import Job, JobState
from revolume.mirror.held_moments import held_points
from revolume.sim.actors.service import PrimaryService
from revolume.sim.checks.moments import check_moment
from revolume.sim.kernel.machine import Ended
from revolume.sim.worlds.pair.crashes import Crashes
from revolume.sim.worlds.pair.running import Running
from revolume.sim.worlds.pair.state import PairState

CHANGES_MAX: Final = 40
"""The power is cut before one of so many changes to the disk."""
PATIENCE_S: Final = 30.0


class Fetches:
    """``counts``: how many were tried, and came to their end."""

    def __init__(self, pair: PairState, running: Running, crashes: Crashes) -> None:
        self.pair = pair
        self.world = pair.world
        self.chance = pair.world.chance
        self.running = running
        self.crashes = crashes
        self.counts = {"fetches": 0, "fetched": 0}

    def lacking(self, primary: PrimaryService) -> list[int]:
        """The writes of points that the mirror holds, and the primary does not."""
        there, volume = self.pair.there, primary.volume
        if there is None or there.base is not None or not self.pair.is_known(there):
            return []
        here = {each.moment.write for each in volume.manifest.state.rescues}
        behind = [point.write for point in held_points(there) if point.write < volume.folder.horizon.write]
        return [write for write in behind if write not in here]

    async def op_fetch(self) -> None:
        """One of the moments that the mirror alone holds."""
        primary = self.pair.primary
        if primary is None or not (lacking := self.lacking(primary)):
            return
        write, name = self.chance.choice(lacking), f"f{self.world.loop.now_ns}"
        orders = {"from": self.pair.second.name, "moment": f"w{write}", "name": name}
        self.counts["fetches"] += 1
        try:
            job = primary.role.jobs.start("fetch", orders)
        except RevolumeError as error:
            self.world.tell(f"fetch: {error!r}")
            return
        await self._ended(primary, job)
        if job.state is not JobState.DONE:
            self.world.tell(f"fetch of w{write}: {job.state}, {job.error}")
        elif self.pair.primary is primary:
            self.counts["fetched"] += 1
            await self._judge(primary, write, name)

    async def _ended(self, primary: PrimaryService, job: Job) -> None:
        deadline = self.world.loop.time() + PATIENCE_S
        while not job.state.ended and self.pair.primary is primary and self.world.loop.time() < deadline:
            await asyncio.sleep(0.02)

    async def _judge(self, primary: PrimaryService, write: int, name: str) -> None:
        if name not in {snapshot.name for snapshot in primary.volume.snapshots()}:
            self.world.say(f"w{write} was fetched, and has no name")
        with contextlib.suppress(Ended, GaveWay, NotFound):
            looking = check_moment(primary.volume, self.world.model, write, "fetched")
            self.world.wrong += await self.pair.first.run(looking)

    async def op_fetch_power(self) -> None:
        """The power goes, here or at the mirror, before one of the changes that are made to the disk meanwhile."""
        here = self.chance.hit(0.7)
        machine = self.pair.first if here else self.pair.second
        machine.platter.before_change = self._counted(lambda: self.crashes.lose(machine, "lost power"))
        await self.op_fetch()
        machine.platter.before_change = lambda number, what: None
        await self._again(here)

    def _counted(self, ends: Callable[[], None]) -> Callable[[int, str], None]:
        left = [self.chance.randrange(CHANGES_MAX)]

        def before(number: int, what: str) -> None:
            left[0] -= 1
            if left[0] < 0:
                ends()

        return before

    async def _again(self, here: bool) -> None:
        await asyncio.sleep(self.chance.delay(0.3))
        if here and self.pair.primary is None:
            await self.running.start_primary()
        elif not here and self.pair.mirror is None:
            await self.running.start_mirror()
