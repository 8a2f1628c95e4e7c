"""What a target says of its progress: POSITIONS, once a wake-up, and whenever something became durable or agreed.

The source asks with SYNC for a position to be made durable, because a client waits; and every second the target
does so by itself. Requests that come while a sync runs are answered by the next one, together.
"""

from __future__ import annotations

import asyncio
from typing import Final

from revolume.mirror.frames import CHECK_SIZE, Type
from revolume.mirror.link import Link
from revolume.mirror.messages import POSITIONS, Positions, pack_positions
from revolume.mirror.parts import Secondary

SYNC_SECONDS: Final = 1.0
POSITIONS_BODY: Final = POSITIONS.size + CHECK_SIZE


class Reporter:
    """See the module's text."""

    def __init__(self, link: Link, secondary: Secondary) -> None:
        self._link = link
        self._secondary = secondary
        self._wanted = 0
        self._syncing: asyncio.Task[None] | None = None
        self._told: Positions | None = None

    def start(self) -> None:
        """Say where we are, and sync by ourselves from now on."""
        self.report()
        self._link.spawn(self._sync_on_time())

    def report(self) -> None:
        """Send what has changed since the last time."""
        if not self._link.open:
            return
        now = self._positions()
        if now != self._told:
            self._told = now
            self._link.send_control(Type.POSITIONS, pack_positions(now))
        if self._wanted > now.durable and self._syncing is None:
            self.want(self._wanted)

    def _positions(self) -> Positions:
        secondary = self._secondary
        agreed, received = secondary.agreed, secondary.received
        durable = min(secondary.durable, received)  # it may cover a part of a write
        if agreed is None:
            return Positions(received, durable, 0, 0)
        return Positions(received, durable, agreed.number, agreed.position)

    def want(self, position: int) -> None:
        """Make this position durable, as soon as it is stored."""
        self._wanted = max(self._wanted, position)
        if self._syncing is None and self._goal() > self._secondary.durable:
            self._syncing = self._link.spawn(self._sync())

    def _goal(self) -> int:
        return min(self._wanted, self._secondary.received)

    async def _sync(self) -> None:
        try:
            while (goal := self._goal()) > self._secondary.durable:
                await self._secondary.make_durable(goal)
        finally:
            self._syncing = None
        self.report()

    async def _sync_on_time(self) -> None:
        while True:
            await self._link.host.clock.sleep(SYNC_SECONDS)
            self.want(self._secondary.received)
