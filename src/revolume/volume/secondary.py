"""A volume open as secondary: changed by its source alone, always at a stated point.

What is received is stored as it is (``keep``), promised as *received*, later *durable*. Nothing of it is applied
until a consistency point's record is whole: then ``sealing.py`` builds the point's delta map from the references
in it, and the live map moves from one agreed point to the next. There is no way in for a client's write: this
class has no ``append``, and its log takes only transfers that continue the source's chain. What lies behind the
last agreed point is replayed when the volume is opened as primary.

Between awaits: ``keep`` stores, and queues the records of points and facts; one task deals with those, in order.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from revolume.blocks.digest import ZERO_DIGEST
from revolume.chain.point import Part, Point, unpack_part
from revolume.errors import Damaged, Poisoned, Refused, RevolumeError
from revolume.host.disk import Buffer
from revolume.log.appender import fits_segment
from revolume.log.carried import Carried
from revolume.log.columns import resizes
from revolume.log.ops import NoRoomNow
from revolume.log.scan import Found, SegmentReader, payload_agrees
from revolume.log.transfer import BLOCK, Flag, Kind
from revolume.volume import facts
from revolume.volume.basefill import BaseFill
from revolume.volume.bound import Bound
from revolume.volume.clock_mark import pack_clock
from revolume.volume.core import Core
from revolume.volume.end import End
from revolume.volume.events import EventKind
from revolume.volume.feed import Feed
from revolume.volume.first_base import MAP_SLACK
from revolume.volume.folder import Folder
from revolume.volume.forecast import Outlook
from revolume.volume.label_clock import ClockStep
from revolume.volume.manifest import (
    Agreed,
    EditKind,
    Epoch,
    Mark,
    pack_agreed,
    pack_epoch,
    pack_mark,
    pack_snapshot,
)
from revolume.volume.remembered import Remembered
from revolume.volume.room import make_way, refusal
from revolume.volume.sealing import Arrived, AskWhole, Contents, Sealing
from revolume.volume.stretches import columns_between

U64 = npt.NDArray[np.uint64]
PATIENCE_NS = 2_000_000_000
"""A point that is being dealt with may make room: so long is waited for the next one."""


@dataclass(frozen=True, slots=True)
class BaseState:
    """A base that is not complete: the point whose blocks are being received, and how far that is durable."""

    point: int
    position: int
    write: int
    chain: bytes
    root: tuple[int, int]
    next_block: int


@dataclass(frozen=True, slots=True)
class _Queued:
    """A point's part or a fact, stored at an address, to be dealt with in order."""

    kind: Kind
    position: int
    address: int


