"""Time: two clocks and waiting. The wall clock labels, the monotonic one measures; never the reverse."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable
from pathlib import Path
from typing import Protocol, TypeVar

Result = TypeVar("Result")


class Clock(Protocol):
    def wall_ns(self) -> int:
        """Nanoseconds since 1970. It may jump, back as well: only ever a label."""

    def monotonic_ns(self) -> int:
        """Never goes back; the zero means nothing. It stands still while the machine is suspended."""

    def boot_ns(self) -> int:
        """Since the machine was started, time in which it was suspended included."""

    def boot_id(self) -> bytes:
        """16 bytes that are others after each start of the machine; zeroes: not known."""

    async def sleep(self, seconds: float) -> None: ...


class Elapsed:
    """Time that has passed since this was made, for whoever may hold something no longer than that: the larger of
    what the clock of the machine's start and the wall clock say. A machine that was paused and knows no better
    by its boot clock is told by its wall clock, once that is set right."""

    __slots__ = ("_boot_ns", "_clock", "_wall_ns")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._boot_ns, self._wall_ns = clock.boot_ns(), clock.wall_ns()

    @property
    def ns(self) -> int:
        return max(self._clock.boot_ns() - self._boot_ns, self._clock.wall_ns() - self._wall_ns)


class RealClock:
    """The kernel's clocks, called without anything in between."""

    __slots__ = ()

    wall_ns = staticmethod(time.time_ns)
    monotonic_ns = staticmethod(time.monotonic_ns)

    def boot_ns(self) -> int:
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME)

    def boot_id(self) -> bytes:
        try:
            return uuid.UUID(Path("/proc/sys/kernel/random/boot_id").read_text().strip()).bytes
        except (OSError, ValueError):
            return bytes(16)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


async def within(clock: Clock, seconds: float, job: Awaitable[Result]) -> Result:
    """``job``'s result, or TimeoutError when ``seconds`` have passed by this clock; it is cancelled then."""
    work = asyncio.ensure_future(job)
    bell = asyncio.ensure_future(clock.sleep(seconds))
    try:
        await asyncio.wait({work, bell}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            raise TimeoutError
        return work.result()
    finally:
        bell.cancel()
        work.cancel()
