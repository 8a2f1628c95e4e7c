"""The log as it leaves for mirrors: transfers behind a position, in order, each ready to travel.

What was appended a moment ago is at hand: a short memory of proper parts and places, kept only while somebody
listens. What is older is read from the log's files in a thread. Either way the payload is named, not read: it is
in the page cache, and whoever sends it has the kernel take it from there. So a slow mirror costs no memory, it
is only further behind.

Local records (blocks that this node was sent whole) are skipped: they are nobody else's.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence

from revolume.host.disk import Buffer
from revolume.log.appender import Draft
from revolume.log.carried import Shipment
from revolume.log.scan import Found, SegmentReader
from revolume.log.segment import Segment
from revolume.log.transfer import BLOCK, LOCAL_SIZE, Kind
from revolume.volume.core import Core

RECENT = 8192
RECENT_BYTES = 8 << 20
Wake = Callable[[], None]
Leaving = Callable[[int, bytes, Sequence[Buffer]], None]


class Feed:
    """See the module's text. One for each open log."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._recent: deque[Shipment] = deque()
        self._recent_bytes = 0
        self._listeners: list[tuple[Wake, Leaving]] = []

    @property
    def oldest(self) -> int:
        """What lies at or before this position is no longer in the log."""
        return self._core.manifest.state.horizon.position

    @property
    def end(self) -> int:
        """The newest complete position."""
        return self._core.appender.whole

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
            self._remember(Shipment(appender.position, appender.proper, segment.file, offset, size))
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
        segment = await self._segment_of(after + 1)
        if segment is None:
            return []
        return await self._core.host.work.call(self._read, segment, after, max_bytes)

    def _read(self, segment: Segment, after: int, max_bytes: int) -> list[Shipment]:
        shipments: list[Shipment] = []
        for found in self._transfers(segment):
            if not after < found.transfer.position <= self.end or found.transfer.kind == Kind.FIXUP:
                continue
            shipments.append(self._shipment(segment, found))
            max_bytes -= shipments[-1].length + len(shipments[-1].proper)
            if max_bytes <= 0:
                break
        return shipments

    def _transfers(self, segment: Segment) -> Iterator[Found]:
        reader = SegmentReader(segment, self._core.volume_id)
        first = reader.at(0)
        if first is None:
            return iter(())
        return reader.chain_from(0, first.transfer.previous, self._core.manifest.state.ends.get(segment.use))

    @staticmethod
    def _shipment(segment: Segment, found: Found) -> Shipment:
        proper = bytearray(found.transfer.proper_size)
        segment.file.preadv([proper], found.block * BLOCK + LOCAL_SIZE)
        size = found.transfer.payload_bytes
        return Shipment(
            found.transfer.position, bytes(proper), segment.file, found.payload_block * BLOCK, size
        )

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
        for found in self._transfers(segment):
            transfer = found.transfer
            if transfer.position == position and transfer.kind != Kind.FIXUP:
                return transfer.epoch, transfer.reign, transfer.chain
        return None

    async def _segment_of(self, position: int) -> Segment | None:
        """The segment in which a transfer lies, None if it is in none."""
        core = self._core
        if not self.oldest < position <= core.appender.position:
            return None
        await core.footers_written()
        return await core.host.work.call(self._find, position)

    def _find(self, position: int) -> Segment | None:
        """Segments are asked by their first transfer, in halves. One in which nothing lies (a crash left it
        unused) is passed over."""
        core = self._core
        ready = {segment.use for segment in core.pool.ready}
        segments = [s for s in core.pool.segments() if s.use not in ready]
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

    def _first_position(self, segment: Segment) -> int | None:
        found = SegmentReader(segment, self._core.volume_id).at(0)
        return None if found is None else found.transfer.position + (found.transfer.kind == Kind.FIXUP)



