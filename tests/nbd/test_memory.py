"""What a real server process holds after its clients have gone: what it held before they came."""

from __future__ import annotations

import os
import resource

from revolume.nbd.wire import options
from revolume.nbd.wire.constants import Info, Option, Reply
from tests.nbd.harness import MiB, run, until
from tests.nbd.raw import DISC, READ, WRITE, Raw, request, write
from tests.support.servers import Serve, Server, revolume, revolume_only

pytestmark = revolume_only


def resident(server: Server) -> float:
    """MiB of memory that the server's process has."""
    assert server.process is not None
    with open(f"/proc/{server.process.pid}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE") / MiB


async def half_a_write(server: Server, count: int) -> Raw:
    """A client that has sent all of a write but for one byte."""
    raw = await Raw.open(server.address)
    raw.say(request(WRITE, 1, 0, count), bytes(count - 1))
    await raw.writer.drain()
    return raw


def test_the_memory_of_clients_that_have_gone_is_given_back(serve: Serve):
    server = serve(size=64 * MiB)

    async def scenario():
        first = await half_a_write(server, 32 * MiB)
        first.close()
        before = resident(server)
        for _ in range(12):
            (await half_a_write(server, 32 * MiB)).close()
        await until(lambda: resident(server) - before < 80)

    run(scenario)


def test_connections_that_were_there_at_once_cost_little_afterwards(serve: Serve):
    server = serve(size=64 * MiB)

    async def scenario():
        before = resident(server)
        raws = [await Raw.open(server.address) for _ in range(90)]
        assert resident(server) - before < 25, "an idle connection has a small buffer"
        for raw in raws:
            raw.say(*[write(n, 0, bytes(256 << 10)) for n in range(4)], request(READ, 9, 0, MiB))
        for raw in raws:
            assert len(await raw.errors(4)) == 4
            assert (await raw.simple(MiB))[1] == 0
        for raw in raws:
            raw.close()
        await until(lambda: resident(server) - before < 130)

    run(scenario)


def test_views_opened_and_closed_cost_nothing_that_stays(serve: Serve):
    server = serve(size=64 * MiB)
    revolume("snapshot", server.directory, "then")

    async def look(name: str, times: int) -> float:
        for _ in range(times):
            raw = await Raw.open(server.address, name)
            raw.say(request(READ, 1, 0, 4096))
            assert (await raw.simple(4096))[1] == 0
            raw.say(request(DISC, 2))
            assert await raw.rest() == b""
            raw.close()
        return resident(server)

    async def scenario():
        for name in ("vol@then", "vol@then,rw"):
            before = await look(name, 30)
            assert await look(name, 150) - before < 8, name

    run(scenario)


def test_out_of_memory_fails_what_asked_for_it_and_nobody_else(serve: Serve):
    server = serve(size=256 * MiB)
    assert server.process is not None

    async def scenario():
        other = await Raw.open(server.address)
        with open(f"/proc/{server.process.pid}/statm") as file:
            size = int(file.read().split()[0]) * os.sysconf("SC_PAGESIZE")
        resource.prlimit(server.process.pid, resource.RLIMIT_AS, (size + 24 * MiB, resource.RLIM_INFINITY))
        large = await Raw.open(server.address)
        large.say(request(WRITE, 1, 0, 60 * MiB))
        assert await large.rest() == b"", "it can only be closed: its payload cannot be kept"
        reader = await Raw.open(server.address)
        reader.say(request(READ, 1, 0, 60 * MiB))
        assert await reader.simple() == (1, 12, b"")
        for raw in (reader, other):
            raw.say(write(3, 0, b"still served"))
            assert await raw.simple() == (3, 0, b"")
            raw.close()

    run(scenario)
    server.until_said("emory")  # MemoryError, or out of memory


def test_asking_about_a_snapshot_opens_no_view(serve: Serve):
    server = serve(size=64 * MiB)
    revolume("copy", "/bin/sh", server.directory)  # a moment with something in the log before it
    revolume("snapshot", server.directory, "then")

    def views() -> int:
        return sum(name.startswith("view") for name in os.listdir(server.directory / "maps"))

    async def scenario():
        raw = await Raw.dial(server.address)
        raw.say(options.request(Option.STRUCTURED_REPLY))
        assert await raw.answers() == [Reply.ACK]
        for name in ("vol@then", "vol@then,rw", "vol@-0s"):
            raw.say(options.export_request(Option.INFO, name, [Info.NAME, Info.DESCRIPTION]))
            assert await raw.answers() == [Reply.INFO] * 3 + [Reply.ACK]
            raw.say(options.context_request(Option.LIST_META_CONTEXT, name, ["base:"]))
            assert await raw.answers() == [Reply.META_CONTEXT, Reply.ACK]
            assert views() == 0 or name != "vol@then"
        raw.say(options.export_request(Option.GO, "vol@then", []))
        assert await raw.answers() == [Reply.INFO, Reply.ACK]
        assert views() >= 1
        raw.close()

    run(scenario)
