"""All connections together: limits that hold whatever a client does, TLS, the end."""

from __future__ import annotations

import asyncio
import random
import ssl
import struct
from pathlib import Path

import pytest

from revolume.host.tls import client_context, server_context
from revolume.nbd.bounds.limits import Limits, OptionLimits
from revolume.nbd.client import Client
from revolume.nbd.wire import options
from revolume.nbd.wire.constants import OPTION_MAGIC, Errno, Option, Reply
from revolume.nbd.wire.errors import Disconnected, ExportError
from tests.nbd.harness import MiB, run, serving, until
from tests.nbd.raw import FLUSH, READ, WRITE, Raw, request, write


async def is_closed(raw: Raw) -> bool:
    return await raw.rest() == b""


# --- limits ----------------------------------------------------------------------------------------------


def test_a_client_that_says_nothing_is_not_kept(folder: Path):
    async def scenario():
        async with serving(folder, limits=Limits(handshake_seconds=1.0)) as world:
            silent = await Raw.dial(world.socket, greet=False)
            drip = await Raw.dial(world.socket)
            drip.say(options.OPTION_HEADER.pack(OPTION_MAGIC, Option.GO, 1 << 30))
            working = await Raw.open(world.socket)
            await silent.take(18)
            for _ in range(50):
                drip.say(bytes(100))
                await asyncio.sleep(0.03)
            assert await silent.rest() == b""
            await drip.rest()
            working.say(request(FLUSH, 1))
            assert await working.simple() == (1, 0, b"")
            working.close()

    run(scenario)


def test_the_time_that_opening_takes_is_not_the_clients(folder: Path):
    async def scenario():
        async with serving(folder, limits=Limits(handshake_seconds=0.5)) as world:
            world.exports.opening = asyncio.Event()
            raw = await Raw.dial(world.socket)
            raw.say(options.export_request(Option.GO, "vol", []))
            await asyncio.sleep(0.8)
            world.exports.opening.set()
            assert await raw.answers() == [Reply.INFO, Reply.ACK]
            raw.close()

    run(scenario)


def test_only_so_many_connections(folder: Path):
    async def scenario():
        async with serving(folder, limits=Limits(connections_max=2, local_reserve=1)) as world:
            three = [await Raw.open(world.socket) for _ in range(3)]
            fourth = await Raw.dial(world.socket)
            fourth.say(options.request(Option.LIST), options.export_request(Option.GO, "vol", []))
            assert await fourth.answers() == [Reply.SERVER, Reply.SERVER, Reply.ACK], "who only asks is told"
            assert await is_closed(fourth)
            three[0].close()
            await until(lambda: len(world.server.connections()) == 2)
            again = await Raw.open(world.socket)
            for raw in (*three, again):
                raw.close()

    run(scenario)


def test_only_so_many_options(folder: Path):
    async def scenario():
        async with serving(folder, limits=Limits(options=OptionLimits(options_max=5))) as world:
            raw = await Raw.dial(world.socket)
            raw.say(options.request(99) * 6)
            for _ in range(5):
                assert await raw.answers() == [Reply.ERR_UNSUP]
            assert await is_closed(raw)

    run(scenario)


def test_garbage_instead_of_a_greeting_closes(folder: Path):
    async def scenario():
        async with serving(folder) as world:
            for data in (
                b"GET / HTTP/1.1\r\n\r\n",
                struct.pack(">I", 0xFFFFFFFF),
                struct.pack(">I", 3) + b"x" * 16,
            ):
                raw = await Raw.dial(world.socket, greet=False)
                await raw.take(18)
                raw.say(data)
                assert await is_closed(raw)

    run(scenario)


def test_a_client_that_does_not_read_costs_bounded_memory_and_stops_nobody(folder: Path):
    limits = Limits(inflight_bytes=96 * MiB, connection_bytes=80 * MiB)

    async def scenario():
        async with serving(folder, limits=limits) as world:
            greedy = await Raw.open(world.socket)
            greedy.reader._transport.pause_reading()
            greedy.say(*[request(READ, n, 0, MiB) for n in range(2000)])
            session = next(iter(world.server._sessions))
            await until(lambda: session._transmission.paused)
            assert session._wire.backlog <= limits.backlog_bytes_max + 2 * MiB
            other = await Raw.open(world.socket)
            other.say(request(READ, 1, 0, MiB))
            assert (await other.simple(MiB))[1] == 0
            greedy.reader._transport.resume_reading()
            seen = set()
            for _ in range(2000):
                cookie, errno, _ = await greedy.simple(MiB)
                assert errno == 0
                seen.add(cookie)
            assert len(seen) == 2000
            greedy.close()
            other.close()
            await until(lambda: not world.server._sessions)
            assert world.server._budget.used_bytes == 0

    run(scenario, 60)


