"""What mirrors say of their copies: that one was found to differ from this volume, or was proved equal again."""

from __future__ import annotations

import asyncio

from revolume.volume.members.mirror import Mirror
from revolume.volume.state.events import EventKind, Events
from revolume.volume.suspect.suspicion import differs_here_words


class FoundDifferences:
    """Of one primary."""

    def __init__(self, events: Events) -> None:
        self._events = events
        self._unverified: asyncio.Queue[Mirror] = asyncio.Queue()

    async def next(self) -> Mirror:
        """The next mirror that was found to differ, again in every session that begins so: whoever serves the
        volume compares it then."""
        return await self._unverified.get()

    def told(self, mirror: Mirror, point: int) -> None:
        """The copy's root was not this volume's at this point, and it goes on; 0: it was proved equal since."""
        before, mirror.differs_since = mirror.differs_since, point
        if point and not before:
            self._events.tell(differs_here_words(mirror.name, point), EventKind.DIVERGED)
            self._unverified.put_nowait(mirror)
        elif before and not point:
            self._events.tell(f"Mirror {mirror.name} was compared, and is equal again.")
