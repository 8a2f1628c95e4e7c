"""Our client against our server, in every dialect, over real sockets."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from revolume.errors import UsageError
from revolume.nbd.client import Client
from revolume.nbd.wire.constants import Dialect, Errno, TransmissionFlag
from revolume.nbd.wire.errors import Disconnected, ExportError
from revolume.nbd.wire.uri import Place, parse_uri, uri
from tests.nbd.harness import MiB, run, serving

every_dialect = pytest.mark.parametrize("dialect", list(Dialect), ids=lambda dialect: dialect.value)


@every_dialect
def test_what_is_written_is_read(folder: Path, dialect: Dialect):
    async def scenario():
        async with serving(folder) as world:
            client = await world.client(dialect=dialect)
            assert client.dialect is dialect
            assert client.size == 16 * MiB
            assert client.info.name == "vol"
            await client.write(1000, b"hello", fua=True)
            assert await client.read(998, 9) == b"\0\0hello\0\0"
            await client.zero(1001, 2)
            await client.trim(1004, 1)
            await client.cache(0, 4096)
            await client.flush()
            assert await client.read(1000, 5) == b"h\0\0l\0"
            assert world.memory.syncs == 2
            await client.close()

    run(scenario)


@every_dialect
def test_many_requests_at_once_of_all_sizes(folder: Path, dialect: Dialect):
    async def scenario():
        random.seed(5)
        model = bytearray(16 * MiB)
        async with serving(folder) as world:
            client = await world.client(dialect=dialect)

            async def one(slot: int) -> None:
                start, end = slot * MiB, (slot + 1) * MiB
                for _ in range(20):
                    length = random.choice([1, 512, 4096, 70_000, 500_000])
                    at = random.randrange(start, end - length)
                    if random.random() < 0.5:
                        data = random.randbytes(length)
                        model[at : at + length] = data
                        await client.write(at, data, fua=random.random() < 0.1)
                    elif random.random() < 0.2:
                        model[at : at + length] = bytes(length)
                        await client.zero(at, length)
                    else:
                        assert await client.read(at, length) == model[at : at + length]

            await asyncio.gather(*[one(slot) for slot in range(16)])
            assert await client.read(0, 16 * MiB) == model
            assert world.memory.data == model
            await client.close()

    run(scenario)


@every_dialect
def test_reads_that_have_to_wait_are_answered_out_of_order(folder: Path, dialect: Dialect):
    async def scenario():
        async with serving(folder) as world:
            client = await world.client(dialect=dialect)
            world.memory.data[0:8192] = b"a" * 4096 + b"b" * 4096
            world.memory.cold = {0}
            world.memory.warm.clear()
            slow = asyncio.ensure_future(client.read(0, 4096))
            slow_large = asyncio.ensure_future(client.read(0, 3 * MiB))
            assert await client.read(4096, 4096) == b"b" * 4096
            assert not slow.done()
            world.memory.warm.set()
            assert await slow == b"a" * 4096
            assert (await slow_large)[:8192] == b"a" * 4096 + b"b" * 4096
            await client.close()

    run(scenario)


@every_dialect
def test_a_bad_block_is_an_error_and_only_for_those_who_read_it(folder: Path, dialect: Dialect):
    async def scenario():
        async with serving(folder) as world:
            client = await world.client(dialect=dialect)
            world.memory.bad = {3}
            reads = [client.read(block * 4096, 4096) for block in range(6)] + [client.read(0, 8 * MiB)]
            results = await asyncio.gather(*reads, return_exceptions=True)
            for index, result in enumerate(results):
                if index in (3, 6):
                    assert isinstance(result, ExportError)
                    assert result.errno is Errno.EIO
                    assert dialect is Dialect.SIMPLE or "damaged" in result.cause
                else:
                    assert result == bytes(4096)
            world.memory.bad.clear()
            assert await client.read(3 * 4096, 4096) == bytes(4096)
            await client.close()

    run(scenario)


@pytest.mark.parametrize("dialect", [Dialect.STRUCTURED, Dialect.EXTENDED], ids=lambda dialect: dialect.value)
def test_block_status(folder: Path, dialect: Dialect):
    async def scenario():
        async with serving(folder) as world:
            contexts = ["base:allocation", "qemu:dirty-bitmap:b0", "base:unknown"]
            client = await world.client(dialect=dialect, contexts=contexts)
            assert sorted(client.contexts.values()) == contexts[:2]
            await client.write(8192, bytes(4096))
            found = await client.block_status(0, 16 * MiB)
            assert found["base:allocation"] == [(8192, 3), (4096, 0), (16 * MiB - 12288, 3)]
            assert found["qemu:dirty-bitmap:b0"] == [(8192, 0), (4096, 1), (16 * MiB - 12288, 0)]
            one = await client.block_status(100, 1 * MiB, one=True)
            assert one["base:allocation"] == [(8092, 3)]
            walked = [entry async for entry in client.extents("base:allocation", 4096, 8192)]
            assert walked == [(4096, 4096, 3), (8192, 4096, 0)]
            await client.close()

    run(scenario)


def test_extended_headers_carry_ranges_beyond_32_bits(folder: Path):
    class Sparse:
        """Remembers what is asked of it."""

        name, description, size = "vol", "", 1 << 45
        read_only = multi_conn = False
        position = 0

        def __init__(self):
            self.ops = []

        def append(self, ops):
            self.ops += [op[:3] for op in ops]
            return 1

        def released(self, position):
            return True

        async def extents(self, context, offset, length):
            return [(1 << 40, 0), (length - (1 << 40), 3)]

        def close(self):
            pass

    async def scenario():
        async with serving(folder) as world:
            sparse = Sparse()

            async def open_sparse(name, peer):
                return sparse

            world.exports.open = open_sparse
            client = await world.client(dialect=Dialect.EXTENDED, contexts=["base:allocation"])
            await client.zero(4096, 1 << 42)
            await client.trim(0, 1 << 45)
            assert [op[1:] for op in sparse.ops] == [(4096, 1 << 42), (0, 1 << 45)]
            found = await client.block_status(0, 1 << 44)
            assert found["base:allocation"] == [(1 << 40, 0), ((1 << 44) - (1 << 40), 3)]
            await client.close()
            plain = await world.client(contexts=["base:allocation"])
            await plain.trim(0, 1 << 33)
            assert len(sparse.ops) == 2 + 4
            await plain.close()

    run(scenario)


def test_a_server_that_goes_away_is_noticed(folder: Path):
    async def scenario():
        async with serving(folder) as world:
            client = await world.client()
            world.memory.sync_gate.clear()
            waiting = asyncio.ensure_future(client.flush())
            await client.write(0, b"x")
            for session in list(world.server._sessions):
                session._wire.abort()
            with pytest.raises(Disconnected):
                await waiting
            with pytest.raises(Disconnected):
                await client.read(0, 1)

    run(scenario)


def test_errors_of_requests_name_their_number(folder: Path):
    async def scenario():
        async with serving(folder) as world:
            client = await world.client("vol@then")
            assert client.read_only
            assert not client.can(TransmissionFlag.SEND_TRIM)
            for request, errno in (
                (client.write(0, b"x"), Errno.EPERM),
                (client.read(16 * MiB, 1), Errno.EINVAL),
                (client.zero(0, 1), Errno.EPERM),
            ):
                with pytest.raises(ExportError) as caught:
                    await request
                assert caught.value.errno is errno
            await client.close()

    run(scenario)


def test_exports_are_listed_and_a_wrong_name_is_refused_in_words(folder: Path):
    async def scenario():
        async with serving(folder) as world:
            assert await Client.list_exports(world.host, world.uri) == world.exports.names()
            with pytest.raises(ExportError, match="there is no export 'nope'"):
                await world.client("nope")
            with pytest.raises(Disconnected):
                await Client.connect(world.host, "nbd+unix:///?socket=/nonexistent")
            assert world.memory.open == 0

    run(scenario)


@pytest.mark.parametrize(
    ("address", "name", "tls", "text"),
    [
        ("unix:/run/a b.sock", "vm1@-10m", False, "nbd+unix:///vm1@-10m?socket=/run/a%20b.sock"),
        ("127.0.0.1:10809", "", False, "nbd://127.0.0.1:10809/"),
        ("[::1]:7", "a/b?c", True, "nbds://[::1]:7/a%2Fb%3Fc"),
        ("unix:/s", "x@2026-11-21T05:00:00Z,rw", True, "nbds+unix:///x@2026-11-21T05:00:00Z,rw?socket=/s"),
    ],
)
def test_uris_there_and_back(address: str, name: str, tls: bool, text: str):
    assert uri(address, name, tls=tls) == text
    assert parse_uri(text) == Place(address, name, tls)


def test_uris_of_other_tools():
    assert parse_uri("nbd://example.com") == Place("example.com:10809", "")
    assert parse_uri("nbd+unix:///?socket=/a%2Fb") == Place("unix:/a/b", "")
    for text in ("http://x/", "nbd:///x", "nbd+unix:///x", "nbd://h:99999/x", "", "nbd+unix://h/x?socket=/a"):
        with pytest.raises(UsageError):
            parse_uri(text)
