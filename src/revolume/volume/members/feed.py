"""The log as it leaves for mirrors: transfers behind a position, in order, each ready to travel.

What was appended a moment ago is at hand: a short memory of proper parts and places, kept only while somebody
listens. What is older is read from the log's files in a thread. Either way the payload is named, not read: it is
in the page cache, and whoever sends it has the kernel take it from there. So a slow mirror costs no memory, it
is only further behind.

Whoever reads older transfers asks again behind the last one that it got. Where that one ends is remembered by its
position, so that each header is read once: without it every call would follow the segment's chain from its
beginning. Nothing of the file's content is remembered, because the open segment grows.

Local records (blocks that this node was sent whole) are skipped: they are nobody else's.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from revolume.host.disk import Buffer
from revolume.log.appender import Draft
from revolume.log.carried import Shipment
from revolume.log.scan import Found, SegmentReader, chain_behind
from revolume.log.segment import Segment
from revolume.log.transfer import BLOCK, Kind
from revolume.volume.core import Core

RECENT = 8192
RECENT_BYTES = 8 << 20
PLACES_MAX = 64
"""Readers whose places are remembered; one for each mirror that catches up is needed."""
FIRST_HEADER = 8 << 10
"""Bytes read of a segment to learn with which position it begins."""
Wake = Callable[[], None]
Leaving = Callable[[int, bytes, Sequence[Buffer]], None]


@dataclass(frozen=True, slots=True)
class _Place:
    """Where in a segment the transfer behind a position begins, and the chain checksum that it continues."""

    segment: Segment
    block: int
    previous: bytes


class Feed:
    """See the module's text. One for each open log."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._recent: deque[Shipment] = deque()
        self._recent_bytes = 0
        self._listeners: list[tuple[Wake, Leaving]] = []
        self._places: dict[int, _Place] = {}

    @property
    def oldest(self) -> int:
        """What lies at or before this position is no longer in the log."""
        return self._core.manifest.state.horizon.position

    @property
    def end(self) -> int:
        """The newest complete position."""
        return self._core.appender.whole

    @property
    def end_address(self) -> int:
        """Where the next transfer will be written. With ``address_behind`` it says how much log lies between."""
        return self._core.appender.address

    def address_behind(self, position: int) -> int | None:
        """The address behind the transfer at a position that was looked up a moment ago. None: not known."""
        horizon = self._core.manifest.state.horizon
        if position == horizon.position:
            return horizon.address
        place = self._places.get(position)
        return None if place is None else place.segment.base + place.block

    def listen(self, wake: Wake, leaving: Leaving) -> Callable[[], None]:
        """Have ``leaving`` called with each write's position, proper part and payload just before it is written
        here, and ``wake`` after every append, within it; returns the function that ends this."""
        listener = (wake, leaving)
        self._listeners.append(listener)
        self._core.writer.on_append = self._appended
        self._core.appender.on_packed = self._packed

        def stop() -> None:
            self._listeners.remove(listener)
            if not self._listeners:
                self._core.writer.on_append = None
                self._core.appender.on_packed = None
                self._recent.clear()
                self._recent_bytes = 0

        return stop

    def _packed(self, draft: Draft, position: int, proper: bytes) -> None:
        if draft.kind is Kind.WRITES:
            for _, leaving in self._listeners:
                leaving(position, proper, draft.buffers)

    def _appended(self, draft: Draft, payload: int) -> None:
        appender = self._core.appender
        segment = appender.segment
        assert segment is not None
        if draft.kind != Kind.FIXUP:
            size = draft.blocks * BLOCK + draft.fragment_bytes
            offset = (payload - segment.base) * BLOCK
            shipment = Shipment(
                appender.position, appender.proper, segment.file, offset, size, appender.address
            )
            self._remember(shipment)
        for wake, _ in self._listeners:
            wake()

    def _remember(self, shipment: Shipment) -> None:
        recent = self._recent
        recent.append(shipment)
        self._recent_bytes += len(shipment.proper)
        while len(recent) > RECENT or self._recent_bytes > RECENT_BYTES:
            self._recent_bytes -= len(recent.popleft().proper)

    def recent(self, after: int, max_bytes: int) -> list[Shipment] | None:
        """Transfers behind position ``after``, at least one and otherwise at most so many bytes; [] if there are
        none; None if they are no longer at hand: ask ``older``."""
        recent = self._recent
        if after >= self.end:
            return []
        if not recent or recent[0].position > after + 1:
            return None
        found: list[Shipment] = []
        for index in range(after + 1 - recent[0].position, len(recent)):
            shipment = recent[index]
            found.append(shipment)
            max_bytes -= shipment.length + len(shipment.proper)
            if max_bytes <= 0:
                break
        return found

    async def older(self, after: int, max_bytes: int) -> list[Shipment]:
        """The same from the log's files. Nothing: the log does not reach back so far."""
        place = self._places.get(after)
        if place is not None and self._core.pool.by_use.get(place.segment.use) is place.segment:
            shipments = await self._read_on(place, after, max_bytes)
            if shipments:
                return shipments
        segment = await self._segment_of(after + 1)
        if segment is None:
            return []
        return await self._read_on(_Place(segment, 0, b""), after, max_bytes)

    async def _read_on(self, place: _Place, after: int, max_bytes: int) -> list[Shipment]:
        shipments, behind = await self._core.host.work.call(self._read, place, after, max_bytes)
        if shipments:
            self._note(shipments[-1].position, behind)
        return shipments

    def _note(self, position: int, behind: _Place) -> None:
        """Where what follows on a position begins."""
        places = {**self._places, position: behind}
        while len(places) > PLACES_MAX:
            del places[next(iter(places))]
        self._places = places  # exchanged: threads note places too

    def _read(self, place: _Place, after: int, max_bytes: int) -> tuple[list[Shipment], _Place]:
        segment, shipments = place.segment, list[Shipment]()
        reader = SegmentReader(segment, self._core.volume_id)
        for found in self._transfers(reader, place):
            if found.transfer.position > self.end:
                break
            place = _Place(segment, found.end_block, chain_behind(found.transfer))
            if found.transfer.position <= after or found.transfer.kind == Kind.FIXUP:
                continue
            shipments.append(_shipment(reader, found))
            max_bytes -= shipments[-1].length + len(shipments[-1].proper)
            if max_bytes <= 0:
                break
        return shipments, place

    def _transfers(self, reader: SegmentReader, place: _Place) -> Iterator[Found]:
        """Those of a segment from a place on."""
        previous = place.previous
        if not place.block:
            first = reader.at(0)
            if first is None:
                return iter(())
            previous = first.transfer.previous
        end = self._core.manifest.state.ends.get(place.segment.use)
        return reader.chain_from(place.block, previous, end)

    async def identity_at(self, position: int) -> tuple[int, bytes, bytes] | None:
        """(epoch, reign id, chain checksum) of the transfer at a position, or of the horizon; None if it is not
        in the log."""
        horizon = self._core.manifest.state.horizon
        if position == horizon.position:
            number, reign = self._core.manifest.state.epoch_at(position)
            return number, reign, horizon.chain
        segment = await self._segment_of(position) if position <= self.end else None
        if segment is None:
            return None
        return await self._core.host.work.call(self._identity, segment, position)

    def _identity(self, segment: Segment, position: int) -> tuple[int, bytes, bytes] | None:
        for found in self.transfers(segment):
            transfer = found.transfer
            if transfer.position == position and transfer.kind != Kind.FIXUP:
                self._note(position, _Place(segment, found.end_block, transfer.chain))
                return transfer.epoch, transfer.reign, transfer.chain
        return None

    async def _segment_of(self, position: int) -> Segment | None:
        """The segment in which a transfer lies, None if it is in none."""
        core = self._core
        if not self.oldest < position <= core.appender.position:
            return None
        await core.footers_written()
        ready = {segment.use for segment in core.pool.ready}  # not in the thread: the pool changes meanwhile
        segments = [s for s in core.pool.segments() if s.use not in ready]
        return await core.host.work.call(self._find, segments, position)

    def _find(self, segments: Sequence[Segment], position: int) -> Segment | None:
        """Segments are asked by their first transfer, in halves. One in which nothing lies (a crash left it
        unused) is passed over."""
        low, high = 0, len(segments)
        while low < high:
            middle = ahead = (low + high) // 2
            first = self._first_position(segments[middle])
            while first is None and ahead + 1 < high:
                ahead += 1
                first = self._first_position(segments[ahead])
            if first is not None and first <= position:
                low = ahead + 1
            else:
                high = middle
        return segments[low - 1] if low else None

    def transfers(self, segment: Segment) -> Iterator[Found]:
        """Those of a segment, in order."""
        return self._transfers(SegmentReader(segment, self._core.volume_id), _Place(segment, 0, b""))

    def _first_position(self, segment: Segment) -> int | None:
        found = SegmentReader(segment, self._core.volume_id, FIRST_HEADER).at(0)
        return None if found is None else found.transfer.position + (found.transfer.kind == Kind.FIXUP)


def _shipment(reader: SegmentReader, found: Found) -> Shipment:
    return Shipment(
        found.transfer.position, reader.proper(found), found.segment.file, found.payload_block * BLOCK,
        found.transfer.payload_bytes, found.segment.base + found.end_block,
    )  # fmt: skip



