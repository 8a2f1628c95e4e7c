"""An open volume, as clients and operators see it. It owns no algorithm: each method names the part that
does the work.

    append      Writer            room        Admission
    durable     Commit            read        Reader
    cut         Cutter            horizon     Folder

Between awaits: ``append`` numbers, writes and notes in one turn of the loop, so whoever reads afterwards, on
whatever connection, sees it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from revolume.chain.point import Point
from revolume.errors import Damaged, NotFound, Poisoned, Refused, RevolumeError, TimedOut, UsageError
from revolume.host.clock import within
from revolume.log.ops import OP_RESIZE, NoRoomNow, Op
from revolume.log.transfer import BLOCK
from revolume.volume import facts, layout
from revolume.volume.base_history import History
from revolume.volume.base_start import base_start
from revolume.volume.clock_mark import pack_clock
from revolume.volume.clock_step import follow_clock
from revolume.volume.condition import Condition, state_of
from revolume.volume.core import Core, lost_sentence
from revolume.volume.cutter import Cutter
from revolume.volume.damage import RANGES_TOLD, ranges
from revolume.volume.events import EventKind
from revolume.volume.feed import Feed
from revolume.volume.first_base import MAP_SLACK
from revolume.volume.folder import Folder, holders
from revolume.volume.forecast import Outlook
from revolume.volume.manifest import EditKind, Mark, PinnedSnapshot, pack_mark, pack_number, pack_snapshot
from revolume.volume.mirrors import Mirrors
from revolume.volume.remembered import Remembered
from revolume.volume.room import Room, refusal
from revolume.volume.status import Snapshot, VolumeStatus

CUT_BLOCKS = 1 << 19
CUT_RANGES = 4096
PARTIALS_MAX = 4096
SWEEP_PRESSURE = 0.4  # below it what the overlay need not know any more is still worth having at hand
PLENTY_BLOCKS = 1 << 17
WRITEBACK_BYTES = 16 << 20
CLEAN_REPLAY_SEGMENTS = 4
IDLE_S = 3.0
MANIFEST_BYTES = 2 << 20
CONFIRMED_SECONDS = 5.0
"""How long a larger size, or a snapshot, waits for required mirrors before it is told that it waits."""


class Volume(Remembered):
    """A volume open as primary. Made by ``opening.open_volume``."""

    def __init__(self, core: Core, cutter: Cutter, folder: Folder) -> None:
        super().__init__(core, folder)
        self.cutter = cutter
        self._reserved = core.manifest.state.reserved
        self._reserving: asyncio.Task[None] | None = None
        self._unreserved: RevolumeError | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._resting: list[asyncio.Task[None] | None] = []
        self._appended = asyncio.Event()
        self.points_failure: str | None = None
        self._closing = False
        self._accepting = True
        self._tight = core.live.overlay.room() < MAP_SLACK
        self._unwritten = 0
        self._naming: set[str] = set()
        self._hint: asyncio.Future[None] | None = None
        self.feed = Feed(core)
        self.mirrors = Mirrors(core, cutter.begin, lambda: folder.retired_write)
        self._facts = asyncio.Lock()
        """Held from a fact about a name in the log to the same in the manifest."""
        self.outlook = Outlook(core)

    # What it is

    @property
    def epoch(self) -> int:
        """This opening's number."""
        return self.core.appender.epoch

    @property
    def position(self) -> int:
        """The last appended position."""
        return self.core.appender.position

    @property
    def write(self) -> int:
        """The last write's number."""
        return self.core.appender.written

    # The data path

    def append(self, ops: list[Op]) -> int:
        """Append operations, in order; the position after which they are done. NoRoomNow: wait for
        ``room``, nothing was done. Poisoned, Refused: never."""
        core = self.core
        commit = core.commit
        if commit.failure is not None:
            raise commit.failure
        if not self._accepting:
            raise self._closed()
        if self._tight or core.appender.write + len(ops) >= self._reserved or self._wants_room(ops):
            raise NoRoomNow
        if commit.unsynced_bytes > 2 * core.unsynced_bytes_max:
            raise NoRoomNow
        position = core.writer.append(ops)
        self._after_append()
        return position

    def _closed(self) -> Refused:
        return Refused("closing", f"{self.name} is being closed.", "Open it again.")

    def _wants_room(self, ops: list[Op]) -> bool:
        """Near the end of what is ready the exact answer is worth its price."""
        core = self.core
        if not core.cover.copies and len(core.pool.ready) * core.pool.segment_blocks > PLENTY_BLOCKS:
            return len(core.partials) > PARTIALS_MAX
        return not core.admission.admits(core.writer.need_blocks(ops)) or len(core.partials) > PARTIALS_MAX

    def _after_append(self) -> None:
        core = self.core
        self._appended.set()
        commit = core.commit
        if commit.unsynced_bytes > core.unsynced_bytes_max:
            commit.start()
        if commit.unsynced_bytes - self._unwritten > WRITEBACK_BYTES or commit.unsynced_bytes < self._unwritten:
            self._write_out(commit.unsynced_bytes)
        interval = core.live.interval
        if interval.count > CUT_BLOCKS or len(interval.ranges) > CUT_RANGES or self._interval_fills_the_reserve():
            self.cutter.request()
        if core.appender.write > self._reserved - core.options.reserve_writes // 2 and self._reserving is None:
            self._reserving = asyncio.create_task(self._reserve())
        if not core.live.digest:
            self._tight = core.live.overlay.room() < MAP_SLACK
            if self._tight:
                self.cutter.request()

    def _interval_fills_the_reserve(self) -> bool:
        """A fold goes from point to point: no stretch between two may want more room than is kept back."""
        core = self.core
        size, spare = core.reserve.size, 2 * core.pool.segment_blocks * BLOCK
        stretch = (core.appender.address - core.live.interval.begin) * BLOCK
        return size > 0 and stretch > max(size - spare, spare)

    def _write_out(self, unsynced: int) -> None:
        """Have the kernel begin to write, so that dirty pages stay few and syncs short. A hint, in a thread,
        because it waits when the disk's queue is full."""
        self._unwritten = unsynced
        segment = self.core.appender.segment
        if segment is None or (self._hint is not None and not self._hint.done()):
            return
        end = self.core.appender.next_block * BLOCK
        begin = max(0, end - 2 * WRITEBACK_BYTES)
        self._hint = asyncio.ensure_future(self.core.host.work.call(segment.file.writeback, begin, end - begin))

    async def _reserve(self) -> None:
        """Give out no write number that a crash might give out again."""
        try:
            upto = self.core.appender.write + self.core.options.reserve_writes
            await self.core.recorder.record((EditKind.RESERVE, pack_number(upto)))
            self._reserved = upto
            self._unreserved = None
        except RevolumeError as error:
            self._unreserved = error
        finally:
            self._reserving = None

    async def room(self, ops: list[Op]) -> None:
        """Wait until ``ops`` would be admitted. NoSpace: they won't be."""
        core = self.core
        while core.appender.write + len(ops) >= self._reserved:
            self._reserving = self._reserving or asyncio.create_task(self._reserve())
            await asyncio.wait([self._reserving])
            self._raise_poisoned()
            if self._unreserved is not None:
                raise self._unreserved
        while self._tight:
            await self.cutter.cut()
            await self.folder.rebase(force=True)
            core.live.overlay.sweep(1 << 30)
            self._tight = core.live.overlay.room() < MAP_SLACK
            await core.host.clock.sleep(0.01)
        if core.commit.unsynced_bytes > core.unsynced_bytes_max:
            await core.commit.wait_durable(self.position)
        if len(core.partials) > PARTIALS_MAX:
            await self.cutter.cut()
        await core.admission.wait(core.writer.need_blocks(ops))

    def _raise_poisoned(self) -> None:
        if self.core.commit.failure is not None:
            raise self.core.commit.failure

    def released(self, position: int) -> bool:
        """Whether plain writes up to ``position`` may be answered: once appended, here and in the log file of
        every required mirror."""
        return position <= self.core.appender.position and self.mirrors.released(position)

    def on_release(self, position: int, callback: Callable[[], None]) -> None:
        """Call back when ``released(position)``; without required mirrors that is now."""
        self.mirrors.on_release(position, callback)

    async def durable(self, position: int) -> None:
        """Return once everything up to ``position`` survives a power cut, here and at every required mirror.
        Poisoned if it can't here; a lost mirror is waited for."""
        await self.core.commit.wait_durable(position)
        await self.mirrors.wait_durable(position)

    def read_now(self, reads: list[tuple[int, memoryview]]) -> list[int]:
        """Fill what lies in memory; the indexes of the rest."""
        return self.core.reader.read_now(reads)

    async def read(self, offset: int, buffer: memoryview) -> None:
        """Fill ``buffer``. Damaged: it is not what was written."""
        await self.core.reader.read(offset, buffer)

    # Consistency points, snapshots, size

    async def cut(self) -> Point:
        """A consistency point now; the newest one when nothing has changed since."""
        point = await self.cutter.cut()
        if point is None:
            raise NotFound("no-point", f"Nothing has ever been written to {self.name}.", "Write first.")
        return point

    async def snapshot(self, name: str) -> Snapshot:
        """Name and pin this moment; durable when it returns, here and at every required mirror. TimedOut: it is so
        here, and a mirror is away."""
        self._refuse_taken(name)
        self._naming.add(name)
        let_go = self.core.lease(f"snapshot {name} being made", self.write)
        try:
            point = await self.cutter.cut() or self.folder.horizon
            number = point.number if isinstance(point, Point) else point.point
            pin = PinnedSnapshot(name, point.write, number, point.time_ns)
            async with self._facts:
                await self.append_fact(facts.snapshot_taken(pin))
                await self.core.recorder.record((EditKind.SNAPSHOT, pack_snapshot(pin)))
                position = self.position
            await self._confirmed(position, "snapshot-unconfirmed", f"Snapshot {name} of {self.name} is made")
            return Snapshot(name, pin.write, pin.point, pin.time_ns)
        finally:
            self._naming.discard(name)
            let_go()

    def _refuse_taken(self, name: str) -> None:
        taken = {s.name for s in self.core.manifest.state.snapshots} | self._naming
        if name in taken:
            raise Refused("snapshot-exists", f"{self.name} has a snapshot {name}.", "Choose another name.")

    async def drop_snapshot(self, name: str) -> None:
        """Forget a snapshot: its moment is kept only as long as any other."""
        if all(s.name != name for s in self.core.manifest.state.snapshots):
            raise NotFound("no-snapshot", f"{self.name} has no snapshot {name}.", "See 'revolume points'.")
        async with self._facts:
            await self.append_fact(facts.snapshot_dropped(name))
            await self.core.recorder.record((EditKind.DROP_SNAPSHOT, name.encode()))

    async def named(self) -> tuple[tuple[PinnedSnapshot, ...], int]:
        """The snapshots, with all that the log says of names up to the position that comes with them. What it says
        behind that position is in none of them."""
        async with self._facts:
            return self.core.manifest.state.snapshots, self.core.commit.durable

    def base_start(self, history: History) -> Point | None:
        """The point at which the base of a new mirror begins. None: one that is made for it."""
        core, folder = self.core, self.folder
        kept_blocks = core.pool.limits.budget_bytes // BLOCK * 3 // 4
        return base_start(
            history, core.points, folder.horizon, folder.retired_write, core.manifest.state.snapshots,
            core.appender.address - kept_blocks,
        )  # fmt: skip

    async def append_fact(self, body: bytes) -> None:
        """Append a fact to the log and make it durable."""
        if not self._accepting:
            raise self._closed()
        draft = facts.draft(body)
        if not self.core.appender.fits(draft) and not self.core.pool.ready:
            await self.core.admission.wait(1, True)
        self.core.writer.emit(draft)
        await self.core.commit.wait_durable(self.position)

    async def grow(self, size: int) -> None:
        """Make the volume larger, online. Shrinking would lose data and is refused. TimedOut: it is larger, and a
        required mirror, which is away, has not confirmed it."""
        core = self.core
        if size % layout.SECTOR or not 0 < size <= layout.MAX_SIZE:
            raise UsageError("bad-size", f"{size} bytes is no size for a volume.", "Use a multiple of 512.")
        if size < core.size:
            raise Refused(
                "shrink", f"{self.name} has {core.size} bytes; {size} would cut data off.",
                "Copy what is needed to a smaller volume instead.",
            )  # fmt: skip
        if size == core.size:
            await self._grown()
            return
        await self.room([(OP_RESIZE, size, 0, None)])
        if not self._accepting:
            raise self._closed()
        if size <= core.size:
            await self.grow(size)  # somebody else was faster
            return
        core.writer.resize(size)
        core.size = size
        core.sizes.append((self.write, size))
        await self._grown()

    async def _grown(self) -> None:
        await self._confirmed(
            self.position, "grown-unconfirmed", f"{self.name} has {self.core.size} bytes now"
        )

    async def _confirmed(self, position: int, code: str, done: str) -> None:
        """Once it is durable here and at every required mirror. TimedOut: it is so here, and a mirror is away."""
        if self.core.commit.durable < position:  # what is durable stays so, even if the store was poisoned since
            await self.core.commit.wait_durable(position)
        try:
            await within(self.core.host.clock, CONFIRMED_SECONDS, self.mirrors.wait_durable(position))
        except TimeoutError:
            missing = ", ".join(m.name for m in self.mirrors if m.required and m.durable < position)
            raise TimedOut(
                code,
                f"{done}; the confirmation waits for mirror {missing}.",
                "It need not be repeated. Bring the mirror back, or give it up with 'revolume detach'.",
            ) from None

    # What it says about itself

    def status(self, replies_wait: str = "") -> VolumeStatus:
        """Plain values, now. ``replies_wait``: why answers wait for a mirror, if they do."""
        core, oldest = self.core, self.oldest
        pool = core.pool
        per_segment = pool.segment_blocks * BLOCK
        damaged = ranges(block for block in core.damage.blocks if block not in core.lost)
        state, reason = state_of(self._condition(replies_wait, damaged))
        return VolumeStatus(
            core.name, core.directory.path, core.volume_id.hex(), core.size, self.epoch, state, reason,
            self.position, core.commit.durable, self.write, core.appender.time_ns,
            core.last.number, len(core.points), oldest.write, oldest.time_ns,
            (len(pool.by_use) - len(pool.ready)) * per_segment, pool.limits.budget_bytes,
            (len(pool.ready) + len(pool.free)) * per_segment, core.image_bytes(), len(core.partials),
            len(core.live.overlay), core.live.overlay.used_bytes, tuple(holders(core)),
            tuple(self.snapshots()), self.folder.folding, self.folder.folds, self.folder.folded_blocks,
            core.commit.syncs, core.writer.transfers, core.reader.mismatches, core.events.all(),
            core.gave_way, damaged[:RANGES_TOLD], self.outlook.now,
        )  # fmt: skip

    def _condition(self, replies_wait: str, damaged: tuple[tuple[int, int], ...]) -> Condition:
        core = self.core
        lost = sorted(filter(core.still_lost, core.lost))
        stuck = core.admission.waiting and core.pool.stuck
        return Condition(
            poisoned=core.commit.failure.cause if core.commit.failure is not None else "",
            full=core.admission.full,
            keeper=refusal(core),
            log_waits=self.mirrors.in_the_way() if stuck else "",
            replies_wait=replies_wait,
            folding=self.folder.failure or "",
            points=self.points_failure or "",
            damaged=damaged,
            lost=lost_sentence(lost) if lost else "",
            forecast=self.outlook.warning,
        )

    # Its own clockwork

    def start(self) -> None:
        """Start points, syncs and folding."""
        core = self.core
        core.admission.make_room = Room(core, self.folder, self.cutter, self.mirrors).make
        core.admission.keeper = lambda: refusal(core)
        core.admission.point_blocks = self._point_blocks
        core.admission.failure = lambda: core.commit.failure
        core.pool.start()
        self._tasks = [
            asyncio.create_task(job()) for job in (self._cut_on_time, self._sync_on_time, self._keep)
        ]

    def _point_blocks(self) -> int:
        """What the next point's record takes: a block for each partial one, 28 bytes for each run at most."""
        core = self.core
        return 2 * len(core.partials) + core.live.interval.count // 128 + 4

    async def _cut_on_time(self) -> None:
        while not self._closing:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.cutter.interval_due.wait(), self.core.options.cp_interval_s)
            if not self._closing:
                await self._guarded(self.cutter.cut)

    async def _sync_on_time(self) -> None:
        while not self._closing:
            await self._rest(self.core.options.sync_interval_s)
            with contextlib.suppress(RevolumeError):  # what it meets has poisoned the volume
                follow_clock(self.core)
            if self.core.commit.unsynced_bytes:
                self.core.commit.start()
            else:
                await self._idle(IDLE_S)

    async def _keep(self) -> None:
        while not self._closing:
            before = self.position
            await self._rest(0.1)
            if self._closing:
                return
            self.outlook.look()
            if self.core.damage:
                await self._guarded(self._look_at_damage)
            if self.folder.rebase_due():
                await self._guarded(self.folder.rebase)
            if self.core.reserve.missing:
                await self._guarded(self.folder.tend_reserve)
            if not await self._guarded(self.folder.step):
                if self.core.live.overlay.pressure > SWEEP_PRESSURE:
                    self.core.live.overlay.sweep(8)
                await (self._idle(IDLE_S) if self.position == before else self._rest(0.4))

    async def _look_at_damage(self) -> None:
        await self.core.damage.look_again(self.core.reader, self.core.size)

    async def _guarded(self, job: Callable[[], Awaitable[object]]) -> object:
        """One failed round of the clockwork is told, not fatal; what poisons has poisoned by itself."""
        try:
            done = await job()
            if job == self.cutter.cut:
                self.points_failure = None
            return done
        except Exception as error:
            if not isinstance(error, Poisoned):
                self.core.events.tell(str(error), EventKind.TROUBLE)
                if job == self.cutter.cut:
                    self.points_failure = str(error)
                await self._rest(1.0)
            return None

    async def _rest(self, seconds: float) -> None:
        """Between two rounds of the clockwork: it has nothing in hand, and a stop need not wait for it."""
        task = asyncio.current_task()
        self._resting.append(task)
        try:
            await self.core.host.clock.sleep(seconds)
        finally:
            self._resting.remove(task)

    async def _idle(self, seconds: float) -> None:
        """Rest until something is appended, or for so long: an idle volume shall not wake the machine."""
        task = asyncio.current_task()
        self._resting.append(task)
        self._appended.clear()
        try:
            with contextlib.suppress(TimeoutError):
                await within(self.core.host.clock, seconds, self._appended.wait())
        finally:
            self._resting.remove(task)

    async def close(self) -> None:
        """A clean stop: a last point, everything durable, the manifest says where the log ends."""
        if self._closing:
            return
        self._closing = True
        core = self.core
        self.cutter.request()
        for task in self._tasks:
            if task in self._resting:
                task.cancel()
        for task in self._tasks:
            await self._ended(task)
        await core.maintenance.settled()
        try:
            if core.commit.failure is None:
                await self._close_clean()
        finally:
            await core.pool.stop()
            await core.maintenance.settled()
            await core.commit.settle()
            await core.footers_written()
            if self._hint is not None:
                await asyncio.wait([self._hint])
            core.close_files()

    @staticmethod
    async def _ended(task: asyncio.Task[None]) -> None:
        done, _ = await asyncio.wait([task], timeout=30)
        if not done:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    async def _close_clean(self) -> None:
        core = self.core
        damaged = await self._last_point()
        self._accepting = False
        self.cutter.closed = True
        await core.maintenance.settled()  # a point that somebody else had begun
        since = core.appender.address - max(core.live.based, core.live.folded)
        if since > CLEAN_REPLAY_SEGMENTS * core.pool.segment_blocks:
            with contextlib.suppress(RevolumeError, OSError):  # without it the next opening reads more
                await self.folder.rebase(force=True)
        await core.pool.stop()
        await core.footers_durable()
        while core.commit.durable < self.position:
            await core.commit.wait_durable(self.position)
        appender = core.appender
        mark = Mark(appender.position, appender.address, appender.chain, appender.write, appender.time_ns)
        await core.recorder.record(
            (EditKind.DURABLE, pack_mark(mark)), (EditKind.CLOCK, pack_clock(core.clock_mark())),
            (EditKind.CLEAN, pack_mark(mark)),
        )  # fmt: skip
        if core.directory.free_bytes() < MANIFEST_BYTES:
            await core.host.work.call_sync(core.reserve.take)
        await core.recorder.close_clean()
        if damaged is not None:
            raise damaged

    async def _last_point(self) -> Damaged | None:
        """Damage that a point meets stops the point, not the stop: the next opening reads the log instead."""
        try:
            await self.cutter.cut()
        except Damaged as error:
            return error
        return None
