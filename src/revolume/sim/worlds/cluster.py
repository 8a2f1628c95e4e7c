"""Two to five copies, and a network that falls apart in every way: into any two parts, in one direction only, link
after link; and machines that stand still for a while.

What a copy must be and what must be refused is as in ``trio``.
"""

from __future__ import annotations

import asyncio
from typing import Final

from revolume.sim.kernel.chance import Chance
from revolume.sim.worlds.trio import TrioWorld

ALL: Final = ("a", "b", "d", "e", "f")
CLIENT: Final = "c"
APART_S: Final = (0.3, 2.0, 12.0)


class ClusterWorld(TrioWorld):
    """One life of so many copies as its seed says."""

    name = "cluster"
    steps = 5

    def draw_names(self, chance: Chance) -> tuple[str, ...]:
        return ALL[: chance.randrange(2, len(ALL) + 1)]

    async def begin(self) -> None:
        self.happened[f"- {len(self.names)} copies"] = 1
        await super().begin()

    def operations(self) -> dict[str, int]:
        return {
            **super().operations(), "bipartition": 5, "one_way": 3, "swizzle": 3, "pause": 4,
        }  # fmt: skip

    def _busy(self) -> None:
        """Clients have more to do, so that there is something to bring on afterwards."""
        self.orders.enough = max(self.orders.enough, self.orders.counts.answered + self.busy)

    async def op_bipartition(self) -> None:
        """Two parts of the cluster do not reach each other; the clients are in either."""
        everybody = [*self.names, CLIENT]
        one = self.chance.sample(everybody, self.chance.randrange(1, len(everybody)))
        self.fabric.partition([one, [name for name in everybody if name not in one]])
        self._busy()
        await asyncio.sleep(self.chance.choice(APART_S))
        if self.chance.hit(0.3):
            await self.op_promote()
        self.fabric.partition([everybody])

    async def op_one_way(self) -> None:
        """What one machine sends to another does not arrive; the other way all is well."""
        one, other = self.chance.sample(self.names, 2)
        self.fabric.cut(one, other)
        self._busy()
        await asyncio.sleep(self.chance.choice(APART_S))
        self.fabric.heal(one, other)

    async def op_swizzle(self) -> None:
        """Links fail one after the other, and come back in another order."""
        links = [(one, other) for one in self.names for other in self.names if one < other]
        failing = self.chance.sample(links, self.chance.randrange(1, len(links) + 1))
        for one, other in failing:
            self.fabric.cut(one, other)
            self.fabric.cut(other, one)
            await asyncio.sleep(self.chance.delay(0.5))
        self._busy()
        for one, other in self.chance.sample(failing, len(failing)):
            await asyncio.sleep(self.chance.delay(0.5))
            self.fabric.heal(one, other)
            await asyncio.sleep(self.chance.delay(0.2))
            self.fabric.heal(other, one)

    async def op_pause(self) -> None:
        """A node stands still, and goes on."""
        machine = self.machines[self.chance.choice(self.names)]
        if machine.process is None:
            return
        machine.pause()
        self._busy()
        await asyncio.sleep(self.chance.choice(APART_S))
        machine.resume()
