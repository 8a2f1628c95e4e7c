"""Who may append to a log: everybody, or for a while one alone.

A write of many places that goes over many turns of the loop must have nothing between its parts: no other write,
no point's record, no fact. While it is open it has the turn, and whoever else would append waits until it is over,
or comes again (``taken``).

Between awaits: whoever has seen that the turn is not taken appends before anything is awaited.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class AppendTurn:
    """The turn of one log."""

    def __init__(self) -> None:
        self.taken = False
        self._given_back = asyncio.Event()

    async def passed(self) -> None:
        """Return while nobody has the turn."""
        while self.taken:
            await self._given_back.wait()

    @asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """Nobody else appends within."""
        await self.passed()
        self.taken = True
        self._given_back.clear()
        try:
            yield
        finally:
            self.taken = False
            self._given_back.set()
