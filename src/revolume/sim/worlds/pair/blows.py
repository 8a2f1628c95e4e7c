"""What falls on either end in the middle of a step, and what is done about it afterwards."""

from __future__ import annotations

import asyncio

from revolume.sim.kernel.machine import Machine
from revolume.sim.kernel.simulated_fs import PAGE
from revolume.sim.worlds.pair.crashes import Crashes
from revolume.sim.worlds.pair.disks import NOTICED_S, DiskFailures
from revolume.sim.worlds.pair.inspections import Inspections
from revolume.sim.worlds.pair.network_faults import NetworkFaults
from revolume.sim.worlds.pair.running import Running
from revolume.sim.worlds.pair.state import PairState
from revolume.sim.worlds.pair.takeover import Takeover
from revolume.sim.worlds.world import KiB

PATIENCE_S = 0.6
CHANGES = (1, 3, 10, 30)
"""So many changes of the disk at most, after which the power goes."""
DISK = ("write_error", "sync_error", "read_error", "helper_lost")


class Blows:
    """``drawn`` chooses one, ``arm`` is called in the middle of the step, ``fall`` when that has been heard of."""

    def __init__(
        self, pair: PairState, running: Running, crashes: Crashes, disks: DiskFailures, network: NetworkFaults,
        takeover: Takeover, inspections: Inspections,
    ) -> None:  # fmt: skip
        self.pair = pair
        self.world = pair.world
        self.fabric = pair.world.fabric
        self.chance = pair.world.chance
        self.running = running
        self.crashes = crashes
        self.disks = disks
        self.network = network
        self.takeover = takeover
        self.inspections = inspections
        self._falls = {
            "": self._nothing, "cut": network.op_cut, "cut_one_way": network.op_cut_one_way,
            "stutter": network.op_stutter, "slow_link": network.op_slow_link,
            "kill_mirror": crashes.op_kill_mirror, "power_mirror": self._powerless, "kill": crashes.op_kill,
            "power": self._powerless, "both": crashes.op_both, "stop": running.op_stop,
            "stop_mirror": running.op_stop_mirror, "promote": takeover.op_promote, "full": self._healed,
            "disk": self._healed, "snapshot": inspections.op_snapshot, "readers": inspections.op_readers,
        }  # fmt: skip
        self._hurt: Machine = pair.second

    def drawn(self) -> str:
        """Its name; "": nothing happens this time."""
        weights = {"": 6, "power_mirror": 5, "disk": 4, "full": 3, "kill_mirror": 3, "promote": 3, "cut": 2}
        names = list(self._falls)
        return self.chance.choices(names, [weights.get(name, 1) for name in names])[0]

    def arm(self, blow: str) -> None:
        """In the middle of the step: what must not wait for the next turn."""
        pair, chance = self.pair, self.chance
        self._hurt = pair.second if chance.hit(0.7) else pair.first
        if blow == "power_mirror":
            self._hurt = pair.second
            self._pull_plug(pair.second)
        elif blow == "power":
            self._hurt = pair.first
            self._pull_plug(pair.first)
        elif blow == "full":
            platter = self._hurt.platter
            platter.capacity = platter.used_pages * PAGE + chance.choice((0, 16, 64, 256)) * KiB
        elif blow == "disk":
            setattr(self._hurt.faults, chance.choice(DISK), chance.choice((0.05, 0.5, 1.0)))

    def _pull_plug(self, machine: Machine) -> None:
        left = [self.chance.randrange(self.chance.choice(CHANGES))]

        def before(number: int, what: str) -> None:
            left[0] -= 1
            if left[0] < 0:
                self.crashes.lose(machine, "lost power")

        machine.platter.before_change = before

    async def fall(self, blow: str) -> None:
        """The rest of it, and what an operator does then."""
        await self._falls[blow]()

    async def _nothing(self) -> None:
        return None

    async def _powerless(self) -> None:
        machine, process = self._hurt, self._hurt.process
        await asyncio.sleep(PATIENCE_S)
        if machine.process is process and process is not None:
            self.crashes.lose(machine, "lost power")
        await asyncio.sleep(self.chance.delay(0.3))
        await self.running.start_mirror() if machine is self.pair.second else await self.running.start_primary()

    async def _healed(self) -> None:
        machine = self._hurt
        await asyncio.sleep(self.chance.delay(1.0))
        machine.faults.quiet()
        machine.platter.capacity = max(machine.platter.capacity, self.world.capacity)
        await asyncio.sleep(NOTICED_S)
        await self.disks.open_broken()
