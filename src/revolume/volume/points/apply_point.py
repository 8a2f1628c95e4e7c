"""A point applied at a mirror: from the record received to a state that is proved to be the source's.

    segment durable → references resolved in storage of our own (``chain/reference_resolver.py``), cut and zero
    runs compared with the log → what is refused asked for whole and stored as a local record, durable → interval
    digest compared → live map → volume root compared → blocks that put the copy right stored as local records,
    durable → AGREED, durable

What puts the copy right (``staged_fixups.py``) counts in neither digest nor root: the root, which follows the
source's changes alone, counts already what is right.

Nothing is believed before the digest has been compared. If then the root differs, the source's changes are here as
they are there, and something beneath them is not: a block has held other content for a while. That is a finding,
and no reason to refuse what is right. The log goes on with the root that the source states, the copy says durably
since when it differs, and a comparison finds the blocks.
"""

from __future__ import annotations

from array import array
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from revolume.blocks.block_location import ADDRESS_MASK, DATA, PARTIAL, ZERO, addresses, pack
from revolume.blocks.block_set import BlockSet
from revolume.blocks.delta_map import DeltaMap
from revolume.blocks.digest import fragment_digest
from revolume.blocks.extents import numbers_in
from revolume.blocks.geometry import BLOCK
from revolume.blocks.numbers import Address, Position
from revolume.blocks.ordering import among
from revolume.chain.point import Part, Point, stated_point
from revolume.chain.reference_resolver import ResolvedRecord, resolve_record
from revolume.errors import NoSpace, Refused
from revolume.host.error_text import error_text
from revolume.log.format.columns import LIVED_NS, RANGE_BLOCKS, Columns, select
from revolume.log.format.transfer import KIND_SHIFT, EntryKind, Kind
from revolume.log.read.scan import SegmentReader
from revolume.log.write.appender import Draft
from revolume.volume.context import VolumeContext
from revolume.volume.image.volume_image import VolumeImage
from revolume.volume.livemap.interval import AT_ONCE
from revolume.volume.livemap.live_map import LiveMap
from revolume.volume.open_log import OpenLog
from revolume.volume.points.compose import LowerLayers, moved_root
from revolume.volume.points.retained_points import LastPoint, RetainedPoints
from revolume.volume.points.staged_fixups import Fixups, StagedFixups
from revolume.volume.space.admission import Admission
from revolume.volume.state.events import EventKind, Events
from revolume.volume.suspect.suspect_history import SuspectHistory

U64 = npt.NDArray[np.uint64]
Contents = dict[int, bytes | None]
FetchBlocks = Callable[[Point, list[int]], Awaitable[Contents]]
WORD = BLOCK | EntryKind.WRITE << KIND_SHIFT
PIECE = 1 << 13
STORED_AT_ONCE = 256
"""Blocks of a local record, at most."""


@dataclass(frozen=True, slots=True)
class ReceivedRecord:
    """A record that has arrived: its parts, their positions, the epoch; of its last transfer the address and the
    lived time."""

    parts: Sequence[Part]
    positions: Sequence[Position]
    epoch: int
    record: Address
    lived_ns: int


@dataclass(frozen=True, slots=True)
class _Changes:
    """What a point changed. ``delta``: blocks that hold data, and zero ranges. ``sent_whole``: those of the blocks
    that came whole, with the record or because they were asked for; their places lie above the cut. ``record``:
    where the last record of the point lies here."""

    delta: DeltaMap
    sent_whole: DeltaMap
    record: Address