def test_large_requests_of_many_clients_share_one_budget(folder: Path):
    limits = Limits(inflight_bytes=40 * MiB, connection_bytes=36 * MiB, payload_bytes_max=32 * MiB)

    async def scenario():
        async with serving(folder, limits=limits) as world:
            most = 0
            raws = [await Raw.open(world.socket) for _ in range(6)]

            async def one(number: int, raw: Raw) -> None:
                nonlocal most
                for round_ in range(3):
                    raw.say(write(round_, 0, bytes([number]) * (12 * MiB)), request(READ, 100, 0, 12 * MiB))
                    for _ in range(2):
                        cookie, errno, _ = await raw.simple()
                        assert errno == 0
                        if cookie == 100:
                            await raw.take(12 * MiB)
                        most = max(most, world.server._budget.used_bytes)

            await asyncio.gather(*[one(number, raw) for number, raw in enumerate(raws)])
            assert 0 < most <= limits.inflight_bytes + 6 * 13 * MiB
            for raw in raws:
                raw.close()
            await until(lambda: not world.server._sessions)
            assert world.server._budget.used_bytes == 0

    run(scenario, 60)


def test_half_a_large_request_holds_memory_only_while_its_connection_lives(folder: Path):
    limits = Limits(inflight_bytes=70 * MiB, connection_bytes=66 * MiB)

    async def scenario():
        async with serving(folder, limits=limits) as world:
            half = await Raw.open(world.socket)
            half.say(request(WRITE, 1, 0, 60 * MiB), bytes(5 * MiB))
            await until(lambda: world.server._budget.used_bytes > 50 * MiB)
            second = await Raw.open(world.socket)
            second.say(write(1, 0, bytes(15 * MiB)))
            await asyncio.sleep(0.05)
            assert world.server._budget.used_bytes < 62 * MiB
            half.close()
            assert await second.simple() == (1, 0, b"")
            second.close()

    run(scenario)


def test_requests_that_wait_are_bounded(folder: Path):
    async def scenario():
        async with serving(folder, limits=Limits(jobs_max=8)) as world:
            world.memory.cold = {0}
            world.memory.warm.clear()
            raw = await Raw.open(world.socket)
            raw.say(*[request(5, n, 0, 512) + request(READ, 1000 + n, 0, 2 * MiB) for n in range(60)])
            await until(lambda: next(iter(world.server._sessions))._transmission.paused)
            assert len(next(iter(world.server._sessions))._transmission.executor._jobs) <= 8
            world.memory.warm.set()
            for _ in range(120):
                cookie, errno, _ = await raw.simple()
                assert errno == 0
                if cookie >= 1000:
                    await raw.take(2 * MiB)
            raw.close()

    run(scenario)


def test_random_bytes_never_disturb_another_client(folder: Path):
    async def scenario():
        async with serving(folder, limits=Limits(handshake_seconds=1.0)) as world:
            steady = await Raw.open(world.socket)
            chance = random.Random(11)
            for turn in range(150):
                raw = await Raw.dial(world.socket, greet=False)
                noise = [chance.randbytes(chance.randrange(1, 200))]
                if turn % 3 == 1:
                    header = options.OPTION_HEADER.pack(OPTION_MAGIC, chance.randrange(12), len(noise[0]))
                    noise = [struct.pack(">I", 3), header, noise[0]]
                if turn % 3 == 2:
                    noise = [
                        struct.pack(">I", 3) + options.export_request(Option.GO, "vol@then", []),
                        request(chance.randrange(10), 1, chance.getrandbits(64), chance.getrandbits(20), noise[0]),
                    ]
                raw.say(*noise)
                steady.say(write(turn, 4096, struct.pack(">I", turn)))
                assert await steady.simple() == (turn, 0, b"")
                raw.close()
            await until(lambda: len(world.server._sessions) == 1)
            assert world.memory.open == 1
            assert world.server._budget.used_bytes == 0
            steady.close()

    run(scenario)


# --- the status and the end ------------------------------------------------------------------------------


def test_connections_are_shown_as_plain_values(folder: Path):
    async def scenario():
        async with serving(folder) as world:
            raw = await Raw.open(world.socket)
            raw.say(write(1, 0, bytes(4096)), request(READ, 2, 0, 512))
            await raw.simple()
            await raw.simple(512)
            (shown,) = world.server.connections()
            assert (shown.export, shown.requests, shown.in_flight) == ("vol", 2, 0)
            assert shown.received_bytes > 4096
            assert shown.sent_bytes > 512
            assert shown.peer.transport == "unix"
            raw.close()

    run(scenario)


def test_a_stop_finishes_what_is_in_flight(folder: Path):
    async def scenario():
        async with serving(folder) as world:
            world.memory.sync_gate.clear()
            raw = await Raw.open(world.socket)
            idle = await Raw.open(world.socket)
            raw.say(write(1, 0, b"x", flags=1))
            await until(lambda: world.memory.appends == [1])
            stopping = asyncio.ensure_future(world.server.stop(5.0))
            await asyncio.sleep(0.02)
            raw.say(request(FLUSH, 2))
            assert await raw.simple() == (2, Errno.ESHUTDOWN, b"")
            world.memory.sync_gate.set()
            assert await raw.simple() == (1, 0, b"")
            await stopping
            assert await raw.rest() == b""
            assert await idle.rest() == b""
            assert world.memory.open == 0
            with pytest.raises(OSError):
                await Raw.dial(world.socket)

    run(scenario)


