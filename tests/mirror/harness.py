"""Both ends of a link, over real sockets, in one loop; and a raw peer that says what a test wants."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from revolume.host import Host, real_host
from revolume.host.network import Wire
from revolume.host.tls import client_context, server_context
from revolume.mirror.source.mirror_source import MirrorSource
from revolume.mirror.target.target import Target
from revolume.mirror.wire.frames import CHECK_SIZE, FRAME, FRAME_SIZE, Type
from tests.mirror.storage import CopyDirectory, Log, MirrorRecord, Secondary, SourceVolume
from tests.support.pki import make_pki

NODE, OTHER_NODE, TARGET_NODE = b"n" * 16, b"o" * 16, b"t" * 16
TRANSPORTS = ("unix", "tcp", "tcp-tls")


@dataclass
class World:
    """What a scenario has at hand."""

    host: Host
    folder: Path
    transport: str
    log: Log
    origin: SourceVolume
    mirror: MirrorRecord
    shelf: CopyDirectory
    target: Target
    source: MirrorSource
    address: str
    target_told: list[str] = field(default_factory=list)
    source_told: list[str] = field(default_factory=list)

    @property
    def secondary(self) -> Secondary:
        assert self.shelf.secondary is not None
        return self.shelf.secondary

    async def arrived(self, position: int | None = None) -> None:
        """The mirror has acknowledged everything."""
        wanted = self.log.end if position is None else position
        await until(lambda: self.mirror.received >= wanted)

    def same(self) -> bool:
        """The target's log is the source's, byte for byte, from where it begins."""
        skip = self.secondary.log.start.position - self.log.start.position
        ours = [(kept.shared_header, kept.payload) for kept in self.log.kept[skip:]]
        return ours == [(kept.shared_header, kept.payload) for kept in self.secondary.log.kept]


@contextlib.asynccontextmanager
async def world(folder: Path, transport: str = "unix", *, empty: bool = False) -> AsyncIterator[World]:
    """A source and a target; unless ``empty``, the target holds the beginning of the log already. Nothing has
    been started but the target's listener."""
    host = real_host()
    log = Log(folder)
    origin, mirror = SourceVolume(log), MirrorRecord()
    mirror.joined = not empty
    shelf = CopyDirectory(folder, None if empty else Secondary(folder, log.start))
    told: tuple[list[str], list[str]] = [], []
    server = client = None
    if transport.endswith("tls"):
        pki = make_pki(folder / "pki")
        server = server_context(str(pki), True, only_tls13=True)
        client = client_context(str(pki), only_tls13=True)
    target = Target(host, shelf, server, told[0].append)
    asked = f"unix:{folder}/m.sock" if transport == "unix" else "127.0.0.1:0"
    (address,) = await target.listen(asked)
    source = MirrorSource(host, origin, mirror, address, NODE, client, told[1].append)
    made = World(host, folder, transport, log, origin, mirror, shelf, target, source, address, *told)
    try:
        yield made
    finally:
        await source.stop()
        await target.stop()
        await host.work.close()


def run(scenario: Callable[[], Awaitable[None]], seconds: float = 100) -> None:
    """In a loop of its own; hanging is failing."""

    async def bounded() -> None:
        async with asyncio.timeout(seconds):
            await scenario()

    asyncio.run(bounded())


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.002)


class Raw:
    """A peer that sends bytes and collects frames."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.data = bytearray()
        self.ended = asyncio.Event()
        self.error: Exception | None = None
        self._buffer = memoryview(bytearray(1 << 20))
        self._news = asyncio.Event()
        wire.start(self)

    @classmethod
    async def connect(cls, world: World) -> Raw:
        return cls(await world.host.network.connect(world.address))

    def buffer(self) -> memoryview:
        return self._buffer

    def received(self, n: int) -> None:
        self.data += self._buffer[:n]
        self._news.set()

    def writable(self) -> None: ...

    def closed(self, error: Exception | None) -> None:
        self.error = error
        self.ended.set()
        self._news.set()

    def send(self, *frames: bytes) -> None:
        self.wire.send([b"".join(frames)])

    async def frame(self) -> tuple[int, int, memoryview]:
        """(type, session, body without checksum) of the next frame that is no PING."""
        while True:
            kind, session, body = await self._frame()
            if kind != Type.PING:
                return kind, session, body

    async def _frame(self) -> tuple[int, int, memoryview]:
        while True:
            if len(self.data) >= FRAME_SIZE:
                length, kind, _, _, session = FRAME.unpack_from(self.data)
                if len(self.data) >= FRAME_SIZE + length:
                    body = bytes(self.data[FRAME_SIZE : FRAME_SIZE + length])
                    del self.data[: FRAME_SIZE + length]
                    plain = kind in (Type.LOG, Type.LOG_WIDE)
                    return kind, session, memoryview(body if plain else body[:-CHECK_SIZE])
            assert not self.ended.is_set(), f"it ended: {self.error}"
            self._news.clear()
            await self._news.wait()
