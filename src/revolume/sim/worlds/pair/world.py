"""A primary and a mirror, with everything that may happen to two machines and the network between them.

It is built in storeys, a noun each: the two machines and what is promised (``ground``), how services are started
and stopped (``running``), ``blows``, ``disks`` that fail, the ``link``, the ``advice`` of refusals, logs that part
(``parting``), ``bases`` under way, ``intruders``, who takes over (``takeover``), and ``strangers`` in the mirror's
place. Each may use what lies below it. Here is how it all begins and ends, and what an operator does when he is
only looking.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Coroutine
from typing import Any

from revolume.errors import NotFound, RevolumeError
from revolume.history.exports import VolumeExports
from revolume.sim.checks.bounded import check_bounded
from revolume.sim.checks.clean import check_clean
from revolume.sim.checks.equal import check_equal
from revolume.sim.checks.moments import check_moments
from revolume.sim.checks.salvaged import check_salvaged
from revolume.sim.machine import Ended
from revolume.sim.worlds.pair.strangers import PairStrangers
from revolume.volume.volume import Volume


class PairWorld(PairStrangers):
    """See the module's text."""

    name = "pair"
    steps = 9

    def operations(self) -> dict[str, int]:
        return {
            "kill": 2, "power": 3, "stop": 1, "kill_mirror": 3, "power_mirror": 3, "stop_mirror": 1, "cut": 3,
            "cut_one_way": 1, "slow_link": 1, "moments": 2, "snapshot": 1, "point": 2, "slow": 1, "promote": 2,
            "both": 1, "wipe_mirror": 1, "half_base": 2, "bend": 1, "clock": 1, "stutter": 4, "partition": 1,
            "mode": 1, "replay": 2, "stale": 1, "copy": 1, "cut_off_power": 2, "write_error": 2, "sync_error": 2,
            "read_error": 2, "full": 1, "helper": 1, "readers": 2, "endless": 1,
            "stranger": 2, "replace": 1, "older": 1,
        }  # fmt: skip

    # Life

    async def begin(self) -> None:
        self.orders.holders = self.holders
        self._overhear()
        await self.start_mirror()
        await self.start_primary()
        self.start_clients(self.chance.choice((1, 2)))

    async def end(self) -> None:
        for machine in self.machines.values():
            machine.faults.quiet()
        await self._heal()
        await self._all_up()
        await self._open_broken()
        await self._all_up()
        if self._no_room(0):  # answers may wait for a mirror that has none
            await self._more_room()
        await self.rest()
        if self._was_told("its budget is used up", 0):
            self.say("a mirror held its source up for its budget's sake" + self.state())
        await self.readers.leave()
        await self._advised()
        await self._judge()
        await self.op_stop_mirror(start=False)
        await self._stop_primary()
        for machine in (self.first, self.second):
            platter, who = machine.platter, f"{machine.name} at the end"
            self.wrong += check_clean(machine, platter, who)
            self.wrong += check_salvaged(machine, platter, self.model, who, bare=True, floor=self.model.newest)

    async def _judge(self) -> None:
        """Both sides come to the same point, with the same root, and each holds its past."""
        primary = self.primary
        assert primary is not None
        content = await self.first.run(primary.content())
        if found := self.model.differs(self.model.newest, content):
            self.say(f"at the end: live, {found}")
        self.register.read(0, content[: self.register.sectors * 512], self.register.tick(), "at the end")
        with contextlib.suppress(NotFound):
            await self.first.run(primary.volume.cut())
        if await self.patiently("the mirror has everything", self._caught_up, 120):
            assert self.mirror is not None
            assert self.mirror.secondary is not None
            self.wrong += check_equal(primary.volume, self.mirror.secondary)
            self.wrong += await self.second.run(
                check_moments(self.mirror.secondary, self.model, self.chance, "mirror", 6, self._agreed())
            )
        self.wrong += await self.first.run(check_moments(primary.volume, self.model, self.chance, "primary", 6))

    # Looking, and small things

    async def op_moments(self) -> None:
        """Either side's past."""
        primary, mirror = self.primary, self.mirror
        with contextlib.suppress(Ended):
            if primary is not None:
                self.wrong += check_bounded(primary, self.first.name)
                self.wrong += await self.first.run(
                    check_moments(primary.volume, self.model, self.chance, self.first.name, 2, self.model.newest)
                )
        there = mirror.secondary if mirror is not None else None
        if there is not None and there.base is None:
            with contextlib.suppress(Ended):
                self.wrong += await self.second.run(
                    check_moments(there, self.model, self.chance, "the mirror", 2, there.agreed.write)
                )

    async def op_readers(self) -> None:
        """Views and overlays of either side, kept for a while: a view at the mirror must not stop its primary."""
        there = self.mirror.secondary if self.mirror is not None else None
        if there is not None and there.base is None and self.chance.hit(0.5):
            self.read_the_past(self.second, VolumeExports(there, None))
        elif self.primary is not None:
            self.read_the_past(self.first, self.primary.role.exports_now())

    async def op_snapshot(self) -> None:
        """Name this moment, here and there."""
        if self.primary is None:
            return
        with contextlib.suppress(Ended, RevolumeError):
            named = await self.first.run(self.primary.volume.snapshot(f"s{self.loop.now_ns}"))
            self.names[named.name] = named.write

    async def op_point(self) -> None:
        """A point now."""
        await self._asks(lambda volume: volume.cut())

    async def _asks(self, what: Callable[[Volume], Coroutine[Any, Any, object]]) -> None:
        if self.primary is not None:
            with contextlib.suppress(Ended, RevolumeError):
                await self.first.run(what(self.primary.volume))

    async def op_clock(self) -> None:
        """Somebody sets one of the clocks."""
        hours = self.chance.choice((-87600.0, -48.0, -1.0, 1.0, 48.0, 87600.0))
        self._either().clock.offset_ns += int(hours * 3600e9)
