"""One connection, byte by byte over a real socket: order, batches, errors, waiting, ends."""

from __future__ import annotations

import asyncio
import struct
from pathlib import Path

import pytest

from revolume.errors import Poisoned
from revolume.nbd.wire import options
from revolume.nbd.wire.constants import Errno, Info, Option, Reply
from revolume.nbd.wire.errors import ExportError
from tests.nbd.harness import MiB, run, serving, until
from tests.nbd.raw import CACHE, DISC, FLUSH, READ, STATUS, TRIM, WRITE, ZERO, Raw, request, write

FUA, NO_HOLE, DF, REQ_ONE, FAST_ZERO, PAYLOAD_LEN = (1 << bit for bit in range(6))


def test_writes_of_one_wake_up_are_one_append(folder: Path):
    async def scenario():
        async with serving(folder) as world:
            raw = await Raw.open(world.socket)
            raw.say(*[write(n, n * 4096, bytes([n]) * 4096) for n in range(1, 9)])
            assert await raw.errors(8) == dict.fromkeys(range(1, 9), 0)
            assert world.memory.appends == [8]
            assert world.memory.data[4096 : 9 * 4096] == b"".join(bytes([n]) * 4096 for n in range(1, 9))
            raw.close()

    run(scenario)


def test_reads_see_the_writes_before_them_and_not_those_after(folder: Path):
    async def scenario():
        async with serving(folder) as world:
            raw = await Raw.open(world.socket)
            raw.say(
                write(1, 0, b"one!"),
                request(READ, 2, 0, 4),
                write(3, 8192, b"else"),
                request(READ, 4, 4096, 4),
                write(5, 2, b"two!"),
                request(READ, 6, 0, 8),
                request(TRIM, 7, 0, 3),
                request(READ, 8, 0, 4),
            )
            found = {}
            for _ in range(8):
                cookie = struct.unpack(">IIQ", head := await raw.take(16))[2]
                found[cookie] = await raw.take({2: 4, 4: 4, 6: 8, 8: 4}.get(cookie, 0))
                assert head[4:8] == bytes(4)
            assert found[2] == b"one!"
            assert found[4] == bytes(4)
            assert found[6] == b"ontwo!\0\0"
            assert found[8] == b"\0\0\0w"
            assert world.memory.appends == [2, 1, 1]
            raw.close()

    run(scenario)


def test_every_error_leaves_the_connection_in_step(folder: Path):
    async def scenario():
        size = 16 * MiB
        async with serving(folder) as world:
            raw = await Raw.open(world.socket)
            cases = [
                (request(99, 0), Errno.EINVAL),
                (request(READ, 0, 0, 1, flags=1 << 9), Errno.EINVAL),
                (request(READ, 0, 0, 1, flags=NO_HOLE), Errno.EINVAL),
                (write(0, 0, bytes(4096), flags=DF), Errno.EINVAL),
                (write(0, 0, bytes(4096), flags=PAYLOAD_LEN), Errno.EINVAL),
                (write(0, size - 1, bytes(4096)), Errno.ENOSPC),
                (request(ZERO, 0, size - 1, 2), Errno.ENOSPC),
                (request(ZERO, 0, 0, 0xFFFFFFFF), Errno.ENOSPC),
                (request(READ, 0, size, 1), Errno.EINVAL),
                (request(READ, 0, 0, 65 * MiB), Errno.EINVAL),
                (request(TRIM, 0, size, 1), Errno.EINVAL),
                (request(CACHE, 0, size, 1), Errno.EINVAL),
                (request(READ, 0, 0xFFFFFFFFFFFFFFFF, 2), Errno.EINVAL),
                (request(STATUS, 0, 0, 4096), Errno.EINVAL),
                (request(FLUSH, 0, 1, 0), Errno.EINVAL),
                (request(TRIM, 0, 0, 1, flags=FAST_ZERO), Errno.EINVAL),
                (request(ZERO, 0, 0, 4096, flags=FAST_ZERO | NO_HOLE | FUA), 0),
                (request(FLUSH, 0, flags=FUA), 0),
                (request(TRIM, 0, 0, 4096, flags=FUA), 0),
                (request(CACHE, 0, 0, 4096, flags=FUA), 0),
                (write(0, 0, b""), 0),
                (request(READ, 0, 0, 0), 0),
                (request(ZERO, 0, size, 0), 0),
            ]
            raw.say(*[data[:8] + struct.pack(">Q", n) + data[16:] for n, (data, _) in enumerate(cases)])
            assert await raw.errors(len(cases)) == {n: int(errno) for n, (_, errno) in enumerate(cases)}
            raw.say(write(77, 5, b"still here"))
            assert await raw.simple() == (77, 0, b"")
            raw.say(request(READ, 78, 5, 10))
            assert await raw.simple(10) == (78, 0, b"still here")
            raw.close()

    run(scenario)