def test_a_stop_fails_what_does_not_finish(folder: Path):
    async def scenario():
        async with serving(folder) as world:
            world.memory.sync_gate.clear()
            world.memory.cold = {9}
            world.memory.warm.clear()
            world.memory.withhold = True
            raw = await Raw.open(world.socket)
            raw.say(
                write(1, 0, b"x", flags=1), write(2, 0, b"x"), request(READ, 3, 9 * 4096, 1), request(FLUSH, 4)
            )
            await until(lambda: world.server.connections()[0].in_flight == 4)
            world.memory.roomless = True
            raw.say(write(5, 0, b"x"), write(6, 4096, b"x", flags=1))
            await until(lambda: next(iter(world.server._sessions))._transmission.paused)
            await world.server.stop(0.1)
            assert await raw.errors(6) == dict.fromkeys(range(1, 7), Errno.ESHUTDOWN)
            assert await raw.rest() == b""
            world.memory.release()
            assert world.memory.open == 0

    run(scenario)


# --- TLS -------------------------------------------------------------------------------------------------


def test_tls_where_it_is_required(folder: Path, pki: Path):
    async def scenario():
        context = server_context(str(pki), verify_peer=True)
        async with serving(folder, tls=context, tls_required=True) as world:
            assert world.uri.startswith("nbds+unix://")
            uri = world.uri.replace(":///", ":///vol")
            client = await Client.connect(world.host, uri, tls=client_context(str(pki)))
            data = random.randbytes(5 * MiB)
            await client.write(4096, data)
            assert await client.read(4096, 5 * MiB) == data
            await asyncio.gather(*[client.write(n * 4096, bytes([n]) * 4096) for n in range(100)])
            found = await asyncio.gather(*[client.read(n * 4096, 4096) for n in range(100)])
            assert found == [bytes([n]) * 4096 for n in range(100)]
            assert world.server.connections()[0].peer.encrypted
            assert world.server.connections()[0].peer.certificate_name == "client.test"
            await client.close()

            plain = uri.replace("nbds", "nbd")
            with pytest.raises(ExportError, match="TLS"):
                await Client.connect(world.host, plain)
            raw = await Raw.dial(world.socket)
            raw.say(options.request(Option.LIST), options.request(Option.EXPORT_NAME, b"vol"))
            assert await raw.answers() == [Reply.ERR_TLS_REQD]
            assert await is_closed(raw)
            assert world.memory.open == 0

    run(scenario)


def test_tls_where_it_is_offered_and_where_it_is_not(folder: Path, pki: Path):
    async def scenario():
        async with serving(folder, tls=server_context(str(pki), verify_peer=False)) as world:
            secured = world.uri.replace("nbd+", "nbds+").replace(":///", ":///vol")
            client = await Client.connect(world.host, secured, tls=client_context(str(pki)))
            await client.write(0, b"secret")
            await client.close()
            client = await world.client()
            assert await client.read(0, 6) == b"secret"
            await client.close()
        async with serving(folder) as world:
            raw = await Raw.dial(world.socket)
            raw.say(options.request(Option.STARTTLS), options.export_request(Option.GO, "vol", []))
            assert await raw.answers() == [Reply.ERR_POLICY]
            assert await raw.answers() == [Reply.INFO, Reply.ACK]
            raw.close()

    run(scenario)


def test_plaintext_behind_starttls_never_counts(folder: Path, pki: Path):
    """A middleman puts an option behind STARTTLS; inside TLS nobody may have heard it."""

    async def scenario():
        async with serving(folder, tls=server_context(str(pki), verify_peer=False)) as world:
            raw = await Raw.dial(world.socket)
            raw.say(
                options.request(Option.STRUCTURED_REPLY)
                + options.request(Option.STARTTLS)
                + options.request(Option.LIST)
            )
            assert await raw.answers() == [Reply.ACK]
            assert await raw.answers() == [Reply.ACK]
            context = ssl.create_default_context(cafile=str(pki / "ca-cert.pem"))
            async with asyncio.timeout(60):
                await raw.writer.start_tls(context, server_hostname="localhost")
            raw.say(options.context_request(Option.LIST_META_CONTEXT, "vol", []))
            assert await raw.answers() == [Reply.ERR_INVALID]  # structured replies are forgotten; no LIST came
            raw.close()

    run(scenario)


def test_a_client_without_a_certificate_is_turned_away(folder: Path, pki: Path, tmp_path: Path):
    async def scenario():
        context = server_context(str(pki), verify_peer=True)
        async with serving(folder, tls=context, tls_required=True) as world:
            stranger = ssl.create_default_context(cafile=str(pki / "ca-cert.pem"))
            with pytest.raises(Disconnected):
                await Client.connect(world.host, world.uri, tls=stranger)
            await until(lambda: not world.server._sessions)
            assert world.memory.open == 0

    run(scenario)
