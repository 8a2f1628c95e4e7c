"""``host.Clock`` in virtual time. The wall clock may be set, far and in either direction; it is only a label."""

from __future__ import annotations

import asyncio

from revolume.sim.kernel.loop import SimLoop

BEGIN_NS = 1_767_225_600 * 1_000_000_000


class SimClock:
    """One machine's clocks."""

    def __init__(self, loop: SimLoop) -> None:
        self._loop = loop
        self.offset_ns = 0
        """What somebody has set the wall clock by."""
        self.boots = 1
        self.paused_ns = 0
        """Time that the machine was paused, of which its boot clock knows nothing."""

    def wall_ns(self) -> int:
        """Since 1970, as this machine believes."""
        return BEGIN_NS + self._loop.now_ns + self.offset_ns

    def monotonic_ns(self) -> int:
        """Since the world began."""
        return self._loop.now_ns

    def boot_ns(self) -> int:
        """Less what a pause of the whole machine took."""
        return self._loop.now_ns - self.paused_ns

    def boot_id(self) -> bytes:
        """Another one after each loss of power."""
        return self.boots.to_bytes(16, "little")

    async def sleep(self, seconds: float) -> None:
        """Virtual seconds."""
        await asyncio.sleep(seconds)
