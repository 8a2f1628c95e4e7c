"""The parts of an open volume, made in the order in which each needs the others, and the live map filled out of
base map and log (``livemap/replay.py``).

What does not fit in the memory given to the map goes into a base map first (``base_map_rebuild.py``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import ExitStack

from revolume.blocks.numbers import Address, Position, WriteNumber
from revolume.blocks.overlay import Overlay, OverlayFull
from revolume.chain.map_file import MapFile
from revolume.chain.point import Point
from revolume.errors import Damaged
from revolume.log.format.columns import Columns
from revolume.log.read.recovery import highest_write, last_write_ns
from revolume.log.write.appender import Appender
from revolume.log.write.group_commit import GroupCommit
from revolume.log.write.segment_repairs import SegmentRepairs
from revolume.log.write.writer import Writer
from revolume.volume.clocks.label_clock import ClockStep, LabelClock, SourceClock
from revolume.volume.clocks.lived_time import LivedTime, reached_ns
from revolume.volume.clocks.volume_clocks import OpenedClocks, VolumeClocks
from revolume.volume.context import VolumeContext
from revolume.volume.footer_writer import FooterWriter
from revolume.volume.heal.healer import Healer
from revolume.volume.heal.transfer_healer import TransferHealer
from revolume.volume.image.block_digests import BlockDigests
from revolume.volume.image.origin_image import OriginDigests, OriginImage
from revolume.volume.image.volume_image import VolumeImage
from revolume.volume.livemap.base_map_rebuild import FirstBase, too_small
from revolume.volume.livemap.live_map import LiveMap
from revolume.volume.livemap.live_source import LiveSource, WholeVersions
from revolume.volume.livemap.map_files import MapFiles
from revolume.volume.livemap.origin_store import OriginStore
from revolume.volume.livemap.partial_blocks import PartialBlocks
from revolume.volume.livemap.point_records import read_steps
from revolume.volume.livemap.reader import Reader, Store
from revolume.volume.livemap.replay import BaseWithoutPoint, Replayed, ReplayTarget, replay
from revolume.volume.metadata.manifest_edits import EditKind
from revolume.volume.metadata.manifest_state import Role, State
from revolume.volume.open.log_recovery import Tail
from revolume.volume.open.open_context import Ground
from revolume.volume.open_log import OpenLog
from revolume.volume.points.lost_blocks import LostBlocks
from revolume.volume.points.retained_points import RetainedPoints
from revolume.volume.rescue.rescued_blocks import RescuedBlocks
from revolume.volume.size_history import SizeHistory
from revolume.volume.space.admission import Admission
from revolume.volume.space.copy_on_write import COPIES, Cover
from revolume.volume.space.holders import Holders
from revolume.volume.space.policy_pins import PolicyPins
from revolume.volume.state.damage import Damage
from revolume.volume.state.events import EventKind
from revolume.volume.suspect.marks import Marks
from revolume.volume.suspect.suspect_history import SuspectHistory, load_marks
from revolume.volume.volume_base import Parts


class Loading:
    """Assembles the parts of a volume that is being opened."""

    def __init__(self, ground: Ground, may_make_base: bool = True) -> None:
        """``may_make_base``: what does not fit the live map's memory may go into a base map."""
        self._ground = ground
        self._may_make_base = may_make_base
        self._without_base = False

    async def parts(self, tail: Tail) -> Parts:
        """An open volume's parts, as of the log's end."""
        try:
            return await self._mapped(tail)
        except OverlayFull:
            cut = await self._first_base(tail) if self._may_make_base else self._ground.state.horizon.address
        try:
            return await self._mapped(tail)
        except OverlayFull:
            pieces = tail.columns
            raise too_small(self._ground.options.map_memory_bytes, pieces, cut) from None

    async def _first_base(self, tail: Tail) -> Address:
        """What does not fit in memory goes into a base map, as far as there are points; the base's cut."""
        maker = FirstBase(self._ground.host, self._ground.log, self._ground.maps, tail.columns)
        state = self._ground.state
        base = self._base(state)
        try:
            edit = self._ground.manifest.number
            name, cut = await self._ground.with_room(lambda: maker.make(state, base, edit, self._agreed(state)))
        except OSError as error:
            raise self._ground.no_room("a map", error) from error
        finally:
            if base is not None:
                base.close()
        if name is not None:
            await self._ground.manifest.record((EditKind.BASE_MAP, name.encode()))
            self._ground.events.tell("the live map did not fit in its memory and was merged into its base")
        return cut

    async def _mapped(self, tail: Tail) -> Parts:
        """The live map filled; OverlayFull if it does not fit."""
        try:
            return await self._held(tail)
        except BaseWithoutPoint:
            self._without_base = True
            return await self._held(tail)

    async def _held(self, tail: Tail) -> Parts:
        with ExitStack() as held:
            parts = await self._filled(tail, held)
            self._ground.held.push(held.pop_all())
            for part in parts.retained.unread:
                parts.events.tell(part.sentence, EventKind.DAMAGE)
            return parts

    async def _filled(self, tail: Tail, held: ExitStack) -> Parts:
        ground, state = self._ground, self._ground.state
        ground.header.durable = tail.end.position
        live = self._live_map(state, held)
        known = [e.number for e in state.epochs] + [_newest_epoch(p.columns) for p in tail.pieces]
        number = 1 + max([state.elsewhere, *known])
        reign = ground.host.entropy.token(16)
        agreed = self._agreed(state)
        steps = await ground.host.work.call(read_steps, state.volume, tail.columns, state.horizon, agreed)
        clocks = self._clocks(tail, steps)
        appender = Appender(
            state.volume, reign, number, tail.end, ground.header, clocks.labels.now_ns, clocks.lived.now_ns,
            ground.reserve.take, state.largest_transfer,
        )  # fmt: skip
        log_parts = _LogParts(ground, live, appender)
        target = ReplayTarget(
            volume_id=state.volume,
            live=live,
            partials=log_parts.partials,
            table=log_parts.log.writer.table,
            mirror=state.role == Role.SECONDARY,
            mirrored=bool(state.mirrors),
        )
        replayed = await replay(target, tail.columns, state.horizon, ground.host.work, agreed)
        self._resume(log_parts.log, tail, replayed.points)
        marks = await ground.host.work.call(load_marks, ground.directory, state)
        return self._assemble(log_parts, clocks, replayed, marks)

    def _live_map(self, state: State, held: ExitStack) -> LiveMap:
        """Empty, over the base map and the image's digests."""
        ground = self._ground
        seed = int.from_bytes(ground.host.entropy.token(8), "little")
        overlay = Overlay(ground.options.map_memory_bytes, seed)
        digests = BlockDigests.open(ground.directory, state.volume, state.horizon.pages_generation)
        held.callback(digests.close)
        base = self._base(state)
        if base is not None:
            held.callback(base.close)
        return LiveMap(overlay, digests, state.horizon.address, base, state.horizon.address)

    def _agreed(self, state: State) -> Position | None:
        """The position of the last record that a mirror has agreed to, if it is opened as one."""
        secondary = state.role == Role.SECONDARY and not self._ground.options.promote
        return state.agreed.position if secondary else None

    def _base(self, state: State) -> MapFile | None:
        """The base map, unless there is none or the horizon has passed it; a broken one is made again."""
        if self._without_base or not state.base_map or not self._ground.maps.exists(state.base_map):
            return None
        try:
            base = MapFile.open(self._ground.maps.open(state.base_map, write=False), state.volume)
        except Damaged as error:
            self._ground.events.tell(f"the map {state.base_map} is damaged and is made anew: {error.cause}")
            return None
        if base.meta.address <= state.horizon.address:
            base.close()
            return None
        return base

    def _clocks(self, tail: Tail, steps: list[ClockStep]) -> VolumeClocks:
        clock, mark, newest_ns = self._ground.host.clock, self._ground.state.clock, tail.end.time_ns
        lived_ns = max(mark.lived_ns, reached_ns(columns for _, columns in tail.columns))
        labels = LabelClock.opened(clock, mark, steps, newest_ns)
        opened = OpenedClocks(LivedTime(clock, lived_ns), labels, SourceClock(clock, newest_ns), steps)
        return VolumeClocks(clock, self._ground.manifest, opened)

    def _assemble(
        self, made: _LogParts, clocks: VolumeClocks, replayed: Replayed, marks: Sequence[Marks]
    ) -> Parts:
        ground, state, live = self._ground, self._ground.state, made.live
        retained = RetainedPoints(replayed.points, replayed.last, replayed.unread)
        policy = _policy_pins(ground, made.image, retained, clocks)
        holders = Holders(ground.manifest, policy)
        if made.cover.copies:
            ground.events.tell(COPIES)
        admission = Admission(
            ground.pool,
            made.log.writer.holds,
            covered=made.cover.covers,
            failure=lambda: made.log.commit.failure,
            keeper=holders.refusal,
            on_refusal=lambda cause: ground.events.tell(cause, EventKind.FULL),
            when_full=lambda: policy.when_full,
        )
        return Parts(
            context=VolumeContext(
                host=ground.host,
                options=ground.options,
                volume_id=state.volume,
                name=state.name,
                directory=ground.directory,
                log_directory=ground.log,
                maps_directory=ground.maps,
            ),
            manifest=ground.manifest,
            tasks=ground.tasks,
            events=ground.events,
            log=made.log,
            live=live,
            partials=made.partials,
            image=made.image,
            rescued=made.rescued,
            store=made.store,
            reader=made.reader,
            healer=made.healer,
            transfer_healer=made.transfer_healer,
            busy=made.busy,
            damage=made.damage,
            maps=MapFiles(ground.maps, state.volume, state.base_map if live.base is not None else ""),
            retained=retained,
            lost=LostBlocks(live, made.partials, replayed.lost),
            sizes=SizeHistory(state.horizon.size, replayed.sizes),
            clocks=clocks,
            holders=holders,
            policy=policy,
            reserve=ground.reserve,
            cover=made.cover,
            admission=admission,
            suspect=SuspectHistory(
                ground.directory, ground.manifest, ground.host.work, ground.events, ground.tasks, marks
            ),
            cut_due=made.cut_due,
        )

    def _resume(self, log: OpenLog, tail: Tail, points: list[Point]) -> None:
        """Go on where the log ends, numbering above whatever may have been given out."""
        appender, state = log.appender, self._ground.state
        writes = [point.write for point in points]  # older versions gave them numbers that no write has
        appender.written = max([state.horizon.write, *writes, *(highest_write(p.columns) for p in tail.pieces)])
        labels = (
            last_write_ns(piece.columns) for piece in reversed(tail.pieces)
        )  # they may go back: not the highest
        appender.written_ns = next(filter(None, labels), state.horizon.time_ns)
        if state.clean is None:  # footers that a life before this one wrote may be in memory alone
            log.footers.adopt({piece.segment.use: piece.segment for piece in tail.pieces})
        if state.clean is None and state.role == Role.PRIMARY:
            appender.write = max(appender.write, state.reserved)
        elif state.role == Role.SECONDARY and self._ground.options.promote:
            stated = _newest_stated(state, points)
            appender.write = max(appender.write, stated, state.reserved)  # reserved: it was a primary that crashed
        if tail.segment is not None:
            builder = tail.pieces[-1].builder
            assert builder is not None
            log.pool.go_on_in(tail.segment)
            appender.segment, appender.next_block, appender.columns = tail.segment, tail.next_block, builder
            appender.chain_before = tail.pieces[-1].chain_before


