"""Time: two clocks and waiting. The wall clock labels, the monotonic one measures; never the reverse."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from typing import Protocol, TypeVar

Result = TypeVar("Result")


class Clock(Protocol):
    def wall_ns(self) -> int:
        """Nanoseconds since 1970. It may jump, back as well: only ever a label."""

    def monotonic_ns(self) -> int:
        """Never goes back; the zero means nothing."""

    async def sleep(self, seconds: float) -> None: ...


class RealClock:
    """The kernel's clocks, called without anything in between."""

    __slots__ = ()

    wall_ns = staticmethod(time.time_ns)
    monotonic_ns = staticmethod(time.monotonic_ns)

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
