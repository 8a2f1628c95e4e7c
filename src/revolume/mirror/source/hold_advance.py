"""What a source keeps for a mirror, as that agrees on newer points."""

from __future__ import annotations

import asyncio

from revolume.mirror.link import Link
from revolume.mirror.storage_protocols import SourceVolume
from revolume.volume.members.mirror import Mirror


class HoldAdvance:
    """Of one session. One record at a time: what the mirror agrees on meanwhile is recorded next."""

    def __init__(self, link: Link, volume: SourceVolume, mirror: Mirror) -> None:
        self._link = link
        self._volume = volume
        self._mirror = mirror
        self._point = 0
        self._advancing: asyncio.Task[None] | None = None

    def agreed(self, point: int) -> None:
        """The mirror has agreed on this point, durably: less of the log is kept for it from then on."""
        if point > self._point:
            self._point = point
            if self._advancing is None:
                self._advancing = self._link.spawn(self._advance())

    async def _advance(self) -> None:
        recorded = 0
        try:
            while recorded < self._point:
                recorded = self._point
                await self._volume.advance_hold(self._mirror)
        finally:
            self._advancing = None
