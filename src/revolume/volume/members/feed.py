"""The log as it leaves for mirrors: transfers behind a position, in order, each ready to travel.

What was appended a moment ago is at hand: a short memory of shared headers and places, kept only while somebody
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

from revolume.blocks.geometry import BLOCK
from revolume.blocks.numbers import Address, Position
from revolume.host.disk import Buffer
from revolume.log.format.received_transfer import OutgoingTransfer
from revolume.log.format.segment import Segment
from revolume.log.format.transfer import Kind
from revolume.log.read.scan import FoundTransfer, SegmentReader, chain_behind
from revolume.log.write.appender import Draft
from revolume.volume.open_log import OpenLog

RECENT = 8192
RECENT_BYTES = 8 << 20
PLACES_MAX = 64
"""Readers whose places are remembered; one for each mirror that catches up is needed."""
FIRST_HEADER = 8 << 10
"""Bytes read of a segment to learn with which position it begins."""
Wake = Callable[[], None]
Leaving = Callable[[Position, bytes, Sequence[Buffer]], None]


@dataclass(frozen=True, slots=True)
class _Place:
    """Where in a segment the transfer behind a position begins, and the chain checksum that it continues."""

    segment: Segment
    block: int
    previous: bytes


class Feed:
    """The feed of one open log."""

    def __init__(self, log: OpenLog) -> None:
        self._log = log
        self._recent: deque[OutgoingTransfer] = deque()
        self._recent_bytes = 0
        self._listeners: list[tuple[Wake, Leaving]] = []
        self._places: dict[Position, _Place] = {}

    @property
    def oldest(self) -> Position:
        """What lies at or before this position is no longer in the log."""
        return self._log.manifest.state.horizon.position

    @property
    def end(self) -> Position:
        """The newest position. It may lie within a write that is half there."""
        return self._log.appender.position

    @property
    def complete(self) -> Position:
        """The newest complete position."""
        return self._log.appender.complete_position

    @property
    def end_address(self) -> Address:
        """Where the next transfer will be written. With ``address_behind`` it says how much log lies between."""
        return self._log.appender.address

    def address_behind(self, position: Position) -> Address | None:
        """The address behind the transfer at a position that was looked up a moment ago. None: not known."""
        horizon = self._log.manifest.state.horizon
        if position == horizon.position:
            return horizon.address
        place = self._places.get(position)
        return None if place is None else Address(place.segment.base + place.block)

    def listen(self, wake: Wake, leaving: Leaving) -> Callable[[], None]:
        """Have ``leaving`` called with each write's position, shared header and payload just before it is written
        here, and ``wake`` after every append, within it; returns the function that ends this."""
        listener = (wake, leaving)
        self._listeners.append(listener)
        self._log.writer.observe(self)

        def stop() -> None:
            self._listeners.remove(listener)
            if not self._listeners:
                self._log.writer.observe(None)
                self._recent.clear()
                self._recent_bytes = 0

        return stop

    def packed(self, draft: Draft, position: Position, shared_header: bytes) -> None:
        """A write is about to be in the log's file."""
        if draft.kind is Kind.WRITES:
            for _, leaving in self._listeners:
                leaving(position, shared_header, draft.buffers)

    def appended(self, draft: Draft, payload: Address) -> None:
        """A transfer is in the log's file."""
        appender = self._log.appender
        segment = appender.segment
        assert segment is not None
        if draft.kind != Kind.LOCAL_BLOCKS:
            size = draft.blocks * BLOCK + draft.fragment_bytes
            offset = (payload - segment.base) * BLOCK
            shipment = OutgoingTransfer(
                appender.position, appender.shared_header, segment.file, offset, size, appender.address
            )
            self._remember(shipment)
        for wake, _ in self._listeners:
            wake()

    def _remember(self, shipment: OutgoingTransfer) -> None:
        recent = self._recent
        recent.append(shipment)
        self._recent_bytes += len(shipment.shared_header)
        while len(recent) > RECENT or self._recent_bytes > RECENT_BYTES:
            self._recent_bytes -= len(recent.popleft().shared_header)

    def recent(self, after: Position, max_bytes: int) -> list[OutgoingTransfer] | None:
        """Transfers behind position ``after``, at least one and otherwise at most so many bytes; [] if there are
        none; None if they are no longer at hand: ask ``older``."""
        recent = self._recent
        if after >= self.end:
            return []
        if not recent or recent[0].position > after + 1:
            return None
        found: list[OutgoingTransfer] = []
        for index in range(after + 1 - recent[0].position, len(recent)):
            shipment = recent[index]
            found.append(shipment)
            max_bytes -= shipment.length + len(shipment.shared_header)
            if max_bytes <= 0:
                break
        return found

    async def older(self, after: Position, max_bytes: int) -> list[OutgoingTransfer]:
        """Transfers behind position ``after``, read from the log's files: at least one, and otherwise at most so
        many bytes. []: the log does not reach back so far."""
        place = self._places.get(after)
        if place is not None and self._log.pool.by_use.get(place.segment.use) is place.segment:
            shipments = await self._read_on(place, after, max_bytes)
            if shipments:
                return shipments
        segment = await self.segment_of(Position(after + 1))
        if segment is None:
            return []
        return await self._read_on(_Place(segment, 0, b""), after, max_bytes)

    async def _read_on(self, place: _Place, after: Position, max_bytes: int) -> list[OutgoingTransfer]:
        shipments, behind = await self._log.work.call(self._read, place, after, max_bytes)
        if shipments:
            self._note(shipments[-1].position, behind)
        return shipments

    def _note(self, position: Position, behind: _Place) -> None:
        """Where what follows on a position begins."""
        places = {**self._places, position: behind}
        while len(places) > PLACES_MAX:
            del places[next(iter(places))]
        self._places = places  # exchanged: threads note places too

    def _read(self, place: _Place, after: Position, max_bytes: int) -> tuple[list[OutgoingTransfer], _Place]:
        segment, shipments = place.segment, list[OutgoingTransfer]()
        reader = SegmentReader(segment, self._log.volume_id)
        for found in self._transfers(reader, place):
            if found.transfer.position > self.end:
                break
            place = _Place(segment, found.end_block, chain_behind(found.transfer))
            if found.transfer.position <= after or found.transfer.kind == Kind.LOCAL_BLOCKS:
                continue
            shipments.append(_shipment(reader, found))
            max_bytes -= shipments[-1].length + len(shipments[-1].shared_header)
            if max_bytes <= 0:
                break
        return shipments, place

    def _transfers(self, reader: SegmentReader, place: _Place) -> Iterator[FoundTransfer]:
        """Those of a segment from a place on."""
        previous = place.previous
        if not place.block:
            first = reader.at(0)
            if first is None:
                return iter(())
            previous = first.transfer.previous
        end = self._log.manifest.state.ends.get(place.segment.use)
        return reader.chain_from(place.block, previous, end)

    async def identity_at(self, position: Position) -> tuple[int, bytes, bytes] | None:
        """(epoch, reign id, chain checksum) of the transfer at a position, or of the horizon; None if it is not
        in the log."""
        horizon = self._log.manifest.state.horizon
        if position == horizon.position:
            number, reign = self._log.manifest.state.epoch_at(position)
            return number, reign, horizon.chain
        segment = await self.segment_of(position) if position <= self.end else None
        if segment is None:
            return None
        return await self._log.work.call(self._identity, segment, position)

    def _identity(self, segment: Segment, position: Position) -> tuple[int, bytes, bytes] | None:
        for found in self.transfers(segment):
            transfer = found.transfer
            if transfer.position == position and transfer.kind != Kind.LOCAL_BLOCKS:
                self._note(position, _Place(segment, found.end_block, transfer.chain))
                return transfer.epoch, transfer.reign, transfer.chain
        return None

    async def segment_of(self, position: Position) -> Segment | None:
        """The segment in which a transfer lies, None if it is in none."""
        log = self._log
        if not self.oldest < position <= log.appender.position:
            return None
        await log.footers.written()
        ready = {segment.use for segment in log.pool.ready}  # not in the thread: the pool changes meanwhile
        segments = [s for s in log.pool.segments() if s.use not in ready]
        return await log.work.call(self._find, segments, position)

    def _find(self, segments: Sequence[Segment], position: Position) -> Segment | None:
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

    def transfers(self, segment: Segment) -> Iterator[FoundTransfer]:
        """Those of a segment, in order."""
        return self._transfers(SegmentReader(segment, self._log.volume_id), _Place(segment, 0, b""))

    def _first_position(self, segment: Segment) -> int | None:
        found = SegmentReader(segment, self._log.volume_id, FIRST_HEADER).at(0)
        return None if found is None else found.transfer.position + (found.transfer.kind == Kind.LOCAL_BLOCKS)


def _shipment(reader: SegmentReader, found: FoundTransfer) -> OutgoingTransfer:
    return OutgoingTransfer(
        position=found.transfer.position,
        shared_header=reader.shared_header(found),
        file=found.segment.file,
        offset=found.payload_block * BLOCK,
        length=found.transfer.payload_bytes,
        behind=Address(found.segment.base + found.end_block),
    )
