"""An address that is bound before it is served: who comes early waits unheard."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from revolume.errors import RevolumeError
from revolume.nbd.client import Client
from revolume.nbd.wire.errors import Disconnected
from revolume.nbd.wire.uri import parse_uri
from tests.nbd.harness import run, serving
from tests.nbd.raw import Raw


def test_who_comes_early_is_served_once_it_is_opened(folder: Path) -> None:
    async def scenario() -> None:
        async with serving(folder) as world:
            bound = await world.server.bind(f"unix:{folder}/later")
            early = await Raw.dial(f"{folder}/later", greet=False)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(early.take(1), 0.2)
            early.close()
            waiting = asyncio.create_task(Client.connect(world.host, bound.uri.replace(":///", ":///vol")))
            await asyncio.sleep(0.1)
            assert not waiting.done()
            bound.open()
            late = await Client.connect(world.host, bound.uri.replace(":///", ":///vol"))
            for client in (await waiting, late):
                assert await client.read(0, 4096) == bytes(4096)
                await client.close()

    run(scenario)


def test_an_address_that_is_given_back_is_free_again(folder: Path) -> None:
    async def scenario() -> None:
        async with serving(folder) as world:
            bound = await world.server.bind("127.0.0.1:0")
            address = parse_uri(bound.uri).address
            with pytest.raises(RevolumeError, match="in use"):
                await world.server.bind(address)
            waiting = asyncio.create_task(Client.connect(world.host, bound.uri))
            await asyncio.sleep(0.1)
            bound.close()
            with pytest.raises((Disconnected, OSError)):
                await waiting
            (await world.server.bind(address)).open()
            await (await Client.connect(world.host, f"nbd://{address}/vol")).close()

    run(scenario)