class Secondary(Remembered):
    """See the module's text. Made by ``opening.open_secondary``."""

    def __init__(self, core: Core, folder: Folder, agreed: Point) -> None:
        super().__init__(core, folder)
        self.feed = Feed(core)
        self.outlook = Outlook(core)
        self.bound = Bound(core)
        self.agreed = agreed
        self.failure: RevolumeError | None = None
        self.on_durable: Callable[[int], None] = lambda position: None
        self.on_agreed: Callable[[Point], None] = lambda point: None
        self.on_failure: Callable[[RevolumeError], None] = lambda error: None
        self.ask_whole: AskWhole | None = None
        self.sealing = Sealing(core, lambda begin, end: columns_between(core, begin, end))
        self._fill = BaseFill(core) if core.manifest.state.base is not None else None
        self._queue: deque[_Queued] = deque()
        self._dealt_ns = 0
        self._keeper = ""
        self._queued = asyncio.Event()
        self._halted = asyncio.Event()
        self._parts: list[tuple[Part, Found]] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._closing = False

    # Where it stands

    @property
    def segment_blocks(self) -> int:
        """Blocks of a segment of this node's log: the largest transfer is smaller."""
        return self.core.pool.segment_blocks

    @property
    def newest(self) -> tuple[int, int]:
        """The last agreed point: what lies behind it is not shown."""
        return self.agreed.write, self.agreed.time_ns

    @property
    def end(self) -> End:
        """The last transfer here: what the source goes on behind. (It may be part of a write; ``received`` is what
        is complete.)"""
        appender = self.core.appender
        return End(
            appender.position, appender.epoch, appender.reign, appender.chain, appender.write, appender.time_ns
        )

    @property
    def known_epoch(self) -> tuple[int, bytes]:
        """The newest opening of which it has a transfer, or that was named by the source that brought its base:
        until the log has come after the base, there is nothing else by which an old image of that source could be
        told."""
        epochs, appender = self.core.manifest.state.epochs, self.core.appender
        named = [(epoch.number, epoch.reign) for epoch in epochs[-1:]]
        return max([*named, (appender.epoch, appender.reign)], key=lambda known: known[0])

    @property
    def received(self) -> int:
        """Complete, and in the log file."""
        return self.core.appender.whole

    @property
    def durable(self) -> int:
        """On the disk."""
        return self.core.commit.durable

    @property
    def base(self) -> BaseState | None:
        """None: this is a whole copy."""
        if self._fill is None:
            return None
        h = self.core.manifest.state.horizon
        return BaseState(
            h.point, h.position, h.write, h.chain, (h.root_low, h.root_high), self._fill.durable_block
        )

    # The log

    def keep(self, carried: Sequence[Carried]) -> int:
        """Store transfers that follow on each other and on what is here; the position that is received now.
        NoRoomNow: wait for ``room``, nothing was stored. Refused: they are not what they should be."""
        core = self.core
        if core.commit.failure is not None:
            raise core.commit.failure
        self._judge(carried)
        need = self.need(carried)
        if not core.writer.holds(need, 0) or not core.cover.covers(need, True):
            raise NoRoomNow
        addresses = core.writer.keep(carried)
        core.source_clock.heard(core.appender.time_ns)
        for each, payload in zip(carried, addresses, strict=True):
            transfer = each.transfer
            if transfer.kind in (Kind.POINT, Kind.FACT):
                address = payload - transfer.header_blocks
                self._queue.append(_Queued(transfer.kind, transfer.position, address))
                self._queued.set()
        if core.commit.unsynced_bytes > core.unsynced_bytes_max:
            core.commit.start()
        return core.appender.whole

    def _judge(self, carried: Sequence[Carried]) -> None:
        """Refused unless every payload is what its header says, fits a segment here, and epochs only grow."""
        epoch = self.core.appender.epoch, self.core.appender.reign
        for each in carried:
            transfer = each.transfer
            if (transfer.epoch, transfer.reign) != epoch and transfer.epoch <= epoch[0]:
                raise _bad(f"the transfer at position {transfer.position} is of an epoch that is over")
            epoch = transfer.epoch, transfer.reign
            if transfer.volume != self.volume_id or transfer.kind not in SHIPPED:
                raise _bad(f"the transfer at position {transfer.position} is not one of this volume's log")
            if not fits_segment(transfer, self.segment_blocks):
                raise Refused(
                    "segments-too-small",
                    f"The transfer at position {transfer.position} takes {transfer.total_blocks} blocks, more "
                    "than a segment here.",
                    "Make the mirror anew with a larger --segment-size, the source's or more.",
                )
            view = memoryview(each.payload)
            if len(view) != transfer.payload_bytes or not payload_agrees(transfer, view):
                raise _bad(f"the content of the transfer at position {transfer.position} fails its digests")

    @staticmethod
    def need(carried: Sequence[Carried]) -> int:
        """Blocks that these take at most, headers and the footers' growth counted."""
        return 2 + sum(c.transfer.total_blocks + c.transfer.proper_size // 4096 + 1 for c in carried)

    async def room(self, blocks: int) -> None:
        """Wait until so many blocks would be admitted. NoSpace: they won't be."""
        await self.core.admission.wait(blocks, True)

    async def make_durable(self, position: int) -> None:
        """Return once everything up to ``position``, which is received, is on the disk."""
        await self.core.commit.wait_durable(position)

    # The base

    async def put_base(self, blocks: U64, digests: U64, payload: Buffer, next_block: int) -> None:
        """Blocks of the point at which the log begins; see ``basefill.py``."""
        await self._filling().put(blocks, digests, payload, next_block)

    async def settle_base(self) -> None:
        """Its source's link is lost: what has come of the base need not be sent again."""
        if self._fill is not None and not self._closing:
            await self.core.maintenance.finished(self._fill.settle())

    async def finish_base(self) -> None:
        """All blocks have been sent: compare, and be a copy of the volume from now on."""
        fill = self._filling()
        await fill.finish()
        await fill.close()
        self._fill = None
        self._queued.set()
        self.core.events.tell(f"the base is complete: cp{self.agreed.number} of {self.name} is here")

    def _filling(self) -> BaseFill:
        if self._fill is None:
            raise _bad("a base was sent to a copy that is whole")
        return self._fill

    # Records, in order

    async def _deal(self) -> None:
        """Deal with records as they come. What is refused ends it; the log goes on being kept."""
        while not self._closing:
            await self._queued.wait()
            self._queued.clear()
            self._halted.clear()
            while self._queue and self._fill is None and not self._closing and self.failure is None:
                if not await self._dealt_with(self._queue[0]):
                    break
                self._queue.popleft()
                self._dealt_ns = self.core.host.clock.monotonic_ns()
            self._halted.set()

    async def prove(self) -> None:
        """Deal with what has arrived, before this becomes a primary. Refused: a point in its log can't be agreed
        to; as a primary it would go on from a state that is not known to be anybody's."""
        await self._halted.wait()
        if self._queue:
            raise Refused("not-promotable", self.why_not_agreed, COPY_OUT)

    @property
    def why_not_agreed(self) -> str:
        """Why it does not go on from the point where it stands."""
        why = self.failure.cause if self.failure else "its source would have to be asked."
        return f"This mirror stands at cp{self.agreed.number} and can't agree to the point behind it: {why}"

    async def _dealt_with(self, queued: _Queued) -> bool:
        try:
            await self._deal_with(queued)
            return True
        except ConnectionError:  # asked of a source that has gone: it is asked again when it is back
            return False
        except Exception as error:
            self.failure = error if isinstance(error, RevolumeError) else _unexpected(error)
            self.core.events.tell(str(self.failure), EventKind.DIVERGED)
            self.on_failure(self.failure)
            return False

    def resume(self) -> None:
        """There is a source to ask again."""
        self._queued.set()

    async def _deal_with(self, queued: _Queued) -> None:
        found = await self.core.host.work.call(self._read, queued.address)
        if queued.kind == Kind.FACT:
            await self._fact(found)
            return
        part = unpack_part(found.transfer.body)
        if part is None:
            raise _bad(f"the record of a point at position {queued.position} does not hold together")
        parts = self._parts = [*self._parts, (part, found)] if part.part else [(part, found)]
        if found.transfer.flags & Flag.SEALS and len(parts) == part.parts:
            await self._point(parts)
            self._parts = []

    def _read(self, address: int) -> Found:
        segment = self.core.pool.segment_at(address)
        found = SegmentReader(segment, self.volume_id).at(address - segment.base)
        if found is None:
            raise Damaged(
                "record-damaged",
                f"A record in segment file {segment.index}, block {address - segment.base}, can't be read.",
                "Run 'revolume check' on the stopped mirror.",
            )
        return found

    async def _point(self, parts: list[tuple[Part, Found]]) -> None:
        core, last = self.core, parts[-1][1]
        number, position = parts[0][0].number, last.transfer.position
        if number == self.agreed.number == core.manifest.state.horizon.point:
            await core.host.work.call(self._same_as_base, parts)
            await core.recorder.record((EditKind.AGREED, pack_agreed(self._agreed(self.agreed, position))))
            return
        if number != self.agreed.number + 1 or parts[0][0].previous != self.agreed.number:
            raise _bad(f"point cp{number} does not follow on cp{self.agreed.number}")
        await self._map_room(parts)
        arrived = Arrived(
            [part for part, _ in parts],
            [f.transfer.position for _, f in parts],
            last.transfer.epoch,
            last.address,
            last.local.lived_ns,
        )
        point = await self.sealing.seal(arrived, self.agreed, self._ask)
        await core.recorder.record((EditKind.AGREED, pack_agreed(self._agreed(point, position))))
        await self._sizes(self.agreed, point)
        core.points.append(point)
        self.agreed = point
        self.on_agreed(point)

    def _same_as_base(self, parts: list[tuple[Part, Found]]) -> None:
        """The record of the point at which this log began: the base was proved to be that point, so it can only
        say the same once more."""
        part, base = parts[0][0], self.agreed
        same = (part.position, part.write, part.root, part.chain) == (
            base.position, base.write, base.root, base.chain
        )  # fmt: skip
        for _, found in parts:
            blocks = found.transfer.offsets // np.uint64(BLOCK)
            digests = self.core.sums.get(blocks, False)
            assert digests is not None
            stated = np.where(found.transfer.digests == np.uint64(ZERO_DIGEST), 0, found.transfer.digests)
            same = same and np.array_equal(np.where(digests == np.uint64(ZERO_DIGEST), 0, digests), stated)
        if not same:
            raise _bad(f"the record of cp{part.number} does not say what its base was proved to be")

    @staticmethod
    def _agreed(point: Point, position: int) -> Agreed:
        return Agreed(point.number, position, point.write)

    async def _map_room(self, parts: list[tuple[Part, Found]]) -> None:
        """The live map must take the whole of a point at once."""
        live = self.core.live
        need = parts[0][0].referenced + parts[0][0].partials + MAP_SLACK
        if live.overlay.room() < need:
            await self.folder.rebase(force=True)
            live.overlay.sweep(1 << 30)
        if live.overlay.room() < need:
            raise Refused(
                "map-memory-too-small",
                f"Point cp{parts[0][0].number} changes {need} blocks, more than the map's memory takes.",
                "Serve this mirror with a larger --map-memory.",
            )

    async def _sizes(self, before: Point, point: Point) -> None:
        for columns in await columns_between(self.core, before.address, point.record):
            for write, size in resizes(columns):
                if before.write < write <= point.write:
                    self.core.sizes.append((write, size))
                    self.core.size = size

    async def _ask(self, point: Point, blocks: list[int]) -> Contents:
        if self.ask_whole is None:
            raise ConnectionError("there is no source to ask")
        return await self.ask_whole(point, blocks)

    async def _fact(self, found: Found) -> None:
        state, t = self.core.manifest.state, found.transfer
        fact = facts.unpack(t.body)
        match fact:
            case facts.EpochBegun(number, reign):
                if (number, reign) != (t.epoch, t.reign):
                    raise _bad(f"the epoch begun at position {t.position} is not the transfer's own")
                if all(e.number != number for e in state.epochs):
                    epoch = Epoch(number, reign, t.position - 1, t.write)
                    await self.core.recorder.record((EditKind.EPOCH, pack_epoch(epoch)))
            case facts.SnapshotTaken() | facts.SnapshotDropped() if t.position <= state.names_position:
                pass  # this copy was told what became of that name when it began
            case facts.SnapshotTaken(pin):
                if all(s.name != pin.name for s in (*state.snapshots, *state.lacking)):
                    held = pin.write >= state.horizon.write
                    kind = EditKind.SNAPSHOT if held else EditKind.LACKING
                    await self.core.recorder.record((kind, pack_snapshot(pin)))
            case facts.SnapshotDropped(name):
                await self.core.recorder.record((EditKind.DROP_SNAPSHOT, name.encode()))
            case facts.ClockStepped(from_ns, to_ns):
                step = ClockStep(found.transfer.write, found.transfer.position, from_ns, to_ns)
                self.core.steps.append(step)
                self.core.source_clock.stepped(step.by_ns)
            case _:
                raise _bad(f"the fact at position {t.position} is not one that is known")

    # Its own clockwork

    def start(self, unsealed: Sequence[tuple[Kind, int, int]]) -> None:
        """Start syncs, folding, and dealing with records; ``unsealed``: (kind, position, address) of those in the
        log that had not been dealt with."""
        core = self.core
        self._queue.extend(_Queued(*each) for each in unsealed)
        self._queued.set()
        before = core.commit.on_durable

        def durable(position: int) -> None:
            before(position)
            self.on_durable(position)

        core.commit.on_durable = durable
        core.admission.make_room = self._make_room
        core.admission.keeper = lambda: refusal(core)
        core.admission.failure = lambda: core.commit.failure
        core.pool.start()
        self._tasks = [asyncio.create_task(job()) for job in (self._deal, self._sync_on_time, self._tidy)]

    async def _make_room(self, may_cut: bool) -> bool:
        if self._fill is not None:
            return False
        if await self.folder.step(True) or self.folder.interrupted:
            return True
        if make_way(self.core, self.folder) is None:
            return self._exceed_budget()
        await self.folder.step(True)
        return True

    def _exceed_budget(self) -> bool:
        """A mirror does not hold its source up for its budget's sake, which is this node's alone: what snapshots
        keep goes beyond it, as far as the disk has room. Whether there is more room now, or will be soon."""
        pool, keeper, dealing = self.core.pool, refusal(self.core), self._dealing()
        if pool.disk_short or pool.failure is not None or (dealing and not keeper):
            return dealing
        pool.over_budget = True
        self._tell_excess()
        return True

    async def _within_budget(self) -> None:
        """Back to the budget as soon as that is possible: readers give way, and what is free goes."""
        pool = self.core.pool
        if pool.over_budget and make_way(self.core, self.folder) is not None:
            await self.folder.step(True)
        if pool.over_budget:
            await pool.shrink()
        if pool.over_budget:
            self._tell_excess()
        else:
            self._keeper = ""

    def _tell_excess(self) -> None:
        pool, keeper = self.core.pool, refusal(self.core) or "no point is agreed up to which it could be folded"
        if keeper != self._keeper:
            self._keeper = keeper
            self.core.events.tell(
                f"the log takes more than its budget of {pool.limits.budget_bytes} bytes, because {keeper}: the "
                "mirror does not hold its source up for that",
                EventKind.NEAR_FULL,
            )

    def _dealing(self) -> bool:
        """A point is being agreed, after which more may be folded."""
        now_ns = self.core.host.clock.monotonic_ns()
        return bool(self._queue) and self.failure is None and now_ns - self._dealt_ns < PATIENCE_NS

    async def _sync_on_time(self) -> None:
        while not self._closing:
            await self.core.host.clock.sleep(self.core.options.sync_interval_s)
            if self.core.commit.unsynced_bytes:
                self.core.commit.start()

    async def _tidy(self) -> None:
        before = -1
        while not self._closing:
            quiet, before = self.received == before, self.received
            await self.core.host.clock.sleep(2.0 if quiet else 0.5)
            self.outlook.look()
            if self._fill is not None or self.failure is not None or self._closing:
                continue
            try:
                if self.folder.rebase_due():
                    await self.folder.rebase()
                await self.folder.step()
                if self.core.reserve.missing:
                    await self.folder.tend_reserve()
                await self._within_budget()
            except Exception as error:  # told, not fatal; what poisons has poisoned by itself
                if not isinstance(error, Poisoned):
                    self.core.events.tell(str(error), EventKind.TROUBLE)
                    await self.core.host.clock.sleep(1.0)

    async def close(self) -> None:
        """A clean stop: everything complete is durable, the manifest says where the log ends."""
        if self._closing:
            return
        self._closing = True
        core = self.core
        self._queued.set()
        for task in self._tasks:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await core.maintenance.settled()
        try:
            if core.commit.failure is None:
                await self._close_clean()
        finally:
            if self._fill is not None:
                await self._fill.close()
            await core.pool.stop()
            await core.maintenance.settled()
            await core.commit.settle()
            await core.footers_written()
            core.close_files()

    async def _close_clean(self) -> None:
        core = self.core
        if self._fill is not None:
            await self._fill.commit()
        await core.pool.stop()  # segments made ready are recorded too: before the end is, and not beside it
        await core.footers_durable()
        await core.commit.synced()
        appender = core.appender
        if appender.whole != appender.position:  # a write is half there: the next opening cuts it off
            return
        mark = Mark(appender.position, self._end_address(), appender.chain, appender.write, appender.time_ns)
        await core.recorder.record(
            (EditKind.DURABLE, pack_mark(mark)), (EditKind.CLOCK, pack_clock(core.clock_mark())),
            (EditKind.CLEAN, pack_mark(mark)),
        )  # fmt: skip
        await core.recorder.close_clean()

    def _end_address(self) -> int:
        """Where the log ends; if nothing has come since a crash, somewhere in the last segment that was used."""
        pool, appender = self.core.pool, self.core.appender
        ready = {segment.use for segment in pool.ready}
        used = [use for use in pool.by_use if use not in ready]
        return appender.address or max(used, default=0) * pool.segment_blocks


COPY_OUT = (
    "Promote another mirror; or serve this one again with --mirror-listen and copy the point out with "
    "'revolume copy DIR FILE'."
)
SHIPPED = frozenset({Kind.WRITES, Kind.POINT, Kind.RESTORE, Kind.FACT})


def _bad(what: str) -> Refused:
    return Refused("bad-transfer", f"What the source sent is refused: {what}.", "Look at the source's log.")


def _unexpected(error: Exception) -> RevolumeError:
    return RevolumeError("sealing-failed", f"A point could not be sealed: {error!r}.", "See the log.")
