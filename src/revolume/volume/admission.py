"""Admission: whether the log has room, asked before a write is numbered, so that ENOSPC loses nothing.

Room comes back in three ways: the prewriter makes a segment ready, a fold gives old ones back, somebody
frees the disk. A waiter is told ENOSPC only when none of these is under way: the pool can make no file and
the folder has nothing to fold. Points have a reserve (``urgent``): folding needs them, and folding is what
makes room.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from revolume.errors import NoSpace, Poisoned
from revolume.host.clock import Clock
from revolume.log.pool import SegmentPool

PATIENCE_S = 2.0


class Admission:
    """``make_room`` tries to free segments and says whether that may yet succeed."""

    def __init__(self, clock: Clock, pool: SegmentPool, room: Callable[[], int]) -> None:
        self._clock = clock
        self._pool = pool
        self._room = room
        self.make_room: Callable[[], Awaitable[bool]] | None = None
        self.failure: Callable[[], Poisoned | None] = lambda: None
        self.refused = 0
        self.full = False

    @property
    def reserve(self) -> int:
        """Blocks that only points may use."""
        return min(self._pool.segment_blocks // 4, 1024)

    def admits(self, blocks: int) -> bool:
        """Whether so many blocks can be appended now, beyond the reserve."""
        return self._room() >= blocks + self.reserve

    async def wait(self, blocks: int, urgent: bool = False) -> None:
        """Return once so many blocks can be appended; NoSpace if they can't be had."""
        need = blocks if urgent else blocks + self.reserve
        self._pool.demand(need)
        hopeless = 0
        while self._room() < need:
            failure = self.failure()
            if failure is not None:
                raise failure
            if await self._pool.wait_ready(PATIENCE_S / 8):
                continue
            if self.make_room is not None and await self.make_room():
                hopeless = 0
                continue
            hopeless += 1
            if hopeless >= 4:
                self.refused += 1
                self.full = True
                raise NoSpace(
                    "no-space",
                    f"The log can't grow by {blocks * 4096} bytes: {self._why()}.",
                    "Free room on the disk, raise --budget, or drop the snapshot that 'revolume status' names.",
                )
        self.full = False

    def _why(self) -> str:
        if self._pool.failure is not None:
            return f"making a segment failed ({self._pool.failure.strerror})"
        return "its budget or the disk is used up, and nothing older may be folded"
