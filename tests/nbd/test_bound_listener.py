"""An address that is bound before it is served: who comes early waits unheard."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from revolume.errors import RevolumeError
from revolume.nbd.client import Client
from revolume.nbd.errors import Disconnected
from revolume.nbd.uri import parse_uri
from tests.nbd.harness import run, serving
from tests.nbd.raw import Raw


def test_who_comes_early_is_served_once_it_is_opened(folder: Path) -> None:
    async def scenario() -> None:
        async with serving(folder) as world:
            reserved = await world.server.reserve(f"unix:{folder}/later")
            early = await Raw.dial(f"{folder}/later", greet=False)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(early.take(1), 0.2)
            early.close()
            waiting = asyncio.create_task(Client.connect(world.host, reserved.uri.replace(":///", ":///vol")))
            await asyncio.sleep(0.1)
            assert not waiting.done()
            reserved.open()
            late = await Client.connect(world.host, reserved.uri.replace(":///", ":///vol"))
            for client in (await waiting, late):
                assert await client.read(0, 4096) == bytes(4096)
                await client.close()

    run(scenario)


def test_an_address_that_is_given_back_is_free_again(folder: Path) -> None:
    async def scenario() -> None:
        async with serving(folder) as world:
            reserved = await world.server.reserve("127.0.0.1:0")
            address = parse_uri(reserved.uri).address
            with pytest.raises(RevolumeError, match="in use"):
                await world.server.reserve(address)
            waiting = asyncio.create_task(Client.connect(world.host, reserved.uri))
            await asyncio.sleep(0.1)
            reserved.close()
            with pytest.raises((Disconnected, OSError)):
                await waiting
            (await world.server.reserve(address)).open()
            await (await Client.connect(world.host, f"nbd://{address}/vol")).close()

    run(scenario)
