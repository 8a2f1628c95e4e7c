"""An open volume, as clients and operators see it. It owns no algorithm: each method names the part that does the
work.

    append     the log's writer       room        admission
    durable    group commit           read        reader
    cut        point maker            snapshot    named moments

Between awaits: ``append`` numbers, writes and notes in one turn of the loop, so whoever reads afterwards, on
whatever connection, sees it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass

from revolume.blocks.geometry import BLOCK
from revolume.blocks.numbers import Address, Position, WriteNumber
from revolume.chain.point import Point
from revolume.errors import Damaged, NoSpace, NotFound, Refused, RevolumeError, TimedOut, UsageError
from revolume.host.clock import within
from revolume.log.write.operations import OP_RESIZE, Op, WouldBlock
from revolume.log.write.writeback import Writeback
from revolume.volume.heal.healing import Healing
from revolume.volume.image.image_size import refuse_too_large
from revolume.volume.livemap.base_map_rebuild import MAP_SLACK
from revolume.volume.members.base_start import base_start
from revolume.volume.members.feed import Feed
from revolume.volume.members.found_differences import FoundDifferences
from revolume.volume.members.lost_mirrors import LostMirrors
from revolume.volume.members.membership import Membership
from revolume.volume.members.mirrors import Mirrors
from revolume.volume.members.resync_points import resync_points_of
from revolume.volume.metadata import layout
from revolume.volume.metadata.base_history import History
from revolume.volume.metadata.clock_mark import pack_clock
from revolume.volume.metadata.manifest_edits import EditKind, pack_mark
from revolume.volume.metadata.number_reservation import NumberReservation
from revolume.volume.points.isolated_points import listed_snapshots
from revolume.volume.points.named_moments import NamedMoments
from revolume.volume.points.point_maker import CutWatcher, PointMaker
from revolume.volume.primary_status import primary_status
from revolume.volume.primary_upkeep import PrimaryUpkeep
from revolume.volume.space.space_parts import SpaceParts
from revolume.volume.space.write_gate import WriteGate
from revolume.volume.state.events import EventKind
from revolume.volume.state.status import Snapshot, VolumeStatus
from revolume.volume.volume_base import OpenVolume, Parts
from revolume.volume.whole_writes import WholeWrites

CUT_BLOCKS = 1 << 19
CUT_RANGES = 4096
PARTIALS_MAX = 4096
PLENTY_BLOCKS = 1 << 17
CLEAN_REPLAY_SEGMENTS = 4
MANIFEST_BYTES = 2 << 20
CONFIRMED_SECONDS = 5.0
"""How long a larger size, or a snapshot, waits for required mirrors before it is told that it waits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrimaryParts:
    """What a primary has besides the parts of any volume."""

    space: SpaceParts
    point_maker: PointMaker
    feed: Feed
    healing: Healing
    mirrors: Mirrors
    membership: Membership
    names: NamedMoments
    upkeep: PrimaryUpkeep
    lost_mirrors: LostMirrors


