"""Admission: whether the log has room, asked before a write is numbered, so that ENOSPC loses nothing.

Room comes back in several ways: the prewriter makes a segment ready, a fold gives old ones back, readers of the
past give way (``room.py``), a required mirror comes on and needs the log no longer, somebody frees the disk. A
waiter is told ENOSPC only when none of these is under way, and then who keeps the log. Room for the next point is
always left (``urgent``): folding needs them, and folding is what makes room.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from revolume.errors import NoSpace, Poisoned, RevolumeError
from revolume.host.open_files import out_of_descriptors
from revolume.log.pool import SegmentPool

PATIENCE_S = 0.25
ATTEMPTS = 4
DESCRIPTOR_ATTEMPTS = 120
"""Half a minute: descriptors come back when clients leave."""


class Admission:
    """``holds`` says whether blocks fit beside so many spare segments; ``covered``: whether the disk has room for
    blocks that are written to ready segments, where that is a question (``cover.py``); ``make_room`` tries to free
    segments (with a point made for it, or without) and says whether it did or somebody is about to;
    ``point_blocks``: what the next point takes; ``keeper``: who keeps what is there and never gives way;
    ``waiting``: how many wait now."""

    def __init__(self, pool: SegmentPool, holds: Callable[[int, int], bool]) -> None:
        self._pool = pool
        self._holds = holds
        self.covered: Callable[[int, bool], bool] = lambda blocks, urgent: True
        self.make_room: Callable[[bool], Awaitable[bool]] | None = None
        self.point_blocks: Callable[[], int] = lambda: 1
        self.failure: Callable[[], Poisoned | None] = lambda: None
        self.keeper: Callable[[], str] = lambda: ""
        self.on_refusal: Callable[[str], None] = lambda cause: None
        self.refused = 0
        self.waiting = 0
        self._refused_least = 0

    def admits(self, blocks: int) -> bool:
        """Whether a client's so many blocks can be appended now; a segment is left for points."""
        return self.covered(blocks, False) and self._holds(blocks, self.spare)

    @property
    def spare(self) -> int:
        """Segments left for the next point."""
        return self._pool.segments_for(self.point_blocks())

    async def wait(self, blocks: int, urgent: bool = False) -> None:
        """Return once so many blocks can be appended; NoSpace if they can't be had."""
        self.waiting += 1
        try:
            await self._until_there_is_room(blocks, urgent)
        finally:
            self.waiting -= 1
        if blocks >= self._refused_least:
            self._refused_least = 0

    async def _until_there_is_room(self, blocks: int, urgent: bool) -> None:
        spare = 0 if urgent else self.spare
        hopeless = 0
        while not self.covered(blocks, urgent) or not self._holds(blocks, spare):
            failure = self.failure()
            if failure is not None:
                raise failure
            self._pool.demand(self._pool.segments_for(blocks) + spare)
            ready = await self._pool.wait_ready(PATIENCE_S)
            if (ready or not self._pool.stuck) and self.covered(blocks, urgent):
                continue
            if self.make_room is not None and await self.make_room(not urgent):
                hopeless = 0
                continue
            hopeless += 1
            if hopeless >= (DESCRIPTOR_ATTEMPTS if self._without_descriptors else ATTEMPTS):
                self._refuse(blocks)
            if self._without_descriptors:  # each attempt fails at once
                await self._pool.wait_ready(PATIENCE_S, retry=False)

    @property
    def full(self) -> bool:
        """Whether something has been refused, and nothing as large has found room since."""
        return self._refused_least > 0

    @property
    def _without_descriptors(self) -> bool:
        failure = self._pool.failure
        return failure is not None and out_of_descriptors(failure)

    def _refuse(self, blocks: int) -> None:
        if self._without_descriptors:
            raise RevolumeError(
                "out-of-descriptors",
                "No file of the log can be made ready: this process has no descriptor left.",
                "Raise its limit (ulimit -n, or LimitNOFILE= of the service), or let some clients leave.",
            )
        self.refused += 1
        self._refused_least = min(self._refused_least or blocks, blocks)
        self.on_refusal(f"writes are refused: {self._why()}")
        raise NoSpace(
            "no-space",
            f"The log can't grow by {blocks * 4096} bytes: {self._why()}.",
            "Free room on the disk, raise --budget, or drop the snapshot that 'revolume status' names.",
        )

    def _why(self) -> str:
        if self._pool.failure is not None:
            return f"making a segment failed ({self._pool.failure.strerror})"
        used = "the disk" if self._pool.disk_short or not self.covered(1, False) else "its budget"
        keeper = self.keeper()
        return f"{used} is used up, and {keeper or 'nothing older can be folded'}"
