"""A primary goes back to a moment, while its clients come again as soon as they are let in, and while it may be
killed or lose its power.

To the oracle a restore is one more writer: of each sector it writes the value that it had then, all of them as
one.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Final

from revolume.api.schemas import RestoreOrder
from revolume.errors import RevolumeError
from revolume.log.write.operations import OP_WRITE, Op
from revolume.sim.actors.service import PrimaryService
from revolume.sim.kernel.machine import Ended
from revolume.sim.oracle.sector_history import Written
from revolume.sim.oracle.sector_payload import SECTOR, numbers_of
from revolume.sim.worlds.pair.crashes import Crashes
from revolume.sim.worlds.pair.inspections import Inspections
from revolume.sim.worlds.pair.running import Running
from revolume.sim.worlds.pair.state import PairState
from revolume.sim.worlds.pair.takeover import Takeover

CHANGES_MAX: Final = 60
"""The power is cut before one of so many changes to the disk."""


class Restores:
    """Of the world's primary."""

    def __init__(
        self, pair: PairState, running: Running, crashes: Crashes, takeover: Takeover, inspections: Inspections
    ) -> None:
        self.pair = pair
        self.world = pair.world
        self.chance = pair.world.chance
        self.running = running
        self.crashes = crashes
        self.takeover = takeover
        self.inspections = inspections

    async def op_restore(self) -> None:
        """To one of its moments, or to what was before the last restore."""
        primary = self.pair.primary
        if primary is None or not (moments := self._moments(primary)):
            return
        moment = self.chance.choice(moments)
        written, slices = list[Written](), primary.slices
        primary.on_restored = lambda op: written.extend(self._begun(op))
        try:
            told = await self.pair.first.run(
                primary.restore(RestoreOrder(to=f"w{moment}", yes=True, disconnect=True))
            )
        except (Ended, RevolumeError) as error:
            self.world.tell(f"restore to w{moment}: {error.code if isinstance(error, RevolumeError) else 'ended'}")
            for each in written:
                self.world.register.given_up(each)
            return
        for each in written:
            self.world.register.answered(each, True, self.pair.holders(each.start_ns))
        self.world.happened["- slices"] = self.world.happened.get("- slices", 0) + primary.slices - slices
        if told.restored:
            self.world.happened["- restored"] = self.world.happened.get("- restored", 0) + 1
            self._compare(moment, int(told.write_now))

    def _moments(self, primary: PrimaryService) -> list[int]:
        volume = primary.volume
        retained = [n for n in self.world.model.numbers if volume.folder.retired_write <= n < volume.write]
        named = [int(each.write) for each in volume.snapshots() if not each.branch]
        return self.chance.choice((retained, named or retained))

    def _begun(self, op: Op) -> Iterator[Written]:
        """Sector by sector; the last stretch of the volume is nobody's register."""
        kind, offset, length, payload = op
        register, first = self.world.register, offset // SECTOR
        count = min(length // SECTOR, register.sectors - first)
        if count <= 0:
            return
        numbers = [0] * count
        if kind == OP_WRITE and payload is not None:
            numbers, _ = numbers_of(first, bytes(payload[: count * SECTOR]))
        now_ns = self.world.loop.now_ns
        for sector, number in enumerate(numbers, first):
            yield register.begin(sector, 1, number, now_ns)

    def _compare(self, moment: int, number: int) -> None:
        model = self.world.model
        if number in model.numbers and model.at(number) != model.at(moment):
            self.world.say(f"restored to w{moment}, and at w{number} it is not what it was then")

    async def op_restore_power(self) -> None:
        """The power goes before one of the changes that a restore makes to the disk."""
        machine, left = self.pair.first, [self.chance.randrange(CHANGES_MAX)]

        def before(number: int, what: str) -> None:
            left[0] -= 1
            if left[0] < 0:
                self.crashes.lose(machine, "lost power")

        machine.platter.before_change = before
        await self.op_restore()
        machine.platter.before_change = lambda number, what: None
        await self._again()

    async def op_restore_kill(self) -> None:
        """It is killed within the time that a restore takes."""

        async def killed() -> None:
            await asyncio.sleep(self.chance.delay(0.05))
            self.crashes.lose(self.pair.first, "killed")

        await asyncio.gather(self.op_restore(), killed())
        await self._again()

    async def op_restore_promote(self) -> None:
        """The mirror takes over within the time that a restore takes: with all of it, or with nothing."""

        async def promoted() -> None:
            await asyncio.sleep(self.chance.delay(0.05))
            await self.takeover.op_promote()

        await asyncio.gather(self.op_restore(), promoted())
        await self._again()

    async def op_restore_beside(self) -> None:
        """Moments are named, and names dropped, and points made within the time that a restore takes: nothing of
        that lies within it. Often the power goes meanwhile."""
        machine, over = self.pair.first, asyncio.Event()

        async def restored() -> None:
            try:
                await self.op_restore()
            finally:
                over.set()

        async def meddled() -> None:
            looks = self.inspections
            while not over.is_set():
                await asyncio.sleep(self.chance.delay(0.004))
                await self.chance.choice((self._drop, self._drop, looks.op_snapshot, looks.op_point))()

        async def lost() -> None:
            await asyncio.sleep(self.chance.delay(0.05))
            if self.chance.hit(0.7):
                self.crashes.lose(machine, self.chance.choice(("killed", "lost power")))

        await asyncio.gather(restored(), meddled(), lost())
        await self._again()

    async def _drop(self) -> None:
        """One of the names."""
        if (primary := self.pair.primary) is None:
            return
        names = [each.name for each in primary.volume.snapshots() if not each.holder and not each.branch]
        if names:
            name = self.chance.choice(names)
            self.pair.names.pop(name, None)
            self.pair.dropping.add(name)
            with contextlib.suppress(Ended, RevolumeError):
                await self.pair.first.run(primary.volume.drop_snapshot(name))
                self.pair.dropping.discard(name)

    async def _again(self) -> None:
        if self.pair.primary is None:
            await asyncio.sleep(self.chance.delay(0.3))
            await self.running.start_primary()
