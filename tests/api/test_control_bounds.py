"""What a client may cost the control socket, over the real socket."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from revolume.api.app import application
from revolume.api.bounds import ControlLimits
from revolume.api.control import AdminApi
from revolume.api.server import ControlServer
from tests.support.memory_volume import MemoryVolume

LITTLE = ControlLimits(body_bytes_max=4096, connections_max=4, request_seconds=1.0)
STATUS = b"GET /v1/status HTTP/1.1\r\nHost: v\r\n\r\n"
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def served(folder: Path, scenario: Callable[[], Awaitable[None]]) -> None:
    async def run() -> None:
        volume = MemoryVolume()
        server = ControlServer(str(folder), application(AdminApi(volume, volume.resolve)), LITTLE)
        await server.start()
        try:
            async with asyncio.timeout(60):
                await scenario()
        finally:
            await server.stop()

    asyncio.run(run())


async def dial(folder: Path) -> Streams:
    return await asyncio.open_unix_connection(f"{folder}/control.sock")


async def status_of(streams: Streams, request: bytes) -> int:
    """The status of the answer; 0: closed without one."""
    try:
        streams[1].write(request)
        line = await streams[0].readline()
    except ConnectionError:
        return 0
    return int(line.split()[1]) if line else 0


def post(length: int, body: bytes) -> bytes:
    return (
        b"POST /v1/snapshots HTTP/1.1\r\nHost: v\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n" % length
    ) + body


def test_a_body_has_a_size_and_a_time(folder: Path) -> None:
    async def scenario() -> None:
        assert await status_of(await dial(folder), post(15, b'{"name": "one"}')) == 201
        assert await status_of(await dial(folder), post(1 << 30, bytes(1 << 16))) == 413
        chunked = b"POST /v1/snapshots HTTP/1.1\r\nHost: v\r\nTransfer-Encoding: chunked\r\n\r\n"
        endless = await dial(folder)
        endless[1].write(chunked + (b"1000\r\n" + bytes(4096) + b"\r\n") * 8)
        assert await status_of(endless, b"") == 413
        assert await status_of(await dial(folder), post(15, b'{"name": ')) == 408
        assert await status_of(await dial(folder), STATUS) == 200

    served(folder, scenario)


def test_a_head_has_a_time(folder: Path) -> None:
    async def scenario() -> None:
        silent, half, second = [await dial(folder) for _ in range(3)]
        half[1].write(STATUS[:20])
        assert await status_of(second, STATUS) == 200
        second[1].write(STATUS[:20])
        for reader, _ in (silent, half, second):
            async with asyncio.timeout(60):
                await reader.read(1 << 20)
                assert await reader.read(1) == b""
        assert await status_of(await dial(folder), STATUS) == 200

    served(folder, scenario)


def test_silent_connections_give_way(folder: Path) -> None:
    async def scenario() -> None:
        silent = [await dial(folder) for _ in range(50)]
        assert await status_of(await dial(folder), STATUS) == 200
        for _, writer in silent:
            writer.close()

    served(folder, scenario)