class Volume(OpenVolume):
    """A volume open as primary. Made by ``open/open.py``. More methods than most classes have, because they are
    what clients and operators may ask of a volume; each is short and names the part that does it."""

    def __init__(self, parts: Parts, own: PrimaryParts) -> None:
        super().__init__(parts, own.space)
        self.point_maker = own.point_maker
        self.feed = own.feed
        self.healing = own.healing
        self.found_differences = FoundDifferences(parts.events)
        self.mirrors = own.mirrors
        self.membership = own.membership
        self.names = own.names
        self.upkeep = own.upkeep
        self.lost_mirrors = own.lost_mirrors
        self.gate = WriteGate()
        self._commit = parts.log.commit
        self._appender = parts.log.appender
        self._writer = parts.log.writer
        self._pool = parts.log.pool
        self._cover = parts.cover
        self._clock = parts.context.host.clock
        self._numbers = NumberReservation(parts.manifest, self._appender, parts.context.options.reserve_writes)
        self._writeback = Writeback(self._appender, parts.log.work)
        self._turn = parts.log.turn
        self.whole_writes = WholeWrites(
            log=parts.log,
            live=parts.live,
            sizes=parts.sizes,
            admission=parts.admission,
            numbers=self._numbers,
            point_maker=own.point_maker,
            unsynced_bytes_max=self.unsynced_bytes_max,
            appended=self._after_append,
        )
        self._active = own.upkeep.active
        self._closing = False
        self._accepting = True
        self._tight = parts.live.overlay.room() < MAP_SLACK

    # What it is

    @property
    def epoch(self) -> int:
        """This opening's number."""
        return self._appender.epoch

    @property
    def position(self) -> Position:
        """The last appended position, but for what is half there."""
        return self._appender.complete_position

    @property
    def write(self) -> WriteNumber:
        """The last write's number."""
        return self._appender.written

    # The data path

    def append(self, ops: list[Op]) -> Position:
        """Append operations, in order; the position after which they are done. WouldBlock: wait for
        ``room``, nothing was done. Poisoned, Refused: never."""
        commit = self._commit
        if commit.failure is not None:
            raise commit.failure
        if self.gate.closed or self._turn.taken:  # first: what is held is not even told that the volume is closing
            raise WouldBlock
        if not self._accepting:
            raise self._closed()
        if self._tight or self._appender.write + len(ops) >= self._numbers.upto or self._wants_room(ops):
            raise WouldBlock
        if commit.unsynced_bytes > 2 * self.unsynced_bytes_max:
            raise WouldBlock
        position = self._writer.append(ops)
        self._after_append()
        return position

    def _closed(self) -> Refused:
        return Refused("closing", f"{self.name} is being closed.", "Open it again.")

    def _wants_room(self, ops: list[Op]) -> bool:
        """Near the end of what is ready the exact answer is worth its price."""
        pool = self._pool
        if not self._cover.copies and len(pool.ready) * pool.segment_blocks > PLENTY_BLOCKS:
            return len(self.partials) > PARTIALS_MAX
        return not self.admission.admits(self._writer.need_blocks(ops)) or len(self.partials) > PARTIALS_MAX

    def _after_append(self) -> None:
        self._active.set()
        live, writeback, unsynced = self.live, self._writeback, self._commit.unsynced_bytes
        if unsynced > self.unsynced_bytes_max:
            self._commit.start()
        if unsynced > writeback.due_above or unsynced < writeback.reached:
            writeback.begin(unsynced)
        interval = live.interval
        if interval.count > CUT_BLOCKS or len(interval.ranges) > CUT_RANGES or self._interval_fills_the_reserve():
            self.point_maker.request()
        if self._appender.write > self._numbers.extend_above:
            self._numbers.extend()
        if not live.digest:
            self._tight = live.overlay.room() < MAP_SLACK
            if self._tight:
                self.point_maker.request()

    def _interval_fills_the_reserve(self) -> bool:
        """A fold goes from point to point: no stretch between two may want more room than is kept back."""
        size, spare = self.reserve.size, 2 * self._pool.segment_blocks * BLOCK
        stretch = (self._appender.address - self.live.interval.begin) * BLOCK
        return size > 0 and stretch > max(size - spare, spare)

    async def room(self, ops: list[Op], told: bool = True) -> None:
        """Wait until ``ops`` would be admitted. NoSpace: they won't be; noted as a refusal if ``told``."""
        await self.gate.passed()
        await self._turn.passed()
        if self._appender.write + len(ops) >= self._numbers.upto:
            await self._numbers.wait_for(len(ops))
            self._raise_poisoned()
        while self._tight:
            await self.point_maker.cut()
            await self.base_maps.renew(force=True)
            self.live.overlay.sweep(1 << 30)
            self._tight = self.live.overlay.room() < MAP_SLACK
            await self._clock.sleep(0.01)
        if self._commit.unsynced_bytes > self.unsynced_bytes_max:
            await self._commit.wait_durable(self.position)
        if len(self.partials) > PARTIALS_MAX:
            await self.point_maker.cut()
        await self.admission.wait(self._writer.need_blocks(ops), told=told)

    def _raise_poisoned(self) -> None:
        if self._commit.failure is not None:
            raise self._commit.failure

    def released(self, position: Position) -> bool:
        """Whether plain writes up to ``position`` may be answered: once appended, here and in the log file of
        every required mirror."""
        return position <= self._appender.position and self.mirrors.released(position)

    def on_release(self, position: Position, callback: Callable[[], None]) -> None:
        """Call back when ``released(position)``; without required mirrors that is now."""
        self.mirrors.on_release(position, callback)

    async def durable(self, position: Position) -> None:
        """Return once everything up to ``position`` survives a power cut, here and at every required mirror.
        Poisoned if it can't here; a lost mirror is waited for. All disks sync at the same time."""
        self.mirrors.ask_durable(position)
        await self._commit.wait_durable(position)
        await self.mirrors.wait_durable(position)

    def read_now(self, reads: list[tuple[int, memoryview]]) -> list[int]:
        """Fill what lies in memory; the indexes of the rest."""
        return self.reader.read_now(reads)

    async def read(self, offset: int, buffer: memoryview) -> None:
        """Fill ``buffer``. Damaged: it is not what was written."""
        await self.reader.read(offset, buffer)

    # Consistency points, snapshots, size

    def snapshots(self) -> list[Snapshot]:
        """The named moments, oldest first; with those of lost links, also if one is not recorded yet."""
        cuts = {mirror.name: mirror.cut for mirror in self.mirrors if mirror.cut is not None}
        return listed_snapshots(self.manifest.state, self.newest[0], cuts, self.policy.now_ms)

    async def cut(self) -> Point:
        """A consistency point now; the newest one when nothing has changed since."""
        point = await self.point_maker.cut()
        if point is None:
            raise NotFound("no-point", f"Nothing has ever been written to {self.name}.", "Write first.")
        return point

    async def cut_anew(self, watcher: CutWatcher) -> Point:
        """A consistency point that is made now, also when nothing has changed, as ``watcher`` hears just before
        its record is appended."""
        while True:
            await self.room([(OP_RESIZE, self.size, 0, None)])
            with contextlib.suppress(WouldBlock):
                return await self.point_maker.cut_anew(watcher)

    def touch(self) -> None:
        """Append a write that changes nothing: the same size once more. WouldBlock: wait for ``room``."""
        if self.gate.closed or self._turn.taken or not self._accepting:
            raise WouldBlock
        if self._appender.write + 1 >= self._numbers.upto:
            raise WouldBlock
        self._writer.resize(self.size)
        self.sizes.grow(self.write, self.size)
        self._after_append()

    async def snapshot(self, name: str, expires_s: float = 0.0) -> Snapshot:
        """Name and pin this moment, for so long (0: until it is dropped); durable when it returns, here and at
        every required mirror. TimedOut: it is so here, and a mirror is away."""
        pin, position = await self.names.take(name, expires_s)
        await self.confirmed(position, "snapshot-unconfirmed", f"Snapshot {name} of {self.name} is made")
        return Snapshot(name, pin.write, pin.point, pin.time_ns, expires_in_s=expires_s or None)

    async def drop_snapshot(self, name: str) -> None:
        """Forget a snapshot: its moment is kept only as long as any other. NotFound: there is none."""
        await self.names.drop(name)

    def base_start(self, history: History) -> Point | None:
        """The point at which the base of a new mirror begins. None: one that is made for it."""
        folder = self.folder
        kept_blocks = self._pool.limits.budget_bytes // BLOCK * 3 // 4
        return base_start(
            history=history,
            points=self.retained.points,
            horizon=folder.horizon,
            retired_write=folder.retired_write,
            snapshots=self.manifest.state.snapshots,
            first_address=Address(max(0, self._appender.address - kept_blocks)),
            away={each.write for each in resync_points_of(self.manifest.state, away=True)},
        )

    async def grow(self, size: int) -> None:
        """Make the volume larger, online. Shrinking would lose data and is refused. TimedOut: it is larger, and a
        required mirror, which is away, has not confirmed it."""
        if size % layout.SECTOR or not 0 < size <= layout.MAX_SIZE:
            raise UsageError("bad-size", f"{size} bytes is not a valid size for a volume.", layout.SIZE_RULE)
        if size < self.size:
            raise Refused(
                "shrink", f"{self.name} has {self.size} bytes; {size} would cut data off.",
                "Copy what is needed to a smaller volume instead.",
            )  # fmt: skip
        if size == self.size:
            await self._grown()
            return
        await refuse_too_large(self.context, size)
        await self.room([(OP_RESIZE, size, 0, None)])
        while self._turn.taken:
            await self.room([(OP_RESIZE, size, 0, None)])
        if not self._accepting:
            raise self._closed()
        if size <= self.size:
            await self.grow(size)  # somebody else was faster
            return
        self._writer.resize(size)
        self.sizes.grow(self.write, size)
        await self._grown()

    async def _grown(self) -> None:
        await self.confirmed(self.position, "grown-unconfirmed", f"{self.name} has {self.size} bytes now")

    async def confirmed(
        self, position: Position, code: str, done: str, patience_s: float = CONFIRMED_SECONDS
    ) -> None:
        """Once it is durable here and at every required mirror. TimedOut: it is so here, and a mirror is away."""
        if self._commit.durable < position:  # what is durable stays so, even if the store was poisoned since
            await self._commit.wait_durable(position)
        try:
            await within(self._clock, patience_s, self.mirrors.wait_durable(position))
        except TimeoutError:
            missing = ", ".join(m.name for m in self.mirrors if m.required and m.durable < position)
            raise TimedOut(
                code,
                f"{done}; the confirmation waits for mirror {missing}.",
                "It need not be repeated. Bring the mirror back, or give it up with 'revolume detach'.",
            ) from None

    def status(self, replies_wait: str = "") -> VolumeStatus:
        """Plain values, now. ``replies_wait``: why answers wait for a mirror, if they do."""
        return primary_status(self, replies_wait)

    # Its beginning and end

    def start(self) -> None:
        """Start making segments ready, points, syncs and folding."""
        self._pool.start()
        self.upkeep.start()
        self.mirrors.kept.start()
        self.lost_mirrors.start()

    async def close(self) -> None:
        """A clean stop: a last point, everything durable, the manifest says where the log ends."""
        if self._closing:
            return
        self._closing = True
        await self.lost_mirrors.stop()
        await self.upkeep.stop()
        await self.close_parts(self._close_clean, self._writeback.settled)

    async def end_log(self) -> None:
        """Nothing is appended any more, by nobody, and all of it is durable: it can only be closed."""
        self._accepting = False
        self.point_maker.closed = self.names.closed = self.membership.closed = self.upkeep.log_ended = True
        await self._turn.passed()
        await self.tasks.settled()  # a point that somebody else had begun
        while self._commit.durable < self.position:
            await self._commit.wait_durable(self.position)

    async def _close_clean(self) -> None:
        damaged = None if self.point_maker.closed else await self._last_point()
        await self.end_log()
        since = self._appender.address - max(self.live.based, self.live.folded)
        if since > CLEAN_REPLAY_SEGMENTS * self._pool.segment_blocks:
            with contextlib.suppress(RevolumeError, OSError):  # without it the next opening reads more
                await self.base_maps.renew(force=True)
        await self._pool.stop()
        await self.log.footers.durable()
        while self._commit.durable < self.position:
            await self._commit.wait_durable(self.position)
        mark = self.log.end_mark()
        await self.manifest.record(
            (EditKind.DURABLE, pack_mark(mark)), (EditKind.CLOCK, pack_clock(self.clocks.mark(mark.position))),
            (EditKind.CLEAN, pack_mark(mark)),
        )  # fmt: skip
        if self.context.directory.free_bytes() < MANIFEST_BYTES:
            await self.log.work.call_sync(self.reserve.take)
        await self.manifest.close_clean()
        if damaged is not None:
            raise damaged

    async def _last_point(self) -> Damaged | None:
        """What keeps a point from being made does not keep a volume from being stopped: the next opening reads the
        log instead. Damage is raised at the end of the stop; that there is no room is told as an event."""
        try:
            await self.point_maker.cut()
        except Damaged as error:
            return error
        except NoSpace as error:
            behind = f"; the next opening reads what lies behind cp{self.retained.last.number} from the log"
            self.events.tell(f"stopped without a last point: {error.cause.rstrip('.')}{behind}", EventKind.FULL)
        return None
