"""Records in a mirror's log, dealt with in order: points are agreed to here, facts are recorded by
``received_facts.py``.

A record is queued when its transfer is stored. What is refused ends this, for good: the log goes on being kept,
and the copy stays at the last point that it has agreed to. What has to be asked of a source that is away waits for
one.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from revolume.blocks.digest import ZERO_DIGEST
from revolume.blocks.geometry import BLOCK
from revolume.blocks.numbers import Address, Position
from revolume.chain.point import Part, Point, unpack_part
from revolume.errors import Damaged, Refused, RevolumeError
from revolume.log.format.columns import resizes
from revolume.log.format.transfer import Flag, Kind
from revolume.log.read.scan import FoundTransfer, SegmentReader
from revolume.volume.context import VolumeContext
from revolume.volume.image.volume_image import VolumeImage
from revolume.volume.livemap.base_map_rebuild import MAP_SLACK
from revolume.volume.livemap.base_map_renewal import BaseMapRenewal
from revolume.volume.livemap.live_map import LiveMap
from revolume.volume.members.received_log import bad_transfer
from revolume.volume.members.source_link import NoSource, SourceLink
from revolume.volume.metadata import log_facts as facts
from revolume.volume.metadata.manifest_edits import EditKind, pack_agreed
from revolume.volume.metadata.manifest_state import Agreed, Member
from revolume.volume.metadata.suspect_edits import Finding, SuspectRecord, pack_finding
from revolume.volume.open_log import OpenLog
from revolume.volume.points.apply_point import Contents, PointApplier, ReceivedRecord
from revolume.volume.points.received_facts import ReceivedFacts
from revolume.volume.points.retained_points import RetainedPoints
from revolume.volume.size_history import SizeHistory
from revolume.volume.state.events import EventKind, Events
from revolume.volume.suspect.suspicion import differs_words

PATIENCE_NS = 2_000_000_000
"""A point that is being dealt with may make room: so long is waited for the next one."""
COPY_OUT = (
    "Promote another mirror; or serve this one again with --mirror-listen and copy the point out with "
    "'revolume copy DIR FILE'."
)


@dataclass(frozen=True, slots=True)
class _Queued:
    """A point's part or a fact, stored at an address, to be dealt with in order."""

    kind: Kind
    position: Position
    address: Address


