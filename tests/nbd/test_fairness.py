"""Nobody keeps memory from the others: fair shares of the budget, clients that hold it up, answers that wait."""

from __future__ import annotations

import asyncio
import gc
import weakref
from dataclasses import replace
from pathlib import Path

import pytest

from revolume.nbd.bounds.budget import Account, Budget
from revolume.nbd.bounds.limits import Limits
from revolume.nbd.server.session import Session
from revolume.nbd.wire.constants import CommandFlag
from tests.nbd.harness import MiB, World, run, serving, until
from tests.nbd.raw import FLUSH, READ, WRITE, ZERO, Raw, request, write

LITTLE = Limits(inflight_bytes=96 * MiB, connection_bytes=80 * MiB, stall_seconds=0.3)


async def large_io(world: World, seconds: float) -> None:
    """A well-behaved client writes and reads 32 MiB."""
    raw = await Raw.open(world.socket)
    async with asyncio.timeout(seconds):
        raw.say(write(1, 0, b"x" * (32 * MiB)))
        assert await raw.simple() == (1, 0, b"")
        raw.say(request(READ, 2, 0, 32 * MiB))
        assert await raw.simple(32 * MiB) == (2, 0, b"x" * (32 * MiB))
    raw.close()


@pytest.mark.parametrize("structured", [False, True])
def test_large_reads_that_nobody_takes_stop_nobody(folder: Path, structured: bool):
    async def scenario():
        async with serving(folder, size=64 * MiB, limits=LITTLE) as world:
            idle = [await Raw.open(world.socket, structured=structured) for _ in range(8)]
            for raw in idle:
                raw.reader._transport.pause_reading()
                raw.say(*[request(READ, n, 0, 32 * MiB) for n in range(8)])
            await until(lambda: world.server._budget.used_bytes > 60 * MiB or structured)
            await asyncio.sleep(0.2)
            await large_io(world, 60)
            for raw in idle:
                raw.close()

    run(scenario)


def test_half_sent_writes_stop_nobody(folder: Path):
    async def scenario():
        async with serving(folder, size=64 * MiB, limits=LITTLE) as world:
            halves = [await Raw.open(world.socket) for _ in range(6)]
            for raw in halves:
                raw.say(request(WRITE, 1, 0, 32 * MiB), bytes(2 * MiB))
            await until(lambda: world.server._budget.used_bytes > 60 * MiB)
            await large_io(world, 60)
            for raw in halves:
                raw.close()

    run(scenario)


