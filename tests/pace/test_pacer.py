"""Turns of bulk in virtual time: a rate, a window that opens, a floor."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

import pytest

from revolume.host.local_time import LocalTime
from revolume.pace.limits import BulkLimits, parse_window
from revolume.pace.pacer import FLOOR_BYTES, Pacer
from revolume.sim.kernel.chance import Chance
from revolume.sim.kernel.clock import SimClock
from revolume.sim.kernel.loop import SimLoop
from revolume.sim.kernel.trace import Trace

MIB = 1 << 20
HOUR = 3600
BEGAN_NS = 10**9
"""Where virtual time begins."""


def utc(wall_ns: int) -> LocalTime:
    return LocalTime(wall_ns // 10**9 % 86400, "UTC")


class Sent:
    """Bytes that a sender which is never short of anything sends, piece by piece."""

    def __init__(self, pacer: Pacer, clock: SimClock, piece_s: float = 0.0) -> None:
        self.pacer = pacer
        self.clock = clock
        self.piece_s = piece_s
        self.bytes = 0
        self.first_ns = -1

    async def send(self, amount: int) -> None:
        with self.pacer.sending():
            while self.bytes < amount:
                began_ns = await self.pacer.turn()
                self.first_ns = began_ns if self.first_ns < 0 else self.first_ns
                await self.clock.sleep(self.piece_s)
                self.bytes += self.pacer.piece_bytes
                self.pacer.sent(self.pacer.piece_bytes, began_ns)


def simulated_loop() -> SimLoop:
    return SimLoop(Chance(1, "pace"), Trace())


def simulated(loop: SimLoop, job: Awaitable[None]) -> None:
    async def run() -> None:
        await job

    asyncio.set_event_loop(loop)
    try:
        loop.run_until_complete(run())
    finally:
        asyncio.set_event_loop(None)
        loop.close()


@pytest.mark.parametrize("rate", [64 << 10, MIB, 50 * MIB])
def test_a_rate_is_kept(rate: int) -> None:
    loop = simulated_loop()
    clock = SimClock(loop)
    sent = Sent(Pacer(clock, BulkLimits(rate)), clock)
    simulated(loop, sent.send(rate * 10))
    assert clock.monotonic_ns() - BEGAN_NS == pytest.approx(10e9, rel=0.02)


def test_a_window_is_waited_for_and_told() -> None:
    loop = simulated_loop()
    clock = SimClock(loop)
    clock.offset_ns = 21 * HOUR * 10**9 - clock.wall_ns() % (86400 * 10**9)
    pacer = Pacer(clock, BulkLimits(MIB, parse_window("22:00-06:00")), local=utc)
    sent = Sent(pacer, clock)
    assert pacer.words == "It waits for its window, 22:00-06:00 UTC, which opens in 1 h 00 min."
    assert pacer.seconds(10 * MIB, 0.0) == HOUR + 10
    assert pacer.seconds(9 * HOUR * MIB, 2.0 * MIB) == HOUR + 8 * HOUR + 16 * HOUR + HOUR
    simulated(loop, sent.send(10 * MIB))
    assert sent.first_ns - BEGAN_NS == pytest.approx(HOUR * 1e9, abs=2e9)
    assert pacer.words == "It is held to 1,024 KiB/s by --resync-rate."


def test_beside_clients_it_goes_on_at_least_at_the_floor() -> None:
    """Pieces that take ten times what they should, and lags that say: less."""
    loop = simulated_loop()
    clock, asked = SimClock(loop), iter(range(1 << 40))
    pacer = Pacer(clock, asked=lambda: next(asked))
    sent = Sent(pacer, clock, 0.0005)
    pacer.governor.tick(1, 0, True)
    pacer.governor.share = 0.0001
    simulated(loop, sent.send(FLOOR_BYTES * 10))
    assert clock.monotonic_ns() - BEGAN_NS < 15e9


def test_a_rate_can_be_changed_while_something_is_sent() -> None:
    loop = simulated_loop()
    clock = SimClock(loop)
    pacer = Pacer(clock, BulkLimits(MIB))
    sent = Sent(pacer, clock)

    async def both() -> None:
        sending = asyncio.ensure_future(sent.send(100 * MIB))
        await clock.sleep(10)
        pacer.limits = BulkLimits()
        await sending

    simulated(loop, both())
    assert clock.monotonic_ns() - BEGAN_NS < 12e9
