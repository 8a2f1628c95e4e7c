"""What an operator lets loose on a server: clients that do not do their part, and a good one among them.

Whatever they do is bounded, and the good one's large write is answered within a bounded time.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final

from revolume.host.clock import within
from revolume.nbd.server.server import Server
from revolume.nbd.wire.constants import Command
from revolume.sim.actors.client import Habits, SimClient
from revolume.sim.actors.guests import HELLO, Guest, request
from revolume.sim.actors.service import LIMITS, NBD_PORT
from revolume.sim.checks.served import check_served
from revolume.sim.oracle.sector_payload import SECTOR
from revolume.sim.worlds.world import World

ANSWERED_S: Final = 40.0
"""Within this time a large write is answered: as long as the clients that hold memory may take, one after another,
and some for a disk that is slow."""
_LARGE: Final = 400  # sectors
_POURED: Final = 3000  # requests, more than twice as many as may wait


class Guests:
    """Brings such clients to ``machine``. ``server``: that of the machine, None while there is none."""

    def __init__(self, world: World, machine: str, server: Callable[[], Server | None]) -> None:
        self._world = world
        self._machine = machine
        self._server = server
        self._host = world.client_host()
        self._guests: list[Guest] = []

    async def _come(self, *said: bytes, reads: bool = True) -> None:
        with contextlib.suppress(OSError):
            coming = Guest.come(self._host, f"{self._machine}:{NBD_PORT}", *said, reads=reads)
            self._guests.append(await within(self._host.clock, 5.0, coming))

    def _check(self) -> None:
        if (server := self._server()) is not None:
            self._world.wrong += check_served(server, self._machine)

    def _leave(self) -> None:
        for guest in self._guests:
            guest.leave()
        self._guests.clear()

    async def greedy(self) -> None:
        """Half writes, answers that nobody reads, silence; and a good client's large write."""
        chance = self._world.chance
        most = LIMITS.payload_bytes_max
        half = request(Command.WRITE, 0, most), bytes(chance.randrange(most))
        reads = request(Command.READ, 0, most) * 64
        server = self._server()
        for _ in range(chance.choice((4, 12, 24))):
            await self._come(HELLO, *half)
        for _ in range(chance.choice((0, 4))):
            await self._come(HELLO, reads, reads=False)
        for _ in range(chance.choice((0, LIMITS.strangers_max + 8))):
            await self._come()
        self._check()
        await self._large_write(server)
        self._check()
        self._leave()

    async def _large_write(self, server: Server | None) -> None:
        world, begun = self._world, self._host.clock.monotonic_ns()
        chance = world.chance.stream(f"large {begun}")
        client = SimClient(self._host, "large", world.register, world.orders, chance, Habits(flush=0, fua=0))
        first = chance.randrange(world.register.sectors - _LARGE)
        try:
            await within(self._host.clock, ANSWERED_S, client._change(first, _LARGE, 0.5))
        except TimeoutError:
            if server is not None and self._server() is server:
                world.say(f"a large write was not answered within {ANSWERED_S:.0f} s" + world.state())
        finally:
            if client._client is not None:
                client._client.abort()

    async def endless(self, seconds: float) -> None:
        """Requests without end, of which none needs a payload."""
        offset = self._world.register.sectors * SECTOR
        await self._come(HELLO, request(Command.WRITE_ZEROES, offset, SECTOR) * _POURED)
        for _ in range(4):
            await asyncio.sleep(seconds / 4)
            self._check()
        self._leave()