class RecordProcessor:
    """Of one copy. ``agreed``: the last point that it has agreed to. ``waits_for_base``: while the base is not
    complete nothing is dealt with. ``failure``: why no more points are taken."""

    def __init__(
        self,
        context: VolumeContext,
        *,
        log: OpenLog,
        live: LiveMap,
        image: VolumeImage,
        retained: RetainedPoints,
        sizes: SizeHistory,
        base_maps: BaseMapRenewal,
        point_applier: PointApplier,
        received_facts: ReceivedFacts,
        events: Events,
        agreed: Point,
        waits_for_base: bool,
    ) -> None:
        self._clock = context.host.clock
        self._log = log
        self._manifest = log.manifest
        self._live = live
        self._image = image
        self._retained = retained
        self._sizes = sizes
        self._base_maps = base_maps
        self._point_applier = point_applier
        self._received_facts = received_facts
        self._events = events
        self._queue: deque[_Queued] = deque()
        self._queued = asyncio.Event()
        self._halted = asyncio.Event()
        self._parts: list[tuple[Part, FoundTransfer]] = []
        self._dealt_ns = 0
        self._stopping = False
        self.turn = asyncio.Lock()
        """Held while a record is dealt with."""
        self._paused = False
        self.agreed = agreed
        self.waits_for_base = waits_for_base
        self.failure: RevolumeError | None = None
        self.source: SourceLink = NoSource()

    def __len__(self) -> int:
        """How many are queued."""
        return len(self._queue)

    def add(self, kind: Kind, position: Position, address: Address) -> None:
        """A record was stored."""
        self._queue.append(_Queued(kind, position, address))
        self._queued.set()

    def begin(self, records: Iterable[tuple[Kind, Position, Address]]) -> None:
        """(kind, position, address) of records that an earlier opening had not dealt with."""
        self._queue.extend(_Queued(*each) for each in records)
        self._queued.set()

    def resume(self) -> None:
        """There is a source to ask again, or the base is complete."""
        self._queued.set()

    def pause(self, paused: bool) -> None:
        """While a jump is received the copy stays where it is: nothing is dealt with."""
        self._paused = paused
        self._halted.clear()
        self._queued.set()

    def stop(self) -> None:
        """Begin nothing any more."""
        self._stopping = True
        self._queued.set()

    @property
    def progressing(self) -> bool:
        """A point is being agreed, after which more may be folded."""
        now_ns = self._clock.monotonic_ns()
        return bool(self._queue) and self.failure is None and now_ns - self._dealt_ns < PATIENCE_NS

    @property
    def why_not_agreed(self) -> str:
        """Why it does not go on from the point where it stands."""
        why = self.failure.cause if self.failure else "its source would have to be asked."
        return f"This mirror stands at cp{self.agreed.number} and can't agree on the point after it: {why}"

    async def members(self) -> tuple[Member, ...]:
        """The members as the log has them to its end, also where that is not dealt with yet."""
        state = self._manifest.state
        known = {member.name: member for member in state.members}
        for queued in list(self._queue):
            if queued.kind != Kind.FACT or queued.position <= state.names_position:
                continue
            match facts.unpack((await self._log.work.call(self._read, queued.address)).transfer.body):
                case facts.MemberStated(member):
                    known[member.name] = member
                case facts.MemberGone(name):
                    known.pop(name, None)
        return tuple(known.values())

    async def verify_before_promotion(self) -> None:
        """Deal with what has arrived, before this becomes a primary. Refused: a point in its log can't be agreed
        to; as a primary it would go on from a state that is not known to be anybody's."""
        await self._halted.wait()
        if self._queue:
            raise Refused("not-promotable", self.why_not_agreed, COPY_OUT)

    async def run(self) -> None:
        """Deal with records as they come."""
        while not self._stopping:
            await self._queued.wait()
            self._queued.clear()
            self._halted.clear()
            while self._queue and self._may_deal():
                async with self.turn:
                    if not self._may_deal() or not await self._dealt_with(self._queue[0]):
                        break
                self._queue.popleft()
                self._dealt_ns = self._clock.monotonic_ns()
            self._halted.set()

    def _may_deal(self) -> bool:
        waits = self.waits_for_base or self._paused
        return not waits and not self._stopping and self.failure is None

    async def _dealt_with(self, queued: _Queued) -> bool:
        try:
            await self._deal_with(queued)
            return True
        except ConnectionError:  # asked of a source that has gone: it is asked again when it is back
            return False
        except Exception as error:
            self.failure = error if isinstance(error, RevolumeError) else _unexpected(error)
            self._events.tell(str(self.failure), EventKind.DIVERGED)
            self.source.on_refused(self.failure)
            return False

    async def _deal_with(self, queued: _Queued) -> None:
        found = await self._log.work.call(self._read, queued.address)
        if queued.kind == Kind.FACT:
            await self._received_facts.record(found.transfer)
            return
        part = unpack_part(found.transfer.body)
        if part is None:
            raise bad_transfer(f"the record of a point at position {queued.position} does not hold together")
        parts = self._parts = [*self._parts, (part, found)] if part.part else [(part, found)]
        if found.transfer.flags & Flag.SEALS and len(parts) == part.parts:
            await self._point(parts)
            self._parts = []

    def _read(self, address: Address) -> FoundTransfer:
        segment = self._log.pool.segment_at(address)
        found = SegmentReader(segment, self._log.volume_id).at(address - segment.base)
        if found is None:
            raise Damaged(
                "record-damaged",
                f"A record in segment file {segment.index}, block {address - segment.base}, can't be read.",
                "Run 'revolume check' on the stopped mirror.",
            )
        return found

    async def _point(self, parts: list[tuple[Part, FoundTransfer]]) -> None:
        last = parts[-1][1]
        number, position = parts[0][0].number, last.transfer.position
        if number == self.agreed.number == self._manifest.state.horizon.point:
            await self._log.work.call(self._same_as_base, parts)
            await self._record_agreed(self.agreed, position)
            return
        if number != self.agreed.number + 1 or parts[0][0].previous != self.agreed.number:
            raise bad_transfer(f"point cp{number} does not follow on cp{self.agreed.number}")
        await self._map_room(parts)
        arrived = ReceivedRecord(
            [part for part, _ in parts],
            [f.transfer.position for _, f in parts],
            last.transfer.epoch,
            last.address,
            last.node_header.lived_ns,
        )
        point = await self._point_applier.seal(arrived, self.agreed, self._fetch_blocks)
        await self._record_agreed(point, position, self._point_applier.root_differs)
        await self._note_sizes(self.agreed, point)
        self._retained.append(point)
        self.agreed = point
        await self._point_applier.agreed(point)
        self.source.on_agreed(point)

    async def _fetch_blocks(self, point: Point, blocks: list[int]) -> Contents:
        """Of whichever source there is when they are needed."""
        return await self.source.fetch_blocks(point, blocks)

    async def _record_agreed(self, point: Point, position: Position, differs: bool = False) -> None:
        """``differs``: its root is not the source's. That is recorded with the point, unless it is known."""
        agreed = Agreed(point.number, position, point.write)
        finding = _finding(self._manifest.state.suspect, self._events, point) if differs else []
        await self._manifest.record((EditKind.AGREED, pack_agreed(agreed)), *finding)

    async def found_to_differ(self) -> None:
        """At the agreed point this copy is not what its source is: durable when it returns."""
        if finding := _finding(self._manifest.state.suspect, self._events, self.agreed):
            await self._manifest.record(*finding)

    def _same_as_base(self, parts: list[tuple[Part, FoundTransfer]]) -> None:
        """The record of the point at which this log began: the base was proved to be that point, so it can only
        say the same once more."""
        part, base = parts[0][0], self.agreed
        same = (part.position, part.write, part.root, part.chain) == (
            base.position, base.write, base.root, base.chain
        )  # fmt: skip
        for _, found in parts:
            blocks = found.transfer.offsets // np.uint64(BLOCK)
            digests = self._image.digests.get(blocks, False)
            assert digests is not None
            stated = np.where(found.transfer.digests == np.uint64(ZERO_DIGEST), 0, found.transfer.digests)
            same = same and np.array_equal(np.where(digests == np.uint64(ZERO_DIGEST), 0, digests), stated)
        if not same:
            raise bad_transfer(f"the record of cp{part.number} does not say what its base was proved to be")

    async def _map_room(self, parts: list[tuple[Part, FoundTransfer]]) -> None:
        """The live map must take the whole of a point at once."""
        live = self._live
        need = parts[0][0].referenced + parts[0][0].partials + MAP_SLACK
        if live.overlay.room() < need:
            await self._base_maps.renew(force=True)
            live.overlay.sweep(1 << 30)
        if live.overlay.room() < need:
            raise Refused(
                "map-memory-too-small",
                f"Point cp{parts[0][0].number} changes {need} blocks, more than the map's memory takes.",
                "Serve this mirror with a larger --map-memory.",
            )

    async def _note_sizes(self, before: Point, point: Point) -> None:
        for columns in await self._log.columns_between(before.address, point.record):
            for write, size in resizes(columns):
                if before.write < write <= point.write:
                    self._sizes.grow(write, size)


def _unexpected(error: Exception) -> RevolumeError:
    return RevolumeError("sealing-failed", f"A point could not be sealed: {error!r}.", "See the log.")


def _finding(record: SuspectRecord, events: Events, point: Point) -> list[tuple[EditKind, bytes]]:
    """The edits; none, if it is known that it differs. It is told."""
    if record.differs_since:
        return []
    events.tell(differs_words(point.number), EventKind.DIVERGED)
    first = record.finding or Finding(point.number, point.write)
    return [(EditKind.FINDING, pack_finding(replace(first, equal=0)))]