def test_a_write_longer_than_we_keep_is_refused_and_passed_over(folder: Path):
    async def scenario():
        async with serving(folder) as world:
            raw = await Raw.open(world.socket)
            raw.say(request(WRITE, 1, 0, 70 * MiB))
            for _ in range(70):
                raw.say(bytes(MiB))
                await raw.writer.drain()
            raw.say(request(FLUSH, 2))
            assert await raw.errors(2) == {1: Errno.EINVAL, 2: 0}
            raw.close()

    run(scenario)


@pytest.mark.parametrize("structured", [False, True])
def test_the_largest_payloads_go_both_ways(folder: Path, structured: bool):
    async def scenario():
        async with serving(folder, size=80 * MiB) as world:
            raw = await Raw.open(world.socket, structured=structured)
            data = bytes(range(256)) * (64 * MiB // 256)
            raw.say(write(1, 12345, data), request(READ, 2, 12345, 64 * MiB))
            assert await raw.simple() == (1, 0, b"")
            if not structured:
                assert await raw.simple(64 * MiB) == (2, 0, data)
            got, done = bytearray(len(data)), not structured
            while not done:
                cookie, flags, kind, payload = await raw.chunk()
                assert (cookie, kind) == (2, 1)
                assert len(payload) <= 2 * MiB + 8
                at = struct.unpack_from(">Q", payload)[0] - 12345
                got[at : at + len(payload) - 8] = payload[8:]
                done = bool(flags & 1)
            assert not structured or got == data
            session = next(iter(world.server._sessions))
            await until(lambda: session._account.held_bytes == 0)
            assert world.server._budget.used_bytes == 0
            raw.close()

    run(scenario)


def test_do_not_fragment_is_kept_for_large_reads(folder: Path):
    async def scenario():
        async with serving(folder) as world:
            raw = await Raw.open(world.socket, structured=True)
            raw.say(request(READ, 1, 0, 5 * MiB, flags=DF), request(READ, 2, 0, 4096, flags=DF))
            found = [await raw.chunk(), await raw.chunk()]
            assert {(cookie, flags, len(data)) for cookie, flags, _, data in found} == {
                (1, 1, 5 * MiB + 8),
                (2, 1, 4096 + 8),
            }
            raw.close()

    run(scenario)


def test_structured_errors_are_chunks_with_a_sentence(folder: Path):
    async def scenario():
        async with serving(folder) as world:
            raw = await Raw.open(world.socket, structured=True)
            raw.say(request(READ, 1, 1 << 40, 1), request(READ, 2, 0, 0))
            cookie, flags, kind, payload = await raw.chunk()
            assert (cookie, flags, kind) == (1, 1, 0x8001)
            assert struct.unpack_from(">IH", payload) == (Errno.EINVAL, len(payload) - 6)
            assert await raw.chunk() == (2, 1, 0, b"")
            raw.close()

    run(scenario)


def test_a_large_structured_read_that_fails_midway_ends_with_an_error(folder: Path):
    async def scenario():
        async with serving(folder) as world:
            world.memory.bad = {(5 * MiB) // 4096}
            raw = await Raw.open(world.socket, structured=True)
            raw.say(request(READ, 1, 0, 8 * MiB))
            kinds = []
            while True:
                _, flags, kind, payload = await raw.chunk()
                kinds.append(kind)
                if flags & 1:
                    break
            assert kinds == [1, 1, 0x8001]
            assert struct.unpack_from(">I", payload)[0] == Errno.EIO
            raw.say(request(FLUSH, 2))
            assert await raw.simple() == (2, 0, b"")
            raw.close()

    run(scenario)


def test_flush_and_fua_wait_for_the_disk_and_nothing_else_does(folder: Path):
    async def scenario():
        async with serving(folder) as world:
            world.memory.sync_gate.clear()
            raw = await Raw.open(world.socket)
            raw.say(
                write(1, 0, b"a", flags=FUA),
                write(2, 1, b"b"),
                request(FLUSH, 3),
                request(ZERO, 4, 0, 1, flags=FUA),
            )
            assert await raw.simple() == (2, 0, b"")
            raw.say(request(READ, 5, 0, 2))
            assert await raw.simple(2) == (5, 0, b"\0b")
            assert world.memory.syncs == 0
            world.memory.sync_gate.set()
            assert await raw.errors(3) == {1: 0, 3: 0, 4: 0}
            assert world.memory.syncs == 1
            raw.close()

    run(scenario)


def test_a_sync_that_fails_reaches_the_client(folder: Path):
    async def scenario():
        async with serving(folder) as world:
            raw = await Raw.open(world.socket)
            world.memory.sync_gate.clear()
            raw.say(request(FLUSH, 1), write(2, 0, b"x", flags=FUA))
            await until(lambda: world.server.connections()[0].in_flight == 2)

            async def fail():
                raise ExportError("sync-failed", "the disk failed", errno=Errno.EIO)

            world.memory.sync_gate.wait = fail
            raw.say(request(FLUSH, 3))
            assert await raw.simple() == (3, Errno.EIO, b"")
            world.memory.sync_gate.set()
            raw.close()

    run(scenario)


@pytest.mark.parametrize(
    ("error", "errno"),
    [
        (ExportError("full", "no space", errno=Errno.ENOSPC), Errno.ENOSPC),
        (Poisoned("poisoned", "a sync failed"), Errno.EIO),
        (OSError(122, "quota"), Errno.ENOSPC),
        (KeyError("a bug"), Errno.EIO),
    ],
    ids=["export", "poisoned", "quota", "bug"],
)
def test_an_append_that_fails_fails_its_writes_alone(folder: Path, error: Exception, errno: Errno):
    async def scenario():
        async with serving(folder) as world:
            world.memory.append_error = error
            raw = await Raw.open(world.socket)
            raw.say(write(1, 0, b"a"), request(READ, 3, 0, 1), write(2, 4096, b"b", flags=FUA), request(FLUSH, 4))
            found = {}
            for _ in range(4):
                cookie, code, _ = await raw.simple()
                found[cookie] = code
                if cookie == 3:
                    await raw.take(1)
            assert found == {1: errno, 2: errno, 3: 0, 4: 0}
            raw.close()

    run(scenario)


def test_plain_writes_are_answered_when_their_position_is_released(folder: Path):
    async def scenario():
        async with serving(folder) as world:
            world.memory.withhold = True
            raw = await Raw.open(world.socket)
            raw.say(write(1, 0, b"a"), write(2, 1, b"b"), request(READ, 3, 0, 2))
            assert await raw.simple(2) == (3, 0, b"ab")
            assert world.server.connections()[0].in_flight == 2
            world.memory.release()
            assert await raw.errors(2) == {1: 0, 2: 0}
            raw.close()

    run(scenario)


def test_without_room_everything_waits_in_order(folder: Path):
    async def scenario():
        async with serving(folder) as world:
            world.memory.roomless = True
            raw = await Raw.open(world.socket)
            raw.say(write(1, 0, b"a" * 100), request(READ, 2, 0, 4), write(3, 0, b"b" * 50))
            raw.say(*[write(10 + n, n * 4096, b"c" * 4096) for n in range(2000)])
            await asyncio.sleep(0.05)
            assert world.memory.appends == []
            session = next(iter(world.server._sessions))
            assert session._transmission.paused
            world.memory.roomless = False
            world.memory.room.set()
            cookies = set()
            while len(cookies) < 2003:
                magic, errno, cookie = struct.unpack(">IIQ", await raw.take(16))
                assert (magic, errno) == (0x67446698, 0)
                cookies.add(cookie)
                if cookie == 2:
                    assert await raw.take(4) == b"aaaa"
            assert sum(world.memory.appends) == 2002
            raw.close()

    run(scenario)


def test_no_room_for_good_is_an_error_and_the_connection_goes_on(folder: Path):
    async def scenario():
        async with serving(folder) as world:
            world.memory.roomless = True
            world.memory.room_error = ExportError("full", "no space left", errno=Errno.ENOSPC)
            world.memory.room.set()
            raw = await Raw.open(world.socket)
            raw.say(write(1, 0, b"a"), write(2, 0, b"b", flags=FUA), request(FLUSH, 3))
            assert await raw.errors(3) == {1: Errno.ENOSPC, 2: Errno.ENOSPC, 3: 0}
            world.memory.roomless = False
            raw.say(write(4, 0, b"a"))
            assert await raw.simple() == (4, 0, b"")
            raw.close()

    run(scenario)


def test_a_dead_clients_waiting_writes_are_never_done(folder: Path):
    """A client whose write waits goes away and comes again; its newer data must stay."""

    async def scenario():
        async with serving(folder) as world:
            old = await Raw.open(world.socket)
            world.memory.roomless = True
            old.say(write(1, 0, b"old"))
            await until(lambda: next(iter(world.server._sessions))._transmission.paused)
            old.close()
            await old.writer.wait_closed()
            new = await Raw.open(world.socket)
            world.memory.roomless = False
            new.say(write(1, 0, b"new"))
            assert await new.simple() == (1, 0, b"")
            world.memory.room.set()
            await asyncio.sleep(0.02)
            assert world.memory.data[:3] == b"new"
            assert len(world.server._sessions) == 1
            new.close()

    run(scenario)


def test_a_waiting_write_is_never_done_once_its_client_has_gone(folder: Path):
    """Its other connection was open already; nobody has opened one since, to whom the end would have shown."""

    async def scenario():
        async with serving(folder) as world:
            old = await Raw.open(world.socket)
            session = next(iter(world.server._sessions))
            new = await Raw.open(world.socket)
            world.memory.roomless = True
            old.say(write(1, 0, b"old"), write(2, 4096, b"old"))
            await until(lambda: session._transmission.paused)
            old.close()
            await old.writer.wait_closed()
            world.memory.roomless = False
            new.say(write(1, 0, b"new"))
            assert await new.simple() == (1, 0, b"")
            world.memory.room.set()
            await until(lambda: len(world.server._sessions) == 1)
            assert world.memory.data[:3] == b"new" and world.memory.data[4096:4099] == bytes(3)
            assert world.memory.appends == [1] and world.memory.open == 1
            new.say(write(3, 0, b"two"))
            assert await new.simple() == (3, 0, b"")
            new.close()

    run(scenario)


def test_what_a_dead_client_had_sent_takes_effect_before_the_next_is_let_in(folder: Path):
    async def scenario():
        async with serving(folder) as world:
            old = await Raw.open(world.socket)
            new = await Raw.dial(world.socket)
            session = next(iter(world.server._sessions))
            asyncio.get_running_loop().remove_reader(session._wire._sock.fileno())  # it comes to it too late
            old.say(write(1, 0, b"old"))
            old.close()
            await old.writer.wait_closed()
            new.say(options.export_request(Option.GO, "vol", []))
            assert await new.answers() == [Reply.INFO, Reply.ACK]
            assert session._outlet.closed
            assert world.memory.data[:3] == b"old"
            new.close()

    run(scenario)


def test_disc_lets_what_is_under_way_finish(folder: Path):
    async def scenario():
        async with serving(folder) as world:
            world.memory.sync_gate.clear()
            raw = await Raw.open(world.socket)
            raw.say(write(1, 0, b"a", flags=FUA), request(DISC, 2), write(3, 0, b"never"))
            await asyncio.sleep(0.02)
            world.memory.sync_gate.set()
            assert await raw.rest() == struct.pack(">IIQ", 0x67446698, 0, 1)
            assert world.memory.data[:5] == b"a\0\0\0\0"
            await until(lambda: not world.server._sessions)
            assert world.memory.open == 0

    run(scenario)


def test_garbage_in_the_transmission_phase_ends_it_after_what_came_before(folder: Path):
    async def scenario():
        async with serving(folder) as world:
            raw = await Raw.open(world.socket)
            raw.say(write(1, 0, b"a"), b"\0" * 28, write(2, 0, b"b"))
            assert await raw.rest() == struct.pack(">IIQ", 0x67446698, 0, 1)
            assert world.memory.data[:1] == b"a"
            await until(lambda: world.memory.open == 0)

    run(scenario)


def test_requests_may_come_right_behind_go(folder: Path):
    async def scenario():
        async with serving(folder) as world:
            raw = await Raw.dial(world.socket)
            raw.say(options.export_request(Option.GO, "vol", []), write(1, 0, b"early"))
            assert await raw.answers() == [Reply.INFO, Reply.ACK]
            assert await raw.simple() == (1, 0, b"")
            raw.close()

    run(scenario)


def test_export_name_still_works(folder: Path):
    async def scenario():
        async with serving(folder) as world:
            raw = await Raw.dial(world.socket, greet=False)
            await raw.take(18)
            raw.say(struct.pack(">I", 1), options.request(Option.EXPORT_NAME, b""))
            size, _ = struct.unpack(">QH", await raw.take(10))
            assert size == 16 * MiB
            assert await raw.take(124) == bytes(124)
            raw.say(write(1, 0, b"x"))
            assert await raw.simple() == (1, 0, b"")
            raw.close()
            other = await Raw.dial(world.socket)
            other.say(options.request(Option.EXPORT_NAME, b"nope"))
            assert await other.rest() == b""

    run(scenario)


def test_info_holds_nothing(folder: Path):
    async def scenario():
        async with serving(folder) as world:
            raw = await Raw.dial(world.socket)
            raw.say(options.export_request(Option.INFO, "vol", [Info.NAME]))
            assert await raw.answers() == [Reply.INFO, Reply.INFO, Reply.ACK]
            assert world.memory.open == 0
            raw.say(options.export_request(Option.GO, "no\u00e9", []))
            assert await raw.answers() == [Reply.ERR_UNKNOWN]
            raw.close()

    run(scenario)


def test_a_read_only_export_takes_no_changes(folder: Path):
    async def scenario():
        async with serving(folder) as world:
            raw = await Raw.open(world.socket, "vol@then")
            raw.say(
                write(1, 0, b"x"),
                request(ZERO, 2, 0, 1),
                request(TRIM, 3, 0, 1),
                request(FLUSH, 4),
                write(5, 1 << 40, b"x"),
            )
            perm = Errno.EPERM
            assert await raw.errors(5) == {1: perm, 2: perm, 3: perm, 4: 0, 5: perm}
            raw.close()

    run(scenario)


def test_zeroes_of_almost_4_gib_need_no_memory(folder: Path):
    async def scenario():
        async with serving(folder) as world:
            asked = []
            export_size = 1 << 40

            class Huge:
                name, description, size = "vol", "", export_size
                read_only = multi_conn = False
                position = 1

                def append(self, ops):
                    asked.extend(op[:3] for op in ops)
                    return 1

                def released(self, position):
                    return True

                def close(self, said_goodbye=False):
                    pass

            async def open_huge(name, peer):
                return Huge()

            world.exports.open = open_huge
            raw = await Raw.open(world.socket)
            raw.say(request(ZERO, 1, 512, 0xFFFFFE00), request(TRIM, 2, 0, 0xFFFFFFFF))
            assert await raw.errors(2) == {1: 0, 2: 0}
            assert asked == [(2, 512, 0xFFFFFE00), (3, 0, 0xFFFFFFFF)]
            raw.close()

    run(scenario)
