"""Admission: whether the log has room, asked before a write is numbered, so that ENOSPC loses nothing.

Room comes back in several ways: the prewriter makes a segment ready, a fold gives old ones back, readers of the
past give way (``make_room.py``), a required mirror comes on and needs the log no longer, somebody frees the disk.
A waiter is told ENOSPC only when none of these is under way, and then who keeps the log. Room for the next point
is always left (``urgent``): folding needs them, and folding is what makes room. Where it could not be left,
since the log came to its length as a mirror's or under another budget, a point goes beyond it (``make_room.py``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from revolume.blocks.geometry import BLOCK
from revolume.errors import NoSpace, Poisoned, RevolumeError
from revolume.host.open_files import out_of_descriptors
from revolume.log.write.segment_pool import SegmentPool
from revolume.volume.metadata.keep_policy import WhenFull

PATIENCE_S = 0.25
ATTEMPTS = 4
DESCRIPTOR_ATTEMPTS = 120
"""Half a minute: descriptors come back when clients leave."""


class RoomMaker(Protocol):
    """Who makes room in the log when a waiter finds none."""

    @property
    def point_blocks(self) -> int:
        """Blocks that the next point's record takes: so much is left when a client's write is admitted."""

    async def make(self, may_cut: bool, wanted: int) -> bool:
        """Try to free segments (with a point made for it, or without); whether it did or somebody is about to.
        ``wanted``: ready segments that the waiter needs."""


class Admission:
    """``holds`` says whether blocks fit beside so many spare segments; ``covered``: whether the disk has room for
    blocks that are written to ready segments, where that is a question (``copy_on_write.py``; what is urgent may
    take of the reserve); ``failure``: why nothing will ever be admitted; ``keeper``: who keeps what is there and
    never gives way; ``on_refusal`` is told why writes are refused, or wait; ``when_full``: which of these they do
    where nothing else can be done. ``waiting``: how many wait now.

    A point needs room, and making room needs points: so the room maker comes when everything else stands
    (``served_by``). Until then only what is ready is admitted."""

    def __init__(
        self,
        pool: SegmentPool,
        holds: Callable[[int, int], bool],
        *,
        covered: Callable[[int, bool], bool] = lambda blocks, urgent: True,
        failure: Callable[[], Poisoned | None] = lambda: None,
        keeper: Callable[[], str] = lambda: "",
        on_refusal: Callable[[str], None] = lambda cause: None,
        when_full: Callable[[], WhenFull] = lambda: WhenFull.SHRINK,
    ) -> None:
        self._pool = pool
        self._holds = holds
        self._room: RoomMaker | None = None
        self.covered = covered
        self._failure = failure
        self._keeper = keeper
        self.on_refusal = on_refusal
        self._when_full = when_full
        self.refused = 0
        self.waiting = 0
        self._refused_least = 0
        self._told_waiting = False

    def served_by(self, room: RoomMaker) -> None:
        """From now on ``room`` makes room."""
        self._room = room

    def admits(self, blocks: int) -> bool:
        """Whether a client's so many blocks can be appended now; a segment is left for points."""
        return self.covered(blocks, False) and self._holds(blocks, self.spare)

    @property
    def spare(self) -> int:
        """Segments left for the next point."""
        return self._pool.segments_for(1 if self._room is None else self._room.point_blocks)

    async def wait(self, blocks: int, urgent: bool = False, told: bool = True) -> None:
        """Return once so many blocks can be appended; NoSpace if they can't be had. ``told``: it is a
        client's, whose refusal is noted, and which waits for as long as it takes where ``when_full`` says so; else
        it is much more than they ask for, and nobody may wait behind it."""
        self.waiting += 1
        try:
            await self._until_there_is_room(blocks, urgent, told)
        finally:
            self.waiting -= 1
            if urgent:
                self._pool.loan.close()
            self._told_waiting = self._told_waiting and self.waiting > 0
        if blocks >= self._refused_least:
            self._refused_least = 0

    async def _until_there_is_room(self, blocks: int, urgent: bool, told: bool) -> None:
        spare = 0 if urgent else self.spare
        hopeless = 0
        while not self.covered(blocks, urgent) or not self._holds(blocks, spare):
            failure = self._failure()
            if failure is not None:
                raise failure
            wanted = self._pool.segments_for(blocks) + spare
            self._pool.demand(wanted)
            ready = await self._pool.wait_ready(PATIENCE_S)
            if (ready or not self._pool.stuck) and self.covered(blocks, urgent):
                continue
            if self._room is not None and await self._room.make(not urgent, wanted):
                hopeless = 0
                continue
            hopeless += 1
            if told and self._blocks(urgent):
                self._tell_waiting()
                await self._pool.wait_ready(PATIENCE_S, retry=False)
            elif hopeless >= self._attempts(urgent):
                self._refuse(blocks, told)
            if self._without_descriptors:  # each attempt fails at once
                await self._pool.wait_ready(PATIENCE_S, retry=False)

    def _blocks(self, urgent: bool) -> bool:
        """Whether clients wait for as long as it takes. What makes room never does."""
        return not urgent and not self._without_descriptors and self._when_full() == WhenFull.BLOCK

    def _attempts(self, urgent: bool) -> int:
        if self._without_descriptors:
            return DESCRIPTOR_ATTEMPTS
        return 1 if self._when_full() == WhenFull.REFUSE and not urgent else ATTEMPTS

    def _tell_waiting(self) -> None:
        if not self._told_waiting:
            self._told_waiting = True
            self.on_refusal(f"writes wait: {self._why()}, and --when-full is block")

    @property
    def blocked(self) -> str:
        """Why clients wait, as --when-full says; empty: they do not."""
        return self._why() if self._told_waiting and self.waiting else ""

    @property
    def full(self) -> bool:
        """Whether something has been refused, and nothing as large has found room since."""
        return self._refused_least > 0

    @property
    def _without_descriptors(self) -> bool:
        failure = self._pool.failure
        return failure is not None and out_of_descriptors(failure)

    def _refuse(self, blocks: int, told: bool) -> None:
        if self._without_descriptors:
            raise RevolumeError(
                "out-of-descriptors",
                "No file of the log can be made ready: this process has no descriptor left.",
                "Raise its limit (ulimit -n, or LimitNOFILE= of the service), or let some clients leave.",
            )
        if told:
            self.refused += 1
            self._refused_least = min(self._refused_least or blocks, blocks)
            self.on_refusal(f"writes are refused: {self._why()}")
        raise NoSpace(
            "no-space",
            f"The log can't grow by {blocks * BLOCK} bytes: {self._why()}.",
            "Free room on the disk, raise --budget, or drop the snapshot that 'revolume status' names.",
        )

    def _why(self) -> str:
        if self._pool.failure is not None:
            return f"making a segment failed ({self._pool.failure.strerror})"
        used = "the disk" if self._pool.disk_short or not self.covered(1, False) else "its budget"
        keeper = self._keeper()
        return f"{used} is used up, and {keeper or 'nothing older can be folded'}"
