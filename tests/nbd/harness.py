"""A server on the memory export over real sockets, in this very loop; and the loop to run it in."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from revolume.host import Host, real_host
from revolume.nbd.bounds.limits import Limits
from revolume.nbd.client import Client
from revolume.nbd.server.server import Server
from revolume.nbd.wire.constants import Dialect
from tests.nbd.memory import Memory, MemoryExports

MiB = 1 << 20


@dataclass
class World:
    """Everything a test wants at hand."""

    host: Host
    memory: Memory
    exports: MemoryExports
    server: Server
    uri: str
    socket: str

    async def client(self, name: str = "vol", *, dialect: Dialect = Dialect.STRUCTURED, contexts=()) -> Client:
        uri = self.uri.replace(":///", f":///{name}", 1)
        return await Client.connect(self.host, uri, dialect=dialect, contexts=contexts)


@asynccontextmanager
async def serving(
    folder: Path,
    *,
    size: int = 16 * MiB,
    limits: Limits | None = None,
    tls: ssl.SSLContext | None = None,
    tls_required: bool = False,
) -> AsyncIterator[World]:
    host, memory = real_host(), Memory(size)
    exports = MemoryExports(memory)
    server = Server(host, exports, limits or Limits(), tls, tls_required)
    path = str(folder / "n.sock")
    try:
        uri = await server.listen(f"unix:{path}")
        yield World(host, memory, exports, server, uri, path)
    finally:
        await server.stop(1.0)
        await host.work.close()


def run(scenario: Callable[[], Awaitable[None]], seconds: float = 100) -> None:
    """Run a scenario in a loop of its own; hanging is failing."""

    async def bounded() -> None:
        async with asyncio.timeout(seconds):
            await scenario()

    asyncio.run(bounded())


async def until(condition: Callable[[], bool]) -> None:
    """Wait, a few turns of the loop at a time, until the condition holds."""
    while not condition():
        await asyncio.sleep(0.002)
