"""One primary on a disk that is not to be trusted: bits rot, writes go astray or nowhere, syncs lie.

These faults are harsh: they take what nobody else has, so nothing can be promised but honesty (O7). A read brings
the right bytes or an error, whatever was done to the disk; an opening may be refused.

What a machine alone can't know is that the end of its log is gone without a trace: a lying sync took it, or its
sectors, and all that say how far it went, are again what they were before. Then too the volume is what it was at
some write, all of it; a mirror has the rest, and refuses a source that has less than it has.
"""

from __future__ import annotations

import asyncio

from revolume.errors import RevolumeError
from revolume.sim.checks.moments import check_moments
from revolume.sim.checks.salvage_result import check_doubts
from revolume.sim.checks.scrubbed import check_scrubbed
from revolume.sim.kernel.machine import Ended
from revolume.sim.kernel.simulated_fs import SECTOR, Platter
from revolume.sim.oracle.sector_history import Written
from revolume.sim.worlds.primary import PrimaryWorld
from revolume.volume.volume_base import OpenVolume


class RotWorld(PrimaryWorld):
    """One life of a primary whose disk is not to be trusted: reads are right, or they fail."""

    name = "rot"
    steps = 10

    def __init__(self, seed: int, *, keep: int = 0) -> None:
        super().__init__(seed, keep=keep)
        self.refused = 0

    def operations(self) -> dict[str, int]:
        return {
            "rot": 6, "past": 4, "astray": 2, "dropped": 2, "lie": 2, "kill": 3, "power": 2, "stop": 2, "point": 3,
            "moments": 4, "snapshot": 1, "scrub": 3,
        }  # fmt: skip

    def start_clients(self, count: int) -> None:
        """One will do: it is the disk that is busy here."""
        super().start_clients(1)
        self.orders.enough = 50

    def promised(self, written: Written) -> bool:
        """Nothing."""
        return False

    def lives(self, volume: OpenVolume, who: str) -> None:
        """Names that only what was lost had spoken of are given out again: nothing here could know of them."""

    def examine(self, platter: Platter, when: str) -> None:
        """There is something wrong with this disk, and ``check`` may say so; ``salvage`` must."""
        self.salvage_soon(platter, when)

    def _salvaged(self, platter: Platter, when: str, bare: bool) -> list[str]:
        return check_doubts(self.a, platter, self.model, when, bare=bare)

    async def _start_once(self) -> None:
        try:
            await super()._start_once()
        except RevolumeError as error:
            self._refusal(error)

    def _refusal(self, error: RevolumeError) -> None:
        """It is over: an operator would go to his backup now."""
        self.tell(f"refused: {error!r}")
        self.refused += 1
        self.over = self.orders.stop = self.orders.paused = True
        if self.a.process is not None:
            self.a.stopped()
        self.examine(self.a.platter, "when it was refused")

    async def start(self) -> None:
        """Open it, unless that was refused for good."""
        if not self.over:
            while self.service is None and not self.over:
                try:
                    await self._start_once()
                except Ended:
                    self.service = None

    async def judge(self, when: str) -> None:
        """What can be read."""
        service = self.service
        if service is None:
            return
        for first in range(0, self.register.sectors, 64):
            buffer, start = bytearray(64 * 512), self.register.tick()
            try:
                await self.a.run(service.volume.read(first * 512, memoryview(buffer)))
            except (RevolumeError, OSError, Ended):
                continue
            self.register.read(first, buffer[: (self.register.sectors - first) * 512], start, when)

    async def op_moments(self) -> None:
        """The past too is right, or an error."""
        if self.service is not None:
            try:
                self.wrong += await self.a.run(
                    check_moments(self.service.volume, self.model, self.chance, "a", newest=self.model.newest)
                )
            except (Ended, RevolumeError, OSError) as error:
                self.tell(f"{error!r}")

    async def op_stop(self, *, start: bool = True) -> None:
        """A stop, clean if it can be."""
        service, self.service = self.service, None
        if service is None:
            return
        try:
            await self.a.run(service.close())
        except (Ended, RevolumeError) as error:
            self.tell(f"{error!r}")
        if self.a.process is not None:
            self.a.stopped()
        self.examine(self.a.platter, "after a stop")
        if start:
            await self._back()

    async def op_scrub(self) -> None:
        """A scrub finds what it finds, and makes anew what it can."""
        if self.service is not None:
            try:
                await self.a.run(check_scrubbed(self.service.volume, self.chance, "a"))
            except (Ended, RevolumeError, OSError) as error:
                self.tell(f"{error!r}")

    async def op_rot(self) -> None:
        """Some bits of a file change, in memory and on the disk."""
        files = [file for file in self.a.platter.files() if file.in_memory]
        for _ in range(self.chance.choice((1, 1, 3, 20))):
            file = self.chance.choice(files)
            at = self.chance.randrange(len(file.in_memory))
            for content in (file.memory, file.disk):
                if at < len(content):
                    content[at] ^= 1 << self.chance.randrange(8)
            self.a.faults.happened()

    async def op_past(self) -> None:
        """Some sectors of a file are what they were a while ago, as if what was written since had never been."""
        file = self.chance.choice([file for file in self.a.platter.files() if file.in_memory])
        before = bytes(file.on_disk)
        await asyncio.sleep(self.chance.delay(2.0))
        end = min(len(before), len(file.on_disk)) // SECTOR * SECTOR
        after = bytes(file.on_disk)
        changed = [at for at in range(0, end, SECTOR) if after[at : at + SECTOR] != before[at : at + SECTOR]]
        for at in self.chance.sample(changed, min(len(changed), self.chance.choice((1, 1, 3, 20, 1000)))):
            file.memory[at : at + SECTOR] = file.disk[at : at + SECTOR] = before[at : at + SECTOR]
            self.a.faults.happened()

    async def op_astray(self) -> None:
        """Writes go to other places of their file."""
        await self._failing("misdirected")

    async def op_dropped(self) -> None:
        """Writes are not done, and nobody says so."""
        await self._failing("dropped")

    async def op_lie(self) -> None:
        """Syncs are not done, and nobody says so."""
        await self._failing("lying_sync")
