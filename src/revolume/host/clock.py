"""Time: two clocks and waiting. The wall clock labels, the monotonic one measures; never the reverse."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol


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
