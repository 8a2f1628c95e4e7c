"""A volume open as secondary: changed by its source alone, always at a stated point.

What is received is stored as it is (``keep``), promised as *received*, later *durable*. Nothing of it is applied
until a consistency point's record is whole: then the point's delta map is built from the references in it
(``points/apply_point.py``), and the live map moves from one agreed point to the next. There is no way in for a
client's write: this class has no ``append``, and its log takes only transfers that continue the source's chain.
What lies behind the last agreed point is replayed when the volume is opened as primary.

Between awaits: ``keep`` stores, and queues the records of points and facts; one task deals with those, in order
(``points/record_processor.py``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from revolume.blocks.geometry import BLOCK
from revolume.blocks.numbers import Address, Position, WriteNumber
from revolume.chain.point import Point
from revolume.errors import RevolumeError
from revolume.host.disk import Buffer
from revolume.log.format.received_transfer import ReceivedTransfer
from revolume.log.format.transfer import Kind
from revolume.volume.heal.healing import Healing
from revolume.volume.image.base_receiver import BaseFill
from revolume.volume.jump.agreed_image import AgreedImage
from revolume.volume.jump.jumping import Jumping
from revolume.volume.members.base_progress import base_words
from revolume.volume.members.feed import Feed
from revolume.volume.members.received_log import ReceivedLog, bad_transfer
from revolume.volume.members.source_link import NoSource, SourceLink
from revolume.volume.metadata.bound_source import Bound
from revolume.volume.metadata.clock_mark import pack_clock
from revolume.volume.metadata.manifest_edits import EditKind, pack_mark
from revolume.volume.metadata.manifest_state import Horizon, Jump, JumpTarget
from revolume.volume.open.log_identity import End
from revolume.volume.points.apply_point import PointApplier
from revolume.volume.points.record_processor import RecordProcessor
from revolume.volume.points.staged_fixups import Fixups
from revolume.volume.rescue.received_moments import ReceivedMoments
from revolume.volume.secondary_upkeep import SecondaryUpkeep
from revolume.volume.space.space_parts import SpaceParts
from revolume.volume.suspect.marks import Marks
from revolume.volume.volume_base import OpenVolume, Parts

U64 = npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class BaseState:
    """A base that is not complete: the point whose blocks are being received, and how far that is durable."""

    point: int
    position: Position
    write: WriteNumber
    chain: bytes
    root: tuple[int, int]
    next_block: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SecondaryParts:
    """What a copy has besides the parts of any volume. ``base``: while that is not complete."""

    space: SpaceParts
    feed: Feed
    healing: Healing
    received: ReceivedLog
    records: RecordProcessor
    point_applier: PointApplier
    upkeep: SecondaryUpkeep
    bound: Bound
    base: BaseFill | None
    moments: ReceivedMoments
    agreed_image: AgreedImage
    jumping: Jumping


class Secondary(OpenVolume):
    """A volume open as a mirror's copy. Made by ``open/open.py``. More methods than most classes have, because
    they are what a source and a role may ask of a copy; each is short and names the part that does it."""

    def __init__(self, parts: Parts, own: SecondaryParts) -> None:
        super().__init__(parts, own.space)
        self.feed = own.feed
        self.healing = own.healing
        self.records = own.records
        self.point_applier = own.point_applier
        self.upkeep = own.upkeep
        self.bound = own.bound
        self._received = own.received
        self._fill = own.base
        self._moments = own.moments
        self._agreed_image = own.agreed_image
        self._jumping = own.jumping
        self._closing = False

    # Where it stands

    @property
    def segment_blocks(self) -> int:
        """Blocks of a segment of this node's log; no transfer of its volume is larger."""
        return self.log.pool.segment_blocks

    @property
    def newest(self) -> tuple[WriteNumber, int]:
        """The last agreed point: what lies behind it is not shown."""
        return self.agreed.write, self.agreed.time_ns

    @property
    def agreed(self) -> Point:
        """The last point that it has agreed to; the one of its base at first."""
        return self.records.agreed

    @property
    def failure(self) -> RevolumeError | None:
        """Why it takes no more points."""
        return self.records.failure

    @property
    def differs_since(self) -> int:
        """The point at which it was found to differ from its source, until a comparison has proved it equal; 0: it
        does not."""
        return self.manifest.state.suspect.differs_since

    @property
    def why_not_promotable(self) -> str:
        """Empty, or a sentence."""
        if self.base is not None:
            return base_words(self.name, self.base.next_block, -(-self.size // BLOCK))
        return self.records.why_not_agreed if self.failure is not None else self.bound.why_no_proof

    @property
    def end(self) -> End:
        """The last transfer here: what the source goes on behind. (It may be part of a write; ``received`` is what
        is complete.)"""
        return self._received.end

    @property
    def known_epoch(self) -> tuple[int, bytes]:
        """The newest opening of which it has a transfer, or that was named by the source that brought its base:
        until the log has come after the base, there is nothing else by which an old image of that source could be
        told."""
        epochs, appender = self.manifest.state.epochs, self.log.appender
        named = [(epoch.number, epoch.reign) for epoch in epochs[-1:]]
        return max([*named, (appender.epoch, appender.reign)], key=lambda known: known[0])

    @property
    def received(self) -> Position:
        """Complete, and in the log file."""
        return self._received.received

    @property
    def durable(self) -> Position:
        """On the disk."""
        return self.log.commit.durable

    @property
    def base(self) -> BaseState | None:
        """None: this is a whole copy."""
        if self._fill is None:
            return None
        h = self.manifest.state.horizon
        return BaseState(
            point=h.point,
            position=h.position,
            write=h.write,
            chain=h.chain,
            root=(h.root_low, h.root_high),
            next_block=self._fill.durable_block,
        )

    # The session with its source

    def attach(self, source: SourceLink) -> None:
        """This session is told how far the copy is, and asked for blocks, until it is detached or another one is
        attached."""
        self.records.source = source

    def detach(self, source: SourceLink) -> None:
        """The session is over; nothing happens if another one is attached by now."""
        if self.records.source is source:
            self.records.source = NoSource()

    def resume(self) -> None:
        """There is a source to ask again."""
        self.records.resume()

    # The log

    def keep(self, carried: Sequence[ReceivedTransfer]) -> Position:
        """Store transfers that follow on each other and on what is here; the position that is received now.
        WouldBlock: wait for ``room``, nothing was stored. Refused: they are not what they should be."""
        self._jumping.log_goes_on()
        return self._received.keep(carried)

    def need(self, carried: Sequence[ReceivedTransfer]) -> int:
        """Blocks that these take at most, headers and the footers' growth counted."""
        return self._received.need(carried)

    async def room(self, blocks: int) -> None:
        """Wait until so many blocks would be admitted. NoSpace: they won't be."""
        await self._received.room(blocks)

    async def add_marks(self, marks: Marks) -> None:
        """Some of its history is suspect: durable when it returns."""
        await self.suspect.add(marks)

    async def proved_equal(self, point: int) -> None:
        """At this point the copy was found to be what it should be: durable when it returns. Refused: it does not
        stand there."""
        found = self.agreed if point == self.agreed.number else self.retained.numbered(point)
        if found is not None:
            await self.suspect.proved_equal(found.number, found.write)
            return
        horizon = self.manifest.state.horizon
        if point > horizon.point:
            raise bad_transfer(f"it was found to be equal at cp{point}, where it does not stand")
        await self.suspect.proved_equal(point, horizon.write)  # folded since; the horizon stands behind it

    def stage_fixups(self, fixups: Fixups) -> asyncio.Future[int]:
        """Blocks that put this copy right; the number of them, once the point to which they belong is agreed,
        durably. ConnectionError: it is not that point."""
        return self.point_applier.fixups.stage(fixups)

    async def make_durable(self, position: Position) -> None:
        """Return once everything up to ``position``, which is received, is on the disk."""
        await self.log.commit.wait_durable(position)

    # The base

    async def put_base(self, blocks: U64, digests: U64, payload: Buffer, next_block: int) -> None:
        """Blocks of the point at which the log begins, ascending, with their digests and content; everything below
        ``next_block`` has then been sent. Refused: the content is not what the digests say."""
        await self._filling().put(blocks, digests, payload, next_block)

    @property
    def seeded(self) -> bool:
        """Where no block of its base has come yet there is something else."""
        return self._fill is not None and self._fill.seeded

    async def seed_digests(self, blocks: U64) -> U64:
        """Of what is in the image, while the base comes."""
        return await self._filling().held(blocks)

    async def put_moment(self, moment: Horizon, blocks: U64, digests: U64, payload: Buffer, last: bool) -> None:
        """Blocks of an earlier pinned moment, ascending, with the content of those whose digest is not 0; with the
        ``last`` of them the moment is there, durably. Refused: it is not before the base."""
        self._filling()
        await self._moments.put(moment, blocks, digests, payload, last)

    async def settle_base(self) -> None:
        """Its source's link is lost: what has come of the base need not be sent again."""
        self._moments.forget()
        if self._fill is not None and not self._closing:
            await self.tasks.finish(self._fill.settle())

    async def finish_base(self) -> None:
        """All blocks have been sent: compare, and be a copy of the volume from now on. Refused: they don't sum up
        to the point's root."""
        fill = self._filling()
        await fill.finish(self._moments.verify)
        await fill.close()
        self._fill = None
        self.records.waits_for_base = False
        self.records.resume()
        self.events.tell(f"the base is complete: cp{self.agreed.number} of {self.name} is here")

    def _filling(self) -> BaseFill:
        if self._fill is None:
            raise bad_transfer("a base was sent to a copy that is whole")
        return self._fill

    # A jump

    @property
    def jump(self) -> Jump | None:
        """What has arrived of a jump, durably."""
        return self._jumping.now

    async def begin_jump(self, target: JumpTarget) -> None:
        """What changed between the point where it stands and this one will be sent; what has arrived for another
        point is discarded. Refused: it does not stand at that point, or its base is not complete."""
        if self._fill is not None:
            raise bad_transfer("a jump was begun in a copy whose base is not complete")
        await self._jumping.begin(target)

    async def put_jump(self, blocks: U64, digests: U64, payload: Buffer, next_block: int) -> None:
        """Blocks that changed, ascending, with the content of those whose digest is not 0; everything below
        ``next_block`` has then been sent. Refused: they are not what they should be. NoSpace: no room for them."""
        await self._jumping.put(blocks, digests, payload, next_block)

    async def settle_jump(self) -> None:
        """Its source's link is lost: what has come need not be sent again."""
        if not self._closing:
            await self._jumping.settle()

    async def finish_jump(self) -> None:
        """All has been sent: compare, and be the source's point from then on, durably. It is to be closed and
        opened again before anything else is done with it. Refused: it is not that point; what has arrived is
        discarded."""
        await self._jumping.finish()

    async def fold_to_agreed(self) -> None:
        """The image is the point where the copy stands; unnamed moments before it are gone."""
        await self._agreed_image.fold()

    async def discard_jump(self) -> None:
        """What has arrived is of no use any more."""
        await self._jumping.discard()

    # Its beginning and end

    def start(self, unsealed: Iterable[tuple[Kind, Position, Address]]) -> None:
        """Start syncs, folding, and dealing with records; ``unsealed``: (kind, position, address) of those in the
        log that had not been dealt with."""
        self.records.begin(unsealed)
        self.log.commit.follow(lambda position: self.records.source.on_durable(position))
        self.log.pool.start()
        self.upkeep.start()

    async def close(self) -> None:
        """A clean stop: everything complete is durable, the manifest says where the log ends."""
        if self._closing:
            return
        self._closing = True
        await self.upkeep.stop()
        await self.close_parts(self._close_clean, self._close_base)

    async def _close_base(self) -> None:
        if self._fill is not None:
            await self._fill.close()
        await self._jumping.close()

    async def _close_clean(self) -> None:
        log = self.log
        if self._fill is not None:
            await self._fill.commit()
        await self._jumping.commit()
        await log.pool.stop()  # segments made ready are recorded too: before the end is, and not beside it
        await log.footers.durable()
        await log.commit.synced()
        if (
            log.appender.complete_position != log.appender.position
        ):  # a write is half there: the next opening cuts it off
            return
        mark = log.end_mark(self._end_address())
        await self.manifest.record(
            (EditKind.DURABLE, pack_mark(mark)), (EditKind.CLOCK, pack_clock(self.clocks.mark(mark.position))),
            (EditKind.CLEAN, pack_mark(mark)),
        )  # fmt: skip
        await self.manifest.close_clean()

    def _end_address(self) -> Address:
        """Where the log ends; if nothing has come since a crash, somewhere in the last segment that was used."""
        pool, appender = self.log.pool, self.log.appender
        ready = {segment.use for segment in pool.ready}
        used = [use for use in pool.by_use if use not in ready]
        return appender.address or Address(max(used, default=0) * pool.segment_blocks)
