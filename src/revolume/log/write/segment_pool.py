"""The segment files: which use each is in, which stand ready, and the prewriter that keeps them so.

A file goes round:  free → ready (has a new use number, durably registered) → in use → free.
New files get their room before their first use, so that a write can't meet ENOSPC. At leisure they are written
with zeroes as well, since a small synced write into a block written before costs half of one into a block that is
only allocated. When segments are taken faster than that, they are handed out allocated only. A file's name never
changes; its use number does.

Of what stands ready, at least half is written when there is leisure. The rest stays allocated only: a burst of new
data does not care, and would pay for the zeroes with twice the bytes to the disk. An allocated segment is
*upgraded* like this: it is withdrawn, written, and made ready again with a new use number behind the others. So
nobody takes it meanwhile, and use numbers ascend in the order in which segments are taken.

Room is a promise: only what stands ready counts, so that admission can refuse a write *before* it is
numbered. The pool stops making files when the log would outgrow its budget or the disk's reserve; then it is
``stuck`` until old segments are given back.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
from collections import deque
from collections.abc import Awaitable, Callable, Iterator

from revolume.blocks.geometry import BLOCK
from revolume.blocks.numbers import Address
from revolume.host.disk import Directory, out_of_room
from revolume.host.open_files import OpenFiles, PooledFile
from revolume.host.work import Work
from revolume.log.format.segment import Segment, segment_name
from revolume.log.write.pool_limits import BudgetLoan, PoolLimits, usable_blocks
from revolume.log.write.prewriting import SegmentFiles

BURST_S = 0.5
BATCH_FILES = 4
"""Files allocated at once, and registered by one edit, while they are in demand."""


class SegmentPool:
    """All segment files of a volume; one class with its prewriter, since each step of a file's round changes what
    both stand on. ``register`` makes file → use number durable; ``owed_bytes`` of the disk are somebody else's
    before a file is made."""

    def __init__(
        self,
        directory: Directory,
        work: Work,
        segment_blocks: int,
        limits: PoolLimits,
        register: Callable[[dict[int, int]], Awaitable[None]],
        owed_bytes: Callable[[], int] = lambda: 0,
    ) -> None:
        self._directory = directory
        self.disk_files = SegmentFiles(directory, segment_blocks * BLOCK)
        self._files = OpenFiles(directory)
        self._handles: dict[int, PooledFile] = {}
        self._work = work
        self._register = register
        self._owed_bytes = owed_bytes
        self.segment_blocks = segment_blocks
        self._usable_blocks = usable_blocks(segment_blocks)
        self.limits = limits
        self.loan = BudgetLoan()
        self.by_use: dict[int, Segment] = {}
        self.ready: deque[Segment] = deque()
        self.free: deque[int] = deque()
        self.next_use = 1
        self.next_index = 0
        self.made_ready = self.taken = self.handed_out_unwritten = 0
        self._in_place = directory.in_place()
        self._withdrawn = self._taken_before = self._demand = 0
        self.failure: OSError | None = None
        self._unopened: OSError | None = None
        self._doubtful: set[int] = set()  # free files of which the manifest may still say a use: these stay
        self.stuck = self.over_budget = self.disk_short = False
        """Stuck: no more files can be made now. Over budget: they are made beyond it, as far as the disk has room.
        Short: it is the disk that has no room for another one, not the budget."""
        self._wake, self._changed, self._wanted = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._stopping = False

    def adopt(self, uses: dict[int, int], next_use: int) -> None:
        """Open the files of a stopped volume: use number 0 means free. Use numbers go on at ``next_use``."""
        for index, use in sorted(uses.items(), key=lambda pair: (pair[1], pair[0])):
            self.next_index = max(self.next_index, index + 1)
            if not self._directory.exists(segment_name(index)):
                continue
            if use == 0:
                self.free.append(index)
                continue
            self._segment(index, use)
        self.next_use = next_use

    def _segment(self, index: int, use: int) -> Segment:
        """One of ours from now on. Its file is opened when it is used."""
        file = self._handles[use] = self._files.file(segment_name(index))
        segment = self.by_use[use] = Segment(index, use, self.segment_blocks, file)
        return segment

    def segments(self) -> list[Segment]:
        """Every segment with a use number, oldest use first."""
        return [self.by_use[use] for use in sorted(self.by_use)]

    def segment_at(self, address: Address) -> Segment:
        """The segment in which an address lies; KeyError if it has been recycled."""
        return self.by_use[address // self.segment_blocks]

    @property
    def kept_open(self) -> int:
        """How many files stay open at once."""
        return self._files.kept_max

    @property
    def files(self) -> int:
        """Segment files on the disk."""
        return len(self.by_use) + len(self.free) + self._withdrawn

    @property
    def bytes(self) -> int:
        """What the log takes on the disk."""
        return self.files * self.segment_blocks * BLOCK

    def gap_between(self, begin: Address, end: Address) -> int:
        """How many of the blocks from one address to another are in no segment. An unclean stop leaves the use
        numbers unused that stood ready, so addresses alone don't say how much log there is."""
        first, last = begin // self.segment_blocks, end // self.segment_blocks
        there = sum(first <= use <= last for use in self.by_use)
        return (last - first + 1 - there) * self.segment_blocks

    def segments_for(self, blocks: int) -> int:
        """Fresh segments in which so many blocks surely fit; of several, each may end with room to spare."""
        return (whole := -(-blocks // self._usable_blocks)) + (whole > 1)

    def take(self) -> Segment:
        """The next ready segment; the caller has looked at ``ready``. It stays open until ``sealed``."""
        segment = self.ready[0]
        self._handles[segment.use].hold()  # if that fails nothing has been taken
        self.ready.popleft()
        self.taken += 1
        self.handed_out_unwritten += not segment.written
        self._wake.set()
        self._open_next()
        return segment

    def _open_next(self) -> None:
        """The one that is taken next is opened before anybody waits for it, and tried again where that failed."""
        self._unopened = None
        if self.ready:
            try:
                self._handles[self.ready[0].use].hold()
            except OSError as error:
                self._unopened = error

    @property
    def at_hand(self) -> bool:
        """Whether the segment that is taken next can be taken now: it takes a descriptor."""
        if self._unopened is not None:
            self._open_next()
        return self._unopened is None

    def go_on_in(self, segment: Segment) -> None:
        """This segment, of which a part is used, is written to again: it stays open until ``sealed``."""
        self._handles[segment.use].hold()

    def sealed(self, use: int) -> None:
        """Nothing more is written to this segment, and all of it is synced: its file may be closed."""
        if use in self._handles:
            self._handles[use].release()

    def give_back(self, uses: list[int]) -> dict[int, int]:
        """Segments that nobody needs any more become free; returns the edit (file → 0)."""
        edit = {}
        for use in uses:
            segment = self.by_use.pop(use)
            self._handles.pop(use).close()
            edit[segment.index] = 0
        return edit

    def release(self, edit: dict[int, int]) -> None:
        """Files whose freedom is durable may be used again."""
        self.free.extend(edit)
        self.failure = None
        self._wake.set()

    async def shrink(self) -> None:
        """Free files that lie beyond the budget go from the disk; once all of the log is within it, it stays
        so."""
        while self.bytes > self.limits.budget_bytes and (sure := sorted(set(self.free) - self._doubtful)):
            self.free.remove(sure[-1])
            await self._work.call(self.remove, sure[-1:])
        self.over_budget = self.over_budget and self.bytes > self.limits.budget_bytes

    def remove(self, indexes: list[int]) -> None:
        """Files that are free, and known to be so, go from the disk. In a thread."""
        self.disk_files.remove(indexes)

    def start(self) -> None:
        """Start the prewriter."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """Stop the prewriter; what it has begun is finished."""
        self._stopping = True
        self._wake.set()
        self._wanted.set()
        task, self._task = self._task, None
        if task is not None:
            await task

    def close(self) -> None:
        """Close every file."""
        for file in self._handles.values():
            file.close()

    def demand(self, segments: int) -> None:
        """Somebody waits for so many ready segments, which may be more than usual."""
        self._demand = max(self._demand, segments)
        self._wanted.set()

    async def wait_ready(self, patience_s: float, retry: bool = True) -> bool:
        """Wait a while for a segment to become ready; False if none did. With ``retry`` it is tried now, and what
        fails at once ends the wait at once."""
        count = self.made_ready
        self._changed.clear()
        if retry:
            self._wake.set()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._changed.wait(), patience_s)
        return self.made_ready != count

    async def _run(self) -> None:
        with contextlib.suppress(Exception):  # a matter of speed alone
            await self._work.call(self.disk_files.look_at, list(self.ready))
        while not self._stopping:
            self._wake.clear()
            try:
                self.stuck = not await self._fill()
                if not self.at_hand and self._unopened is not None:
                    raise self._unopened
                self.failure = None
                if not self.stuck:
                    await self._upgrade()
            except Exception as error:  # whatever it was: writers are told, and it is tried again
                self.failure = error if isinstance(error, OSError) else OSError(errno.EIO, str(error))
                self.disk_short = out_of_room(self.failure)
                enough = len(self.ready) >= max(self.limits.ready, self._demand)
                self.stuck = not enough or self._unopened is not None
            self._changed.set()
            if not self._stopping:
                await self._wake.wait()

    async def _fill(self) -> bool:
        """Make segments ready until enough are; False if no more can be had."""
        while len(self.ready) < max(self.limits.ready, self._demand) and not self._stopping:
            in_demand = await self._let_burst_pass()
            self._taken_before = self.taken
            missing = max(self.limits.ready, self._demand) - len(self.ready)
            written = self._in_place and not in_demand
            made = await self._next_files(min(missing, BATCH_FILES) if in_demand else 1, written)
            if not made:
                return False
            await self.make_ready(made)
        self._demand = 0
        return True

    async def _let_burst_pass(self) -> bool:
        """Wait while segments are being taken and enough stand ready: making more would only take the disk and
        a core away from whoever is writing. It ends at once when somebody waits. Whether they are in demand: taken
        faster than they could be written."""
        while len(self.ready) > max(self.limits.ready // 2, self._demand) and not self._stopping and not self.free:
            if await self._nothing_taken(BURST_S):
                return False
        return self.taken != self._taken_before or self._demand > len(self.ready)

    async def _nothing_taken(self, seconds: float) -> bool:
        """Whether no segment was taken for so long. It ends early when somebody waits for one."""
        taken = self.taken
        self._wanted.clear()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._wanted.wait(), seconds)
        return self.taken == taken

    # Upgrading

    async def _upgrade(self) -> None:
        """At leisure: write segments that stand ready allocated only, until half of what should be ready is."""
        while self._wants_written() and self._may_withdraw():
            if not await self._nothing_taken(BURST_S):
                return
            if self._may_withdraw():
                await self._rewrite(next(s for s in self.ready if not s.written))
        behind = list(self._unwritten_in_front())
        if behind and self._may_withdraw():
            await self._again([(self._withdraw(segment), False) for segment in behind])

    def _wants_written(self) -> bool:
        """Whether zeroes are worth writing: not where every change goes to a new place anyway."""
        return sum(s.written for s in self.ready) < self.limits.ready // 2 and self._in_place

    def _may_withdraw(self) -> bool:
        """Whether one segment less is enough for a while, and there is one to be upgraded."""
        enough = len(self.ready) >= max(self.limits.ready, self._demand)
        return enough and len(self.ready) > 1 and not self._stopping and not all(s.written for s in self.ready)

    def _unwritten_in_front(self) -> Iterator[Segment]:
        """Segments that would be taken before a written one, though they are not."""
        written = [place for place, segment in enumerate(self.ready) if segment.written]
        return (s for s in list(self.ready)[: written[-1] if written else 0] if not s.written)

    def _withdraw(self, segment: Segment) -> int:
        """Take back a segment that stands ready; its file's index."""
        self.ready.remove(segment)
        del self.by_use[segment.use]
        self._handles.pop(segment.use).close()
        self._open_next()
        self._withdrawn += 1
        return segment.index

    async def _rewrite(self, segment: Segment) -> None:
        index, written = self._withdraw(segment), False
        try:
            await self._work.call(self.disk_files.write, index)
            written = True
        finally:
            await self._again([(index, written)])

    async def _again(self, files: list[tuple[int, bool]]) -> None:
        try:
            await self.make_ready(files)
        finally:
            self._withdrawn -= len(files)

    async def fresh(self, written: bool = True) -> Segment:
        """A ready segment made now, before the prewriter runs: for recovery."""
        made = await self._next_files(1, written and self._in_place, beyond_budget=True)
        if not made:
            raise OSError(errno.ENOSPC, "no room for a segment of the log")
        await self.make_ready(made)
        segment = self.ready.pop()
        self.sealed(segment.use)
        return segment

    async def _next_files(self, count: int, written: bool, beyond_budget: bool = False) -> list[tuple[int, bool]]:
        """Up to so many files for segments, and whether they are written: free ones, or new ones of which
        ``written`` says whether they shall be."""
        free = [(self.free.popleft(), True) for _ in range(min(count, len(self.free)))]
        if free:
            return free
        size = self.segment_blocks * BLOCK
        if not beyond_budget:
            count = min(count, self._may_grow_by(size))
            if count <= 0:
                return []
        made = await self._allocate(count)
        if written:
            await self._work.call(self.disk_files.write_or_remove, made)
        return [(index, written) for index in made]

    def _may_grow_by(self, size: int) -> int:
        """How many files the budget allows and the disk has room for."""
        slack = 0 if self.ready else 2 * size
        allowed = (self.limits.budget_bytes + slack - self.bytes) // size
        allowed = max(allowed, int(self.over_budget), self.loan.segments - len(self.ready))
        room = (self._directory.free_bytes() - self.limits.reserve_bytes - self._owed_bytes()) // size
        self.disk_short = room < 1 <= allowed
        return min(allowed, room)

    async def _allocate(self, count: int) -> list[int]:
        """New files; only one where there is no room for more after all."""
        first, self.next_index = self.next_index, self.next_index + count
        try:
            return await self._work.call(self.disk_files.allocate, range(first, first + count))
        except OSError as error:
            if count == 1 or not out_of_room(error):
                raise
        return await self._allocate(1)

    async def make_ready(self, files: list[tuple[int, bool]]) -> None:
        """Register files, each with whether it has been written, under the next use numbers."""
        uses = {index: self.next_use + place for place, (index, _) in enumerate(files)}
        self.next_use += len(files)
        try:
            await self._register(uses)
        except Exception:
            self.free.extend(uses)
            self._doubtful |= uses.keys()
            raise
        self._doubtful -= uses.keys()
        for index, written in files:
            segment = self._segment(index, uses[index])
            segment.written = written
            self.ready.append(segment)
        if len(self.ready) == len(files):
            self._open_next()
        self.made_ready += len(files)
        self._changed.set()