class PointApplier:
    """One point at a time."""

    def __init__(
        self,
        context: VolumeContext,
        *,
        log: OpenLog,
        live: LiveMap,
        image: VolumeImage,
        retained: RetainedPoints,
        admission: Admission,
        suspect: SuspectHistory,
        events: Events,
    ) -> None:
        self._clock = context.host.clock
        self._log = log
        self._live = live
        self._image = image
        self._retained = retained
        self._admission = admission
        self._suspect = suspect
        self._events = events
        self._used_before = _end_of_used(log)
        self.fixups = StagedFixups()
        self.root_differs = False
        """Of the last point: see ``seal``."""
        self.referenced_blocks = 0
        self.asked_blocks = 0
        self.put_right_blocks = 0

    async def seal(self, arrived: ReceivedRecord, before: Point, ask: FetchBlocks) -> Point:
        """The point, agreed in memory; the caller records it, and whether ``root_differs``: the changes are the
        source's, and what lies beneath them is not. Refused: it can't be agreed."""
        log = self._log
        await log.commit.wait_durable(arrived.positions[-1])
        columns = await log.columns_between(before.address, arrived.record)
        table = log.writer.table.view()
        got = await log.work.call(
            resolve_record, arrived.parts, columns, table, (before.position, before.write), arrived.positions
        )
        point = _point(arrived, got.cut_address)
        wrong = got.wrong or await log.work.call(self._not_this_log, point, before, columns)
        if wrong:
            raise _not_equal(point, wrong)
        self.referenced_blocks += len(got.delta)
        changes = await self._whole(point, got, ask)
        if changes.delta.interval_digest() != point.digest:
            raise _not_equal(point, "its changes don't have the digest that was stated")
        root = await self._applied(point, changes)
        self.root_differs = root != point.root
        put_right, record = await self._put_right(point, changes.record)
        self._moved(point, put_right.over(changes.sent_whole))
        return _point(arrived, got.cut_address, record)

    async def agreed(self, point: Point) -> None:
        """The point is agreed, durably: from its moment on the blocks that it has put right are not suspect. Where
        that can't be noted they stay suspect, until the copy is found to be equal."""
        for batch in self.fixups.of(point):
            try:
                await self._suspect.repaired(batch.right(), point.write)
            except OSError as error:
                self._events.tell(
                    f"cp{point.number}: blocks were put right, and are called suspect still: {error_text(error)}",
                    EventKind.TROUBLE,
                )
        self.fixups.agreed(point.number)

    def _not_this_log(self, point: Point, before: Point, columns: list[Columns]) -> str:
        """The chain checksum at the cut must be this log's."""
        pool, volume = self._log.pool, self._log.volume_id
        chain = before.chain if point.position == before.position else None
        for each in columns:
            rows = each.rows
            here = (rows["position"] == np.uint64(point.position)) & (rows["kind"] != Kind.LOCAL_BLOCKS)
            for block in rows["block"][here].tolist():
                found = SegmentReader(pool.segment_at(each.base + block), volume).at(block)
                chain = None if found is None else found.transfer.chain
        return "" if chain == point.chain else "its cut is not one of this log"

    # Blocks asked for whole

    async def _whole(self, point: Point, got: ResolvedRecord, ask: FetchBlocks) -> _Changes:
        sent_whole, record = got.carried, point.record
        if got.dropped:
            self._events.tell(f"cp{point.number}: {got.dropped} references lead nowhere and are dropped")
        if len(got.refused):
            fixed, record = await self._fixed(point, got.refused.tolist(), ask)
            sent_whole = fixed.over(sent_whole)
        return _Changes(sent_whole.over(got.delta), sent_whole, record)

    async def _fixed(self, point: Point, refused: list[int], ask: FetchBlocks) -> tuple[DeltaMap, Address]:
        """Ask for these blocks whole and store them; what they are here, and where the last record lies."""
        self._events.tell(f"cp{point.number}: {len(refused)} blocks have no reference that holds: asked for whole")
        self.asked_blocks += len(refused)
        contents = await ask(point, refused)
        if set(contents) != set(refused):
            raise _not_equal(point, "the source did not send the blocks that were asked for")
        if any(content is not None and len(content) != BLOCK for content in contents.values()):
            raise _not_equal(point, "the source sent something that is not a block")
        held = [(block, content or bytes(BLOCK)) for block, content in sorted(contents.items())]
        return await self._stored(point, held, point.record)

    async def _stored(
        self, point: Point, held: list[tuple[int, bytes]], record: Address
    ) -> tuple[DeltaMap, Address]:
        """Store blocks as local records of the point, durably; what they are here, and where the last record lies:
        ``record``, if there are none."""
        step = max(1, min(STORED_AT_ONCE, self._log.pool.segment_blocks // 4))
        rows: list[tuple[int, int, int]] = []
        for at in range(0, len(held), step):
            stored, record = await self._store(point, held[at : at + step])
            rows += stored
        await self._log.commit.synced()
        table = np.array(rows, np.uint64).reshape(-1, 3)
        return DeltaMap(table[:, 0], table[:, 1], table[:, 2]), record

    async def _store(
        self, point: Point, held: list[tuple[int, bytes]]
    ) -> tuple[list[tuple[int, int, int]], Address]:
        """(block, location, digest) of each, and where the local record that holds them lies."""
        log = self._log
        digests = [fragment_digest(content) for _, content in held]
        draft = Draft(
            Kind.LOCAL_BLOCKS, array("Q", [block * BLOCK for block, _ in held]), array("Q", [WORD] * len(held)),
            array("Q", digests), [content for _, content in held], len(held), 0, 0,
            body=point.number.to_bytes(8, "little"), asof=point.write,
        )  # fmt: skip
        while log.appender.complete_position != log.appender.position:  # never within a write that is half there
            await self._clock.sleep(0.01)
        await self._admission.wait(draft.total_blocks + 2, True)
        payload = log.writer.emit(draft)
        rows = [(block, pack(DATA, payload + i), digests[i]) for i, (block, _) in enumerate(held)]
        return rows, Address(payload - draft.header_blocks)

    # Blocks that put the copy right

    async def _put_right(self, point: Point, record: Address) -> tuple[DeltaMap, Address]:
        """Store the batches that belong to this point; what they are here, and where its last record lies. A point
        whose sealing was interrupted by the end of the process may have some of them in the log already."""
        found = DeltaMap()
        if point.record < self._used_before:
            found, record = await self._stored_before(point, record)
        for batch in self.fixups.of(point):
            stored, record = await self._stored_as_far_as_may_be(point, batch, record)
            found = stored.over(found)
            self.put_right_blocks += len(stored)
        return found, record

    async def _stored_as_far_as_may_be(
        self, point: Point, batch: Fixups, record: Address
    ) -> tuple[DeltaMap, Address]:
        """The point is right without any of them: what the log has no room for is left out."""
        found, held = DeltaMap(), batch.held()
        try:
            for at in range(0, len(held), STORED_AT_ONCE):
                stored, record = await self._stored(point, held[at : at + STORED_AT_ONCE], record)
                found = stored.over(found)
        except NoSpace as error:
            self.fixups.only(batch, len(found))
            missing = len(held) - len(found)
            self._events.tell(f"cp{point.number}: {missing} blocks are not put right: {error.cause}")
        return found, record

    async def _stored_before(self, point: Point, record: Address) -> tuple[DeltaMap, Address]:
        """Local records of this point that lie behind its record, from a process before this one."""
        found = DeltaMap()
        for columns in await self._log.columns_between(point.record, Address(self._used_before - 1)):
            rows = columns.rows
            for row in np.flatnonzero(rows["kind"] == Kind.LOCAL_BLOCKS).tolist():
                address = Address(columns.base + int(rows["block"][row]))
                if address > point.record and await self._log.work.call(self._record_of, address) == point.number:
                    chosen = np.arange(len(rows)) == row
                    versions = select(columns, chosen).versions()
                    found = DeltaMap.of(versions.blocks, versions.words, versions.digests).over(found)
                    record = max(record, address)
        return found, record

    def _record_of(self, address: Address) -> int:
        """The point to which the local record at an address belongs; 0: it can't be read, and a view that needs it
        says so."""
        segment = self._log.pool.segment_at(address)
        record = SegmentReader(segment, self._log.volume_id).at(address - segment.base)
        return 0 if record is None else int.from_bytes(record.transfer.body, "little")

    # The live map

    async def _applied(self, point: Point, changes: _Changes) -> tuple[int, int]:
        """Move the live map to the point; the root that it has there. Each block is put once, so that all that the
        map has is of the cut before: also blocks that were sent whole, whose place may lie behind this cut."""
        live, cut, delta = self._live, point.address, changes.delta
        live.interval.begin = AT_ONCE
        zeroed = pack(ZERO, cut - 1)
        small = await self._zeroed(delta.zeroes.without(BlockSet.of_blocks(delta.blocks)).blocks(), zeroed)
        within = delta.locations.copy()
        within[among(delta.blocks, changes.sent_whole.blocks)] = pack(PARTIAL, cut - 1)
        await self._put(small, np.full(len(small), zeroed, np.uint64), np.zeros(len(small), np.uint64))
        await self._put(delta.blocks, within, delta.digests)
        interval = live.cut(cut)
        async with self._image.lock:
            last, digests = self._retained.last, self._image.digests
            below = LowerLayers(live.base, digests, live.folded, last.partial_blocks, last.partial_digests)
            return await self._log.work.call(moved_root, interval, delta, last.root, below)

    async def _zeroed(self, zeroes: BlockSet, word: int) -> U64:
        """Put the large runs as ranges; the blocks of the small ones."""
        large = zeroes.counts >= RANGE_BLOCKS
        for start, end in zip(zeroes.starts[large].tolist(), zeroes.ends[large].tolist(), strict=True):
            self._live.put_range(start, end, word)
            await self._over_later_places(start, end, word)
        return numbers_in(zeroes.starts[~large], zeroes.ends[~large])

    async def _over_later_places(self, start: int, end: int, word: int) -> None:
        """A block sent whole may lie behind the cut and yet be older than these zeroes."""
        for blocks, words, _ in self._live.overlay.within(start, end):
            later = addresses(words) > np.uint64(word & ADDRESS_MASK)
            count = int(later.sum())
            await self._put(blocks[later], np.full(count, word, np.uint64), np.zeros(count, np.uint64))

    async def _put(self, blocks: U64, words: U64, digests: U64) -> None:
        """In pieces: the loop serves a link meanwhile."""
        for at in range(0, len(blocks), PIECE):
            here = slice(at, at + PIECE)
            self._live.put(blocks[here], words[here], digests[here].copy())
            await self._clock.sleep(0)

    def _moved(self, point: Point, sent_whole: DeltaMap) -> None:
        self._live.relocate(sent_whole.blocks, sent_whole.locations, sent_whole.digests, point.address)
        self._retained.last = LastPoint(point.number, point.root, sent_whole.blocks, sent_whole.digests)
        self._log.writer.table.forget_below(point.address)


def _end_of_used(log: OpenLog) -> Address:
    """Nothing that an earlier process stored lies at this address or behind it."""
    ready = {segment.use for segment in log.pool.ready}
    newest = max((use for use in log.pool.by_use if use not in ready), default=-1)
    return Address((newest + 1) * log.pool.segment_blocks)


def _point(arrived: ReceivedRecord, address: Address, record: Address | None = None) -> Point:
    return stated_point(
        arrived.parts, epoch=arrived.epoch, address=address,
        record=arrived.record if record is None else record, lived_ms=-(-arrived.lived_ns // LIVED_NS),
    )  # fmt: skip


def _not_equal(point: Point, why: str) -> Refused:
    return Refused(
        "point-not-equal",
        f"Point cp{point.number} is refused: {why}.",
        "This mirror stands at the point before; look at both sides with 'revolume check', then resynchronise.",
    )


__all__ = ["FetchBlocks", "PointApplier", "ReceivedRecord"]
