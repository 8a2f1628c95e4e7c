"""The network: everything that may happen on the wires between the two, and between them and their clients."""

from __future__ import annotations

import asyncio

from revolume.sim.worlds.guests import Guests
from revolume.sim.worlds.pair.state import PairState


class NetworkFaults:
    """Cuts, slows and bends the paths between machines."""

    def __init__(self, pair: PairState) -> None:
        self.pair = pair
        self.world = pair.world
        self.fabric = pair.world.fabric
        self.chance = pair.world.chance

    async def op_cut(self) -> None:
        """The link between the two is cut, for a moment or for long."""
        self.fabric.partition([["a"], ["b"]])
        await asyncio.sleep(self.chance.choice((0.05, 1.0, 8.0, 45.0)))
        await self.pair.heal()

    async def op_cut_one_way(self) -> None:
        """In one direction only."""
        way = self.chance.choice((("a", "b"), ("b", "a")))
        self.fabric.cut(*way)
        await asyncio.sleep(self.chance.choice((0.3, 3.0, 20.0)))
        await self.pair.heal()

    async def op_stutter(self) -> None:
        """One way of any path fails several times in a row, for a moment each time."""
        for _ in range(self.chance.randrange(3, 9)):
            way = self.chance.choice((("a", "b"), ("b", "a"), ("a", "c"), ("c", "a"), ("b", "c"), ("c", "b")))
            self.fabric.cut(*way)
            await asyncio.sleep(self.chance.delay(0.05))
            self.fabric.heal(*way)
            await asyncio.sleep(self.chance.delay(0.1))

    async def op_partition(self) -> None:
        """Two see each other and the third sees nobody, or nobody sees anybody."""
        self.fabric.partition(self.chance.choice((
            [["a"], ["b", "c"]], [["b"], ["a", "c"]], [["c"], ["a", "b"]], [["a"], ["b"], ["c"]],
        )))  # fmt: skip
        await asyncio.sleep(self.chance.choice((0.3, 2.0, 12.0)))
        await self.pair.heal()

    async def op_endless(self) -> None:
        """The mirror is away, so answers may wait; clients go on asking."""
        pair = self.pair
        self.fabric.partition([["a", "c"], ["b"]] if pair.first.name == "a" else [["b", "c"], ["a"]])
        guests = Guests(self.world, pair.first.name, lambda: None if pair.primary is None else pair.primary.server)
        await guests.endless(self.chance.choice((2.0, 8.0)))
        await pair.heal()

    async def op_slow_link(self) -> None:
        """A long thin line."""
        for way in (("a", "b"), ("b", "a")):
            path = self.fabric.path(*way)
            path.latency_s, path.bytes_per_s = self.chance.choice((0.01, 0.2)), self.chance.choice((2e5, 2e6))
        await asyncio.sleep(self.chance.delay(3.0))
        await self.pair.heal()

    async def op_bend(self) -> None:
        """Bytes are bent on their way to the mirror and back."""
        for way in (("a", "b"), ("b", "a")):
            self.fabric.path(*way).bent = 0.02
        await asyncio.sleep(self.chance.delay(2.0))
        await self.pair.heal()
