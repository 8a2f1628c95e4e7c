"""Holds clients' writes back, unanswered and in no log, while the log must stand still for something."""

from __future__ import annotations

import asyncio


class WriteGate:
    """Open, until it is closed. What is held goes on in order once it is open again."""

    def __init__(self) -> None:
        self.closed = False
        self._opened = asyncio.Event()

    def close(self) -> None:
        """No write gets into the log from now on."""
        self.closed = True
        self._opened.clear()

    def open(self) -> None:
        """Writes go on."""
        self.closed = False
        self._opened.set()

    async def passed(self) -> None:
        """Return once it is open."""
        while self.closed:
            await self._opened.wait()
