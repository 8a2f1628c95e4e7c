"""Gives memory back to the machine after clients have gone.

What clients had lies scattered over the heap; the C library hands back only what is free at its end, and the
collector, which does not look at what is there from the start, seldom comes. So some time after a client has left
both are asked: soon, and once more when what lingers for a client that comes back is over as well.
"""

from __future__ import annotations

import asyncio
import gc
from typing import Final

from revolume.host.clock import Clock
from revolume.host.real import libc
from revolume.host.work import Work

SOON_S: Final = 2.0
BETWEEN_S: Final = 10.0
LATER_S: Final = 65.0


class Tidy:
    """Trims the heap some seconds after a client has left. ``close`` it at the end."""

    def __init__(self, clock: Clock, work: Work) -> None:
        self._clock = clock
        self._work = work
        self._noted_ns = 0
        self._task: asyncio.Task[None] | None = None

    def note(self) -> None:
        """A client has gone."""
        self._noted_ns = self._clock.monotonic_ns()
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        seen_ns = 0
        while seen_ns != self._noted_ns:
            while seen_ns != self._noted_ns:
                seen_ns = self._noted_ns
                await self._clock.sleep(SOON_S)
                await self._tidy()
                await self._clock.sleep(BETWEEN_S)
            await self._clock.sleep(LATER_S)
            await self._tidy()

    async def _tidy(self) -> None:
        gc.collect()
        await self._work.call(libc.trim)

    async def close(self) -> None:
        """Trim no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
