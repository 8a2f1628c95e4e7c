"""A client of a volume, as a guest's disk driver is one: several requests at once, and when the connection ends, a
new one and everything again that was not answered. It goes by what it was answered, and writes it all down.

Its operations lie anywhere, in sectors; the last stretch of the volume is for odd bytes, which only the model
knows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from revolume.host import Host
from revolume.host.clock import within
from revolume.nbd.client import Client
from revolume.nbd.wire.constants import Errno
from revolume.nbd.wire.errors import Disconnected, ExportError, ProtocolError
from revolume.sim.kernel.chance import Chance
from revolume.sim.oracle.sector_history import SectorHistory, Written
from revolume.sim.oracle.sector_payload import SECTOR, made

ODD_BYTES = 16 << 10
RETRY_S = 0.2
PATIENCE_S = 60.0


@dataclass(slots=True)
class Counts:
    """What clients did."""

    answered: int = 0
    failed: int = 0
    connections: int = 0
    numbers: int = 0


@dataclass(slots=True)
class Habits:
    """How this client works."""

    depth: int = 4
    burst: int = 1
    """Requests that it makes at once, as a queue that was held up does."""
    think_s: float = 0.01
    sectors_max: int = 64
    flush: float = 0.08
    fua: float = 0.08
    hot: int = 0
    """Sectors in which most of its work lies; 0: anywhere."""


@dataclass(slots=True)
class Orders:
    """What all clients are told: where to go, and whether to go on."""

    uri: str
    stop: bool = False
    paused: bool = False
    enough: int = 1 << 30
    """Answers after which they take their time."""
    holders: Callable[[int], tuple[str, ...]] = lambda start_ns: ()
    counts: Counts = field(default_factory=Counts)

    def busy(self) -> None:
        """Nobody is tired for a while."""
        self.enough = max(self.enough, self.counts.answered + 300)


class SimClient:
    """One client, which asks the volume at ``orders.uri`` for reads and changes until it is told to stop."""

    def __init__(
        self, host: Host, name: str, register: SectorHistory, orders: Orders, chance: Chance, habits: Habits
    ) -> None:
        self._host = host
        self._name = name
        self._register = register
        self._orders = orders
        self._chance = chance
        self._habits = habits
        self._client: Client | None = None
        self._connecting = asyncio.Lock()
        self._asked_ns: dict[int, int] = {}
        """When each request that is under way was made, oldest first."""
        self._requests = 0

    async def run(self) -> None:
        """Until the order comes to stop, and everything is answered."""
        watch = asyncio.ensure_future(self._watch())
        await asyncio.gather(*(self._work() for _ in range(self._habits.depth)))
        watch.cancel()
        if self._client is not None:
            await self._client.close()

    async def _work(self) -> None:
        while not self._orders.stop:
            tired = 60 if self._orders.counts.answered > self._orders.enough else 1
            await asyncio.sleep(self._chance.delay(self._habits.think_s * tired))
            if not self._orders.paused and not self._orders.stop:
                burst = self._habits.burst
                await (self._one() if burst == 1 else asyncio.gather(*(self._one() for _ in range(burst))))

    async def _watch(self) -> None:
        """A connection on which a request waits for too long is given up, as drivers do."""
        clock = self._host.clock
        while True:
            await clock.sleep(PATIENCE_S / 12)
            oldest = next(iter(self._asked_ns.values()), None)
            if oldest is not None and clock.monotonic_ns() - oldest > PATIENCE_S * 1e9 and self._client:
                self._forget(self._client)

    async def _one(self) -> None:
        draw = self._chance.random()
        if draw < self._habits.flush:
            await self._flush()
        elif draw < 0.25:
            await self._read(*self._place())
        elif draw < 0.30:
            await self._odd()
        else:
            await self._change(*self._place(), draw)

    def _place(self) -> tuple[int, int]:
        """(first sector, count)."""
        chance, register = self._chance, self._register
        count = min(int(2 ** chance.uniform(0, 7)), self._habits.sectors_max)
        room = self._habits.hot if self._habits.hot and chance.hit(0.8) else register.sectors
        first = chance.randrange(max(1, room - count + 1))
        if chance.hit(0.5):
            first, count = first & ~7, min((count + 7) & ~7, self._habits.sectors_max)
        return first, min(count, register.sectors - first)

    async def _flush(self) -> None:
        since = self._register.tick()
        if await self._insist(lambda client: client.flush()):
            self._register.flushed(since)

    async def _read(self, first: int, count: int) -> None:
        start, found = self._register.tick(), bytearray()

        async def once(client: Client) -> None:
            nonlocal found
            found = await client.read(first * SECTOR, count * SECTOR)

        if await self._insist(once):
            self._register.read(first, found, start, self._name)

    async def _odd(self) -> None:
        """Bytes as they come, in their own place; nobody's register."""
        begin = self._register.sectors * SECTOR
        offset = self._chance.randrange(ODD_BYTES - 1)
        data = self._chance.randbytes(self._chance.randrange(1, min(ODD_BYTES - offset, 6000) + 1))
        await self._insist(lambda client: client.write(begin + offset, data))

    async def _change(self, first: int, count: int, draw: float) -> None:
        fua = self._chance.hit(self._habits.fua)
        counts, register = self._orders.counts, self._register
        offset, length = first * SECTOR, count * SECTOR
        counts.numbers += 1
        number = counts.numbers if draw < 0.9 else 0
        data = made(first, count, number) if number else b""
        written = register.begin(first, count, number, self._host.clock.monotonic_ns())

        async def once(client: Client) -> None:
            if number:
                await client.write(offset, data, fua=fua)
            elif draw < 0.95:
                await client.zero(offset, length, fua=fua)
            else:
                await client.trim(offset, length, fua=fua)

        if await self._insist(once):
            self._told(written, fua)

    def _told(self, written: Written, fua: bool) -> None:
        self._register.answered(written, fua, self._orders.holders(written.start_ns))

    async def _insist(self, once: Callable[[Client], Awaitable[None]]) -> bool:
        """Until it is answered: True; False: with an error, so nobody knows whether it was done."""
        while True:
            client = await self._connected()
            if client is None:
                return False
            self._requests += 1
            request = self._requests
            self._asked_ns[request] = self._host.clock.monotonic_ns()
            try:
                await once(client)
                self._orders.counts.answered += 1
                return True
            except Disconnected:
                self._forget(client)
            except ExportError as error:
                if error.errno != Errno.ESHUTDOWN:
                    self._orders.counts.failed += 1
                    return False
                self._forget(client)
            finally:
                del self._asked_ns[request]

    def _forget(self, client: Client) -> None:
        client.abort()
        if self._client is client:
            self._client = None

    async def _connected(self) -> Client | None:
        """The connection, or a new one as soon as there can be one; None: there need be none any more."""
        async with self._connecting:
            while self._client is None:
                if self._orders.stop and self._orders.paused:
                    return None
                try:
                    self._client = await within(
                        self._host.clock, 15.0, Client.connect(self._host, self._orders.uri)
                    )
                    self._orders.counts.connections += 1
                except (Disconnected, ExportError, ProtocolError, TimeoutError, OSError):
                    await asyncio.sleep(self._chance.delay(RETRY_S))
            return self._client
