"""Connections without an export yet take nobody's place; what LIST shows, and what may be asked of it."""

from __future__ import annotations

import asyncio
import struct
from pathlib import Path

from revolume.nbd.bounds.limits import Limits
from revolume.nbd.wire import options
from revolume.nbd.wire.constants import Option, Reply
from tests.nbd.harness import World, run, serving, until
from tests.nbd.raw import FLUSH, Raw, request


def port(world: World) -> int:
    return int(world.server._listeners[-1].addresses[0].rpartition(":")[2])


async def dial_tcp(world: World) -> Raw:
    raw = Raw(*await asyncio.open_connection("127.0.0.1", port(world)))
    assert await raw.take(18) == b"NBDMAGICIHAVEOPT\0\3"
    raw.say(struct.pack(">I", 3))
    return raw


async def go(raw: Raw) -> None:
    raw.say(options.export_request(Option.GO, "vol", []))
    assert await raw.answers() == [Reply.INFO, Reply.ACK]


def test_strangers_take_no_clients_place_and_the_silent_ones_go(folder: Path):
    async def scenario():
        async with serving(folder, limits=Limits(connections_max=3, strangers_max=20)) as world:
            await world.server.listen("127.0.0.1:0")
            strangers = [await dial_tcp(world) for _ in range(50)]
            assert await strangers[0].rest() == b""
            await until(lambda: len(world.server.connections()) == 20)
            clients = [await dial_tcp(world), await Raw.dial(world.socket)]
            for raw in clients:
                await go(raw)
                raw.say(request(FLUSH, 1))
                assert await raw.simple() == (1, 0, b"")
            assert len(world.server.connections()) <= 22
            assert world.server.refusals.counts["stranger"] >= 30
            for raw in [*strangers, *clients]:
                raw.close()

    run(scenario)


def test_who_is_in_the_middle_of_its_handshake_stays(folder: Path):
    async def scenario():
        async with serving(folder, limits=Limits(strangers_max=4)) as world:
            await world.server.listen("127.0.0.1:0")
            busy, silent = await dial_tcp(world), [await dial_tcp(world) for _ in range(3)]
            await asyncio.sleep(1.1)
            busy.say(options.request(Option.LIST))
            assert await busy.answers() == [Reply.SERVER, Reply.SERVER, Reply.ACK]
            more = [await dial_tcp(world) for _ in range(3)]
            await go(busy)
            for raw in silent:
                assert await raw.rest() == b""
            for raw in [busy, *more]:
                raw.close()

    run(scenario)


def test_places_are_kept_for_unix_sockets(folder: Path):
    async def scenario():
        async with serving(folder, limits=Limits(connections_max=2, local_reserve=1)) as world:
            await world.server.listen("127.0.0.1:0")
            remote = [await dial_tcp(world) for _ in range(3)]
            for raw in remote[:2]:
                await go(raw)
            remote[2].say(options.export_request(Option.GO, "vol", []))
            assert await remote[2].rest() == b"", "refused without a word, so that it tries again"
            local = await Raw.open(world.socket)
            remote[0].close()
            await until(lambda: len(world.server.connections()) == 2)
            for raw in [*remote, local]:
                raw.close()

    run(scenario)


def many_exports(world: World, count: int) -> None:
    world.exports.names = lambda: [(f"vol@s{n}", "a snapshot") for n in range(count)]  # type: ignore[method-assign]


def test_a_client_may_ask_about_every_export_that_was_listed(folder: Path):
    async def scenario():
        async with serving(folder) as world:
            many_exports(world, 100)
            raw = await Raw.dial(world.socket)
            raw.say(options.request(Option.STRUCTURED_REPLY), options.request(Option.LIST))
            assert await raw.answers() == [Reply.ACK]
            assert len(await raw.answers()) == 101
            for _ in range(100):
                raw.say(options.export_request(Option.INFO, "vol", []))
                raw.say(options.context_request(Option.LIST_META_CONTEXT, "vol", []))
                assert await raw.answers() == [Reply.INFO, Reply.ACK]
                assert (await raw.answers())[-1] == Reply.ACK
            raw.say(options.request(99) * 300)
            assert len(await raw.rest()) < 300 * 60, "but not without end"

    run(scenario)


def test_a_list_that_is_too_long_does_not_end_as_if_it_were_whole(folder: Path):
    async def scenario():
        async with serving(folder, limits=Limits(exports_listed_max=50)) as world:
            many_exports(world, 51)
            raw = await Raw.dial(world.socket)
            raw.say(options.request(Option.LIST))
            assert await raw.answers() == [Reply.SERVER] * 50 + [Reply.ERR_TOO_BIG]
            many_exports(world, 50)
            raw.say(options.request(Option.LIST))
            assert await raw.answers() == [Reply.SERVER] * 50 + [Reply.ACK]
            raw.close()

    run(scenario)


def test_lists_that_nobody_reads_are_not_made(folder: Path):
    async def scenario():
        async with serving(folder) as world:
            many_exports(world, 10_000)
            raw = await Raw.dial(world.socket)
            raw.reader._transport.pause_reading()
            raw.say(options.request(Option.LIST) * 200)
            session = next(iter(world.server._sessions))
            await until(lambda: session._negotiation._handshake.count >= 5)
            await asyncio.sleep(0.1)
            assert session._wire.backlog < 2 << 20
            raw.close()

    run(scenario)
