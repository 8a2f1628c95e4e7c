"""What a target says of its progress: POSITIONS, once a wake-up, and whenever something became durable or agreed.

The source asks with SYNC for a position to be made durable, because a client waits; and every second the target
does so by itself. Requests that come while a sync runs are answered by the next one, together.
"""

from __future__ import annotations

import asyncio
from typing import Final

from revolume.blocks.numbers import Position
from revolume.mirror.copy_protocols import TargetVolume
from revolume.mirror.link import Link
from revolume.mirror.target.in_sync_lease import InSyncLease, LeaseHolder
from revolume.mirror.wire.frames import Type
from revolume.mirror.wire.session_messages import pack_positions, unpack_number
from revolume.volume.members.positions import Positions

SYNC_SECONDS: Final = 1.0


class Reporter:
    """Reports what ``secondary`` has over one link, and syncs it; asks for the in-sync ``lease`` where there is
    one."""

    def __init__(self, link: Link, secondary: TargetVolume, lease: InSyncLease) -> None:
        self._link = link
        self._secondary = secondary
        self._wanted = Position(0)
        self._syncing: asyncio.Task[None] | None = None
        self._told: Positions | None = None
        self._lease = LeaseHolder(link, lease, secondary)

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
        return Positions(received, durable, agreed.number, agreed.position)

    def asked(self, kind: Type, body: memoryview) -> None:
        """SYNC or LEASE has come."""
        if kind == Type.SYNC:
            self.want(Position(unpack_number(body)))
        else:
            self._lease.told(body)

    def want(self, position: Position) -> None:
        """Make this position durable, as soon as it is stored."""
        self._wanted = max(self._wanted, position)
        if self._syncing is None and self._goal() > self._secondary.durable:
            self._syncing = self._link.spawn(self._sync())

    def _goal(self) -> Position:
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