def _policy_pins(ground: Ground, image: VolumeImage, retained: RetainedPoints, clocks: VolumeClocks) -> PolicyPins:
    return PolicyPins(
        override=ground.policy_for_once,
        manifest=ground.manifest,
        image=image,
        retained=retained,
        lived=clocks.lived,
    )


class _LogParts:
    """The log, with what it is read and written through: these need each other before anything is replayed."""

    def __init__(self, ground: Ground, live: LiveMap, appender: Appender) -> None:
        host, pool = ground.host, ground.pool
        self.live = live
        self.cut_due = asyncio.Event()
        self.damage = Damage(ground.events)
        origin = opened_origin(ground, live)
        self.image = VolumeImage(ground.image, live.sums, ground.manifest, origin)
        self.rescued = RescuedBlocks(ground.directory, ground.state.volume, ground.state.rescues)
        self.store = _store(ground, self.rescued, origin)
        whole = Reader(self.store, WholeVersions(live, self.image), host.work)
        self.partials = PartialBlocks(live.versions_of, whole.versions_now, self.cut_due.set)
        commit = GroupCommit(
            host.work,
            lambda: appender.complete_position,
            ground.header,
            lambda cause: ground.events.tell(cause, EventKind.POISONED),
            lambda: appender.position,
        )
        ground.manifest.poison_with(commit.poison)
        self.cover = Cover(ground.directory, ground.reserve, commit, copies=not ground.log.in_place())
        footers = FooterWriter(ground.state.volume, host.work, pool, commit, ground.header, ground.events)
        writer = Writer(appender, pool, commit, live, self.partials, footers.seal)
        self.log = OpenLog(
            volume_id=ground.state.volume,
            work=host.work,
            pool=pool,
            appender=appender,
            commit=commit,
            writer=writer,
            footers=footers,
            manifest=ground.manifest,
            repairs=SegmentRepairs(pool),
        )
        self.busy = asyncio.Lock()
        self.healer = Healer(
            directory=ground.directory,
            log_directory=ground.log,
            log=self.log,
            files=self.store,
            image=self.image,
            rescued=self.rescued,
            busy=self.busy,
            clock=host.clock,
            events=ground.events,
            tasks=ground.tasks,
        )
        self.transfer_healer = TransferHealer(
            log_directory=ground.log,
            log=self.log,
            siblings=self.healer.siblings,
            events=ground.events,
            tasks=ground.tasks,
        )
        source = LiveSource(live, self.image, self.partials)
        self.reader = Reader(self.store, source, host.work, self.damage.met, self.healer.contents)


def opened_origin(ground: Ground, live: LiveMap) -> OriginImage | None:
    """What of a clone lies in its parent; None: it is no clone."""
    record, blocks = ground.state.clones.origin, ground.options.origin
    if record is None:
        return None
    assert blocks is not None, "a clone is opened with its parent"
    digests = OriginDigests.open(ground.directory, ground.state.volume, record.own_below)
    ground.held.callback(digests.close)
    return OriginImage(record, digests, live.sums, blocks)


def _store(ground: Ground, rescued: RescuedBlocks, origin: OriginImage | None) -> Store:
    if origin is None:
        return Store(ground.pool, ground.image, rescued)
    return OriginStore(ground.pool, ground.image, rescued, origin)


def _newest_stated(state: State, points: list[Point]) -> WriteNumber:
    """The newest write number that a mirror's log names anywhere. After an unclean stop a source goes on
    above what it had reserved; until it is written to, only its points and epoch say so: they go on from there."""
    return max([WriteNumber(0), *(epoch.write for epoch in state.epochs), *(point.write for point in points)])


def _newest_epoch(columns: Columns) -> int:
    return int(columns.rows["epoch"].max()) if len(columns.rows) else 0