def test_who_holds_nothing_or_moves_is_never_disconnected(folder: Path):
    async def scenario():
        async with serving(folder, size=64 * MiB, limits=replace(LITTLE, stall_seconds=1.5)) as world:
            idle, slow = await Raw.open(world.socket), await Raw.open(world.socket)
            stalled = [await Raw.open(world.socket) for _ in range(4)]
            slow.say(request(WRITE, 1, 0, 32 * MiB))
            for raw in stalled:
                raw.say(request(WRITE, 1, 0, 32 * MiB), bytes(2 * MiB))

            async def go_on() -> None:
                for _ in range(64):
                    slow.say(bytes(MiB // 2))
                    await slow.writer.drain()
                    await asyncio.sleep(0.03)

            await asyncio.gather(go_on(), large_io(world, 60))
            assert await slow.simple() == (1, 0, b"")
            idle.say(request(FLUSH, 7))
            assert await idle.simple() == (7, 0, b"")
            for raw in [idle, slow, *stalled]:
                raw.close()

    run(scenario)


def test_nobody_is_disconnected_while_there_is_enough(folder: Path):
    async def scenario():
        async with serving(folder, size=64 * MiB, limits=LITTLE) as world:
            half = await Raw.open(world.socket)
            half.say(request(WRITE, 1, 0, 32 * MiB), bytes(2 * MiB))
            await asyncio.sleep(1.0)
            half.say(bytes(30 * MiB))
            assert await half.simple() == (1, 0, b"")
            half.close()

    run(scenario)


def test_who_holds_least_is_served_first_and_the_last_part_is_for_first_requests():
    async def scenario():
        budget = Budget(100, 40)
        greedy, modest = Account(budget, 100), Account(budget, 100)
        assert greedy.try_take(30)
        assert greedy.try_take(30)
        assert not greedy.try_take(1), "only who holds nothing may have the last 40"
        more = asyncio.ensure_future(greedy.take(30))
        await asyncio.sleep(0)
        first = asyncio.ensure_future(modest.take(40))
        await asyncio.sleep(0)
        assert first.done() and not more.done()
        greedy.give(60)
        await more
        assert budget.used_bytes == 70

    run(scenario)


def test_a_buffer_that_is_only_kept_goes_to_who_needs_it(folder: Path):
    async def scenario():
        async with serving(folder, size=64 * MiB, limits=replace(LITTLE, stall_seconds=10.0)) as world:
            budget = world.server._budget
            raws = [await Raw.open(world.socket) for _ in range(4)]
            for raw in raws:
                raw.say(write(1, 0, bytes(20 * MiB)))
                assert await raw.simple() == (1, 0, b"")
            assert budget.used_bytes == 0
            assert budget.kept_bytes >= 19 * MiB
            for raw in raws:
                raw.say(request(WRITE, 2, 0, 30 * MiB), bytes(29 * MiB))
            await until(lambda: budget.used_bytes > 50 * MiB)
            assert budget.used_bytes + budget.kept_bytes <= budget.limit_bytes
            for raw in raws:
                raw.say(bytes(MiB))
            for raw in raws:
                assert await raw.simple() == (2, 0, b"")
                raw.close()
            await until(lambda: not world.server._sessions)
            assert budget.used_bytes == budget.kept_bytes == 0

    run(scenario)


# --- answers that wait -------------------------------------------------------------------------------------


async def pour(raw: Raw, requests: bytes, times: int) -> int:
    """Send until it is taken no more; how often it was."""
    for n in range(times):
        raw.say(requests)
        try:
            async with asyncio.timeout(0.3):
                await raw.writer.drain()
        except TimeoutError:
            return n
    return times


@pytest.mark.parametrize("kind", ["zeroes", "flushes", "writes with FUA"])
def test_a_client_cannot_make_unanswered_requests_for_ever(folder: Path, kind: str):
    async def scenario():
        async with serving(folder) as world:
            world.memory.withhold = True
            world.memory.sync_gate.clear()
            one = {
                "zeroes": request(ZERO, 1, 0, 4096),
                "flushes": request(FLUSH, 1),
                "writes with FUA": write(1, 0, bytes(16), flags=1),
            }[kind]
            raw = await Raw.open(world.socket)
            raw.writer.transport.set_write_buffer_limits(high=0)
            taken = await pour(raw, one * 100_000, 20)
            assert taken < 20, "two million requests were taken"
            await until(lambda: world.server.connections()[0].in_flight >= 4096)
            (shown,) = world.server.connections()
            assert 4096 <= shown.in_flight <= 4096 + 1024 + 64
            answered = shown.in_flight
            other = await Raw.open(world.socket)
            other.say(request(READ, 5, 0, 512))
            assert (await other.simple(512))[1] == 0
            world.memory.release()
            world.memory.sync_gate.set()
            assert set(await raw.errors(answered + 1000)) == {1}
            raw.close()
            other.close()

    run(scenario)


def test_all_clients_together_are_bounded_and_each_may_have_one_batch(folder: Path):
    limits = Limits(all_unanswered_max=3000)

    async def scenario():
        async with serving(folder, limits=limits) as world:
            world.memory.withhold = True
            raws = [await Raw.open(world.socket) for _ in range(6)]
            for raw in raws:
                raw.say(*[request(ZERO, n, 0, 512) for n in range(3000)])
            late = await Raw.open(world.socket)
            late.say(request(ZERO, 1, 0, 512))
            await until(lambda: world.server.connections()[-1].in_flight == 1)
            await asyncio.sleep(0.05)
            assert 3000 <= world.server._unanswered.requests <= 3000 + 7 * 1100
            late.say(request(ZERO, 2, 0, 512))
            world.memory.release()
            for raw in raws:
                assert len(await raw.errors(3000)) == 3000
            assert await late.errors(2) == {1: 0, 2: 0}
            assert (world.server._unanswered.requests, world.server._unanswered.bytes) == (0, 0)
            for raw in [*raws, late]:
                raw.close()

    run(scenario)


def test_bytes_without_an_answer_are_bounded_too(folder: Path):
    limits = Limits(unanswered_bytes=8 * MiB)

    async def scenario():
        async with serving(folder, limits=limits) as world:
            world.memory.withhold = True
            raw = await Raw.open(world.socket)
            raw.say(*[write(n, 0, bytes(MiB // 2)) for n in range(64)])
            session: Session = next(iter(world.server._sessions))
            await until(lambda: session._transmission.paused)
            assert 8 * MiB <= world.server._unanswered.bytes <= 10 * MiB
            world.memory.release()
            assert len(await raw.errors(64)) == 64
            raw.close()
            await until(lambda: not world.server._sessions)
            assert world.server._unanswered.bytes == 0

    run(scenario)


def test_only_the_bytes_of_what_waits_count(folder: Path):
    """Reads, and writes that were made durable, are answered: their bytes are nobody's later."""

    async def scenario():
        async with serving(folder) as world:
            raw = await Raw.open(world.socket)
            for n in range(8):
                raw.say(write(n, 0, bytes(MiB), flags=CommandFlag.FUA), request(FLUSH, n + 100, 0, 0))
            assert len(await raw.errors(16)) == 16
            world.memory.withhold = True
            raw.say(write(50, 0, bytes(4096)))
            await until(lambda: world.server._unanswered.requests == 1)
            assert world.server._unanswered.bytes < MiB
            world.memory.release()
            assert await raw.errors(1) == {50: 0}
            raw.close()

    run(scenario)


def test_a_client_that_leaves_takes_its_unanswered_requests_with_it(folder: Path):
    async def scenario():
        async with serving(folder) as world:
            world.memory.withhold = True
            raw = await Raw.open(world.socket, structured=True)
            raw.say(*[request(ZERO, n, 0, 512) for n in range(100)])
            await until(lambda: world.server._unanswered.requests == 100)
            raw.close()
            await until(lambda: not world.server._sessions)
            assert (world.server._unanswered.requests, world.server._unanswered.bytes) == (0, 0)
            world.memory.release()

    run(scenario)


def test_nothing_is_left_of_clients_that_leave_before_their_answers(folder: Path):
    async def scenario():
        async with serving(folder) as world:
            world.memory.withhold = True
            known: list[weakref.ref[object]] = []
            for n in range(8):
                raw = await Raw.open(world.socket)
                raw.say(write(n, 0, bytes(4096)))
                await until(lambda: world.server._unanswered.requests == 1)
                known += [weakref.ref(session._transmission.executor) for session in world.server._sessions]
                raw.close()
                await until(lambda: not world.server._sessions)
            await asyncio.sleep(0)
            gc.collect()
            assert len(known) == 8 and not any(executor() for executor in known)
            world.memory.release()

    run(scenario)
