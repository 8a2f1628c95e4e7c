"""The segment files: which use each is in, which stand ready, and the prewriter that keeps them so.

A file goes round:  free → ready (has a new use number, durably registered) → in use → free.
New files are written with zeroes before their first use, since a write into a written extent costs a third
of one that allocates, and can't meet ENOSPC. A file's name never changes; its use number does.

Room is a promise: only what stands ready counts, so that admission can refuse a write *before* it is
numbered. The pool stops making files when the log would outgrow its budget
or the disk's reserve; then it is ``stuck`` until old segments are given back.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from revolume.host.disk import Directory
from revolume.host.open_files import OpenFiles, PooledFile
from revolume.host.work import Work
from revolume.log.segment import Segment, segment_name
from revolume.log.transfer import BLOCK

ZEROES = bytes(1 << 20)
SEGMENT_WASTE_BLOCKS = 11
BURST_S = 0.5
Register = Callable[[dict[int, int]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class PoolLimits:
    """``ready``: segments kept ready. ``budget``: bytes of log in all. ``reserve``: bytes left on the disk."""

    ready: int
    budget_bytes: int
    reserve_bytes: int


class SegmentPool:
    """All segment files of a volume. ``register`` makes file → use number durable."""

    def __init__(
        self,
        directory: Directory,
        work: Work,
        segment_blocks: int,
        limits: PoolLimits,
        register: Register,
    ) -> None:
        self._directory = directory
        self._files = OpenFiles(directory)
        self._handles: dict[int, PooledFile] = {}
        self._work = work
        self._register = register
        self.segment_blocks = segment_blocks
        self.limits = limits
        self.by_use: dict[int, Segment] = {}
        self.ready: deque[Segment] = deque()
        self.free: deque[int] = deque()
        self.next_use = 1
        self.next_index = 0
        self.prewritten_bytes = 0
        self.made_ready = 0
        self.taken = 0
        self.failure: OSError | None = None
        self.owed_bytes: Callable[[], int] = lambda: 0
        """Bytes of the disk that are somebody else's before a file is made."""
        self._demand = 0
        self.stuck = False
        self.over_budget = False
        """Files are made beyond the budget, as far as the disk has room."""
        self.disk_short = False
        """It is the disk that has no room for another file, not the budget."""
        self._wake = asyncio.Event()
        self._changed = asyncio.Event()
        self._wanted = asyncio.Event()
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

    def segment_at(self, address: int) -> Segment:
        """The segment in which an address lies; KeyError if it has been recycled."""
        return self.by_use[address // self.segment_blocks]

    @property
    def kept_open(self) -> int:
        """How many files stay open at once."""
        return self._files.kept_max

    @property
    def files(self) -> int:
        """Segment files on the disk."""
        return len(self.by_use) + len(self.free)

    @property
    def bytes(self) -> int:
        """What the log takes on the disk."""
        return self.files * self.segment_blocks * BLOCK

    def segments_for(self, blocks: int) -> int:
        """Segments in which so many blocks of transfers surely fit: what headers, footers and the transfer
        that no longer fits at a segment's end leave of each."""
        return -(-blocks // (self.segment_blocks - self.segment_blocks // 64 - SEGMENT_WASTE_BLOCKS)) + 1

    def take(self) -> Segment:
        """The next ready segment; the caller has looked at ``ready``. It stays open until ``sealed``."""
        segment = self.ready.popleft()
        self._handles[segment.use].hold()
        self.taken += 1
        self._wake.set()
        self._open_next()
        return segment

    def _open_next(self) -> None:
        """The one that is taken next is opened before anybody waits for it, and tried again where that failed."""
        if self.ready:
            with contextlib.suppress(OSError):
                self._handles[self.ready[0].use].hold()

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
        while self.free and self.bytes > self.limits.budget_bytes:
            await self._work.call(self.remove, [self.free.pop()])
        self.over_budget = self.over_budget and self.bytes > self.limits.budget_bytes

    def remove(self, indexes: list[int]) -> None:
        """Files that are free, and known to be so, go from the disk. In a thread."""
        for index in indexes:
            self._directory.remove(segment_name(index))

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

    async def wait_ready(self, patience_s: float) -> bool:
        """Wait a while for a segment to become ready; False if none did."""
        count = self.made_ready
        self._changed.clear()
        self._wake.set()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._changed.wait(), patience_s)
        return self.made_ready != count

    async def _run(self) -> None:
        while not self._stopping:
            self._wake.clear()
            try:
                self.stuck = not await self._fill()
                self.failure = None
            except Exception as error:  # whatever it was: writers are told, and it is tried again
                self.failure = error if isinstance(error, OSError) else OSError(errno.EIO, str(error))
                self.disk_short = self.failure.errno == errno.ENOSPC
                self.stuck = True
            self._changed.set()
            if not self._stopping:
                await self._wake.wait()

    async def _fill(self) -> bool:
        """Make segments ready until enough are; False if no more can be had."""
        while len(self.ready) < max(self.limits.ready, self._demand) and not self._stopping:
            await self._let_burst_pass()
            index = await self._next_file()
            if index is None:
                return False
            await self.make_ready(index)
        self._demand = 0
        return True

    async def _let_burst_pass(self) -> None:
        """While segments are being taken and enough stand ready, writing zeroes would only take the disk and
        a core away from whoever is writing. It ends at once when somebody waits."""
        while len(self.ready) > max(self.limits.ready // 2, self._demand) and not self._stopping and not self.free:
            taken = self.taken
            self._wanted.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wanted.wait(), BURST_S)
            if self.taken == taken:
                return

    async def fresh(self) -> Segment:
        """A ready segment made now, before the prewriter runs: for recovery."""
        index = await self._next_file(beyond_budget=True)
        if index is None:
            raise OSError(errno.ENOSPC, "no room for a segment of the log")
        await self.make_ready(index)
        segment = self.ready.pop()
        self.sealed(segment.use)
        return segment

    async def _next_file(self, beyond_budget: bool = False) -> int | None:
        if self.free:
            return self.free.popleft()
        size = self.segment_blocks * BLOCK
        if not beyond_budget:
            slack, self.disk_short = 0 if self.ready else 2 * size, False
            if self.bytes + size > self.limits.budget_bytes + slack and not self.over_budget:
                return None
            self.disk_short = self._directory.free_bytes() < size + self.limits.reserve_bytes + self.owed_bytes()
            if self.disk_short:
                return None
        index, self.next_index = self.next_index, self.next_index + 1
        await self._work.call(self._prewrite, index)
        return index

    def _prewrite(self, index: int) -> None:
        """In a thread: a file full of zeroes, durable, under its name."""
        name = segment_name(index)
        file = self._directory.open(name, create=True)
        try:
            size = self.segment_blocks * BLOCK
            file.allocate(0, size)  # writing into allocated extents is twice as fast as growing
            for offset in range(0, size, len(ZEROES)):
                file.pwritev([ZEROES[: size - offset]], offset)
            file.datasync()
        except OSError:
            file.close()
            self._directory.remove(name)
            raise
        file.close()
        self._directory.sync()
        self.prewritten_bytes += size

    async def make_ready(self, index: int) -> None:
        use, self.next_use = self.next_use, self.next_use + 1
        try:
            await self._register({index: use})
        except Exception:
            self.free.append(index)
            raise
        self.ready.append(self._segment(index, use))
        if len(self.ready) == 1:
            self._open_next()
        self.made_ready += 1
        self._changed.set()
