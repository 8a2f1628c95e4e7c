"""Making consistency points: cut, compose, append, seal.

The cut is an exchange of the open interval, between two transfers: clients wait for nothing. Composing runs
in a thread. The record is appended among later writes and is "as of the cut". One point at a time, and the
next cut waits for the record to be sealed, so that a record's address is always below the next cut's.

The record follows once what it covers is on the disk. Whoever has it may fold up to it, a mirror too, and what was
folded is log no more: a source that came back with less could not be told the rest by such a mirror.

Between awaits: ``_cut`` takes position, write, chain, address, interval, partial copies and transfer table
in one turn of the loop; all parts are appended, and ``_sealed`` moves the maps, in one turn as well, once there is
room for all of them.

A block that was written in part over a version which can't be read stops no point. It is tried for some seconds;
then the record says that it is lost (``LOST_DIGEST``), so that every moment from there on answers an error for it;
in this process its pieces are carried over into the next interval, and the next point tries again. A whole
overwrite, or zeroes, ends it.
"""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from revolume.blocks.block_location import DATA, PARTIAL, pack_all
from revolume.blocks.block_set import BlockSet
from revolume.blocks.digest import LOST_DIGEST
from revolume.blocks.geometry import BLOCK
from revolume.blocks.numbers import Address, Position, WriteNumber
from revolume.chain.point import Point, References, Totals, pack_part, split_references
from revolume.errors import Damaged, Refused, Unreadable
from revolume.log.format.columns import LIVED_NS
from revolume.log.format.transfer import KIND_SHIFT, EntryKind, Flag, Kind
from revolume.log.format.transfer_table import TableView
from revolume.log.write.appender import Draft
from revolume.volume.context import VolumeContext
from revolume.volume.image.volume_image import VolumeImage
from revolume.volume.livemap.interval import Interval
from revolume.volume.livemap.live_map import LiveMap
from revolume.volume.livemap.partial_blocks import PartialBlock, PartialBlocks
from revolume.volume.livemap.reader import Reader
from revolume.volume.open_log import OpenLog
from revolume.volume.points.compose import ComposedPoint, Contents, LowerLayers, compose
from revolume.volume.points.lost_blocks import LostBlocks, lost_sentence
from revolume.volume.points.retained_points import LastPoint, RetainedPoints
from revolume.volume.size_history import SizeHistory
from revolume.volume.space.admission import Admission
from revolume.volume.state.events import EventKind, Events
from revolume.volume.uncancelled_tasks import UncancelledTasks

U64 = npt.NDArray[np.uint64]

LOST_CONTENT = bytes(BLOCK)
PAUSES_S = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2)
"""Between one try to read what can't be read and the next: a disk, or what stands between, may have hiccups."""


class CutWatcher(Protocol):
    """Whoever has a point made, and has to know of it before any copy does."""

    async def before_cut(self) -> None:
        """No other point is made from now on until this one is."""

    def touch(self) -> None:
        """Nothing has changed since the last point: append a write that changes no block. WouldBlock."""

    def cut_made(self, cut: AnnouncedCut) -> None:
        """This is the point; its record is appended when this returns, and not before."""


@dataclass(frozen=True, slots=True)
class AnnouncedCut:
    """A point whose record has not been appended. ``changed``: since the point before."""

    number: int
    position: Position
    write: WriteNumber
    chain: bytes
    changed: BlockSet


@dataclass(frozen=True, slots=True)
class _Cut:
    """The log at the instant of a cut."""

    position: Position
    write: WriteNumber
    time_ns: int
    chain: bytes
    address: Address
    interval: Interval
    partials: dict[int, PartialBlock]
    table: TableView


class PointMaker:
    """Makes the points of an open primary, one at a time. ``due`` is
    set when a point shall be made before its time."""

    def __init__(
        self,
        context: VolumeContext,
        *,
        log: OpenLog,
        live: LiveMap,
        partials: PartialBlocks,
        image: VolumeImage,
        reader: Reader,
        retained: RetainedPoints,
        lost: LostBlocks,
        sizes: SizeHistory,
        admission: Admission,
        events: Events,
        tasks: UncancelledTasks,
        due: asyncio.Event,
    ) -> None:
        self._name = context.name
        self._clock = context.host.clock
        self._log = log
        self._live = live
        self._partials = partials
        self._image = image
        self._reader = reader
        self._retained = retained
        self._lost = lost
        self._sizes = sizes
        self._admission = admission
        self._events = events
        self._tasks = tasks
        self._lock = asyncio.Lock()
        self.interval_due = due
        self.closed = False

    def request(self) -> None:
        """A cut is due before its time."""
        self.interval_due.set()

    async def cut(self, held: Callable[[int], None] = lambda ns: None) -> Point | None:
        """The newest point, made now if anything has changed; None if none is retained and nothing has.
        ``held`` is told for how many ns nothing was written meanwhile."""
        return await self._tasks.finish(self._cut_in_turn(False, held))

    async def cut_anew(self, watcher: CutWatcher) -> Point:
        """A point that is made now, also if nothing has changed. WouldBlock: the write for it was not admitted."""
        return await self._tasks.finish(self._cut_watched(watcher))

    async def _cut_watched(self, watcher: CutWatcher) -> Point:
        async with self._lock:
            self.interval_due.clear()
            self._refuse_closed()
            await watcher.before_cut()
            self._live.absorb()
            if not self._changed():
                watcher.touch()
            return await self._make_point(lambda: None, watcher.cut_made)

    @asynccontextmanager
    async def paused(self) -> AsyncIterator[None]:
        """No point is cut within, and none is being made."""
        async with self._lock:
            yield

    async def begin(self) -> Point:
        """A point, made now even if nothing was ever written: a new mirror's base needs one."""
        point = await self._tasks.finish(self._cut_in_turn(True))
        assert point is not None
        return point

    async def _cut_in_turn(self, needed: bool, held: Callable[[int], None] = lambda ns: None) -> Point | None:
        async with self._lock:
            self.interval_due.clear()
            began_ns = self._clock.monotonic_ns()
            newest = self._retained.newest
            self._refuse_closed()
            self._live.absorb()
            if not self._changed() and (newest is not None or not needed):
                held(self._clock.monotonic_ns() - began_ns)
                return newest
            return await self._make_point(lambda: held(self._clock.monotonic_ns() - began_ns))

    def _refuse_closed(self) -> None:
        if self.closed:
            raise Refused("closing", f"{self._name} is being closed.", "Open it again.")

    def _changed(self) -> bool:
        """Whether there is anything for a point to say."""
        return not self._live.interval.empty or self._resized() or self._lost.readable_again()

    async def _make_point(
        self, is_cut: Callable[[], None], announce: Callable[[AnnouncedCut], None] | None = None
    ) -> Point:
        """Under the lock; ``is_cut`` is called at once behind the cut, ``announce`` just before its record."""
        live = self._live
        cut = self._cut()
        is_cut()
        try:
            partials = await self._whole_partials(cut)
            composed = await self._composed(cut, partials)
            await self._log.commit.wait_durable(cut.position)
            changed = BlockSet()
            if announce is not None:
                changed = await self._log.work.call(lambda: cut.interval.delta_map().changed())
            return await self._append(cut, composed, partials, lambda totals: _announce(announce, totals, changed))
        except BaseException:
            live.interval = cut.interval.followed_by(live.interval)
            raise

    def _resized(self) -> bool:
        """Whether the volume has grown since the last point: a change, although of no block."""
        newest = self._retained.newest
        return self._sizes.changed_at > (newest.write if newest is not None else self._image.horizon.write)

    async def _composed(self, cut: _Cut, partials: Contents) -> ComposedPoint:
        async with self._image.lock:
            below, root = self._below(), self._retained.last.root
            return await self._log.work.call(compose, cut.interval, cut.table, partials, root, below)

    def _cut(self) -> _Cut:
        appender = self._log.appender
        address = appender.address
        return _Cut(
            position=appender.position,
            write=appender.written,
            time_ns=appender.time_ns,
            chain=appender.chain,
            address=address,
            interval=self._live.cut(address),
            partials=self._partials.copies(),
            table=self._log.writer.table.view(),
        )

    def _below(self) -> LowerLayers:
        live, last = self._live, self._retained.last
        return LowerLayers(live.base, self._image.digests, live.folded, last.partial_blocks, last.partial_digests)

    async def _whole_partials(self, cut: _Cut) -> Contents:
        """The content of every partially modified block at the cut; None for one whose base can't be read. Errors
        of the disk have some seconds to pass; wrong bytes are read twice."""
        known, missing = self._lost.blocks, [b for b, partial in cut.partials.items() if partial.data is None]
        for number, pause in enumerate((0.0, *PAUSES_S)):
            if number:
                await self._clock.sleep(pause)
            failures = [(block, await self._complete(block, cut.partials[block])) for block in missing]
            missing = [b for b, error in failures if isinstance(error, Unreadable) or (error and number == 0)]
            if known.issuperset(missing):
                break
        return {block: found.data for block, found in cut.partials.items()}

    async def _complete(self, block: int, partial: PartialBlock) -> Damaged | None:
        """Read what a block's pieces stand on, and join them."""
        try:
            base = await self._reader.read_version(block, partial.base_word, partial.base_digest)
        except Damaged as error:
            return error
        partial.merge(base)
        current = self._partials.blocks.get(block)
        if current is not None and current.same_base(partial):
            current.merge(base)
        return None

    async def _append(
        self, cut: _Cut, composed: ComposedPoint, partials: Contents, announce: Callable[[Totals], None]
    ) -> Point:
        last = self._retained.last.number
        totals = Totals(
            number=last + 1, previous=last, position=cut.position, write=cut.write, time_ns=cut.time_ns,
            referenced=int(composed.references.runs.sum()), partials=len(composed.partials),
            zero_runs=len(composed.zeroes), digest=composed.digest, root=composed.root, chain=cut.chain,
        )  # fmt: skip
        drafts = self._drafts(totals, composed, partials)
        await self._admission.wait(sum(draft.total_blocks + 2 for draft in drafts), True)
        announce(totals)
        words = [(self._log.writer.emit(draft), draft.blocks) for draft in drafts]
        return self._sealed(cut, totals, composed, words, drafts[-1].header_blocks)

    def _drafts(self, totals: Totals, composed: ComposedPoint, partials: Contents) -> list[Draft]:
        """The record's parts, each small enough for the volume's largest transfer."""
        blocks = min(self._log.pool.segment_blocks, self._log.appender.largest_blocks)
        rows = max(64, min(65536, (blocks // 4) * BLOCK // 32))
        payload = max(1, min(1024, blocks // 4))
        references = list(split_references(composed.references, rows))
        zeroes = _split_runs(composed.zeroes, rows)
        chosen = composed.partials.blocks.tolist()
        groups = [chosen[at : at + payload] for at in range(0, len(chosen), payload)]
        count = max(1, len(references), len(zeroes), len(groups))
        nothing = References(*(np.zeros(0, np.uint64) for _ in range(4)))
        none = (np.zeros(0, np.uint64), np.zeros(0, np.uint64))
        digests = dict(zip(chosen, composed.partials.digests.tolist(), strict=True))
        return [
            _draft(
                pack_part(
                    totals,
                    (part, count),
                    references[part] if part < len(references) else nothing,
                    zeroes[part] if part < len(zeroes) else none,
                ),
                [
                    (b, digests[b], partials[b] or LOST_CONTENT)
                    for b in (groups[part] if part < len(groups) else [])
                ],
                totals.write,
                part == count - 1,
            )
            for part in range(count)
        ]

    def _sealed(
        self,
        cut: _Cut,
        totals: Totals,
        composed: ComposedPoint,
        parts: list[tuple[Address, int]],
        header_blocks: int,
    ) -> Point:
        appender, record = self._log.appender, Address(parts[-1][0] - header_blocks)
        if len(composed.partials):
            addresses = np.concatenate(
                [np.arange(first, first + count, dtype=np.uint64) for first, count in parts]
            )
            self._restated(cut, composed, addresses)
        point = Point(
            number=totals.number, previous=totals.previous, position=cut.position, write=cut.write,
            time_ns=cut.time_ns, epoch=appender.epoch, digest=composed.digest, root=composed.root,
            chain=cut.chain, changed_blocks=composed.changed_blocks, address=cut.address, record=record,
            lived_ms=-(-appender.lived_ns // LIVED_NS),
        )  # fmt: skip
        self._retained.append(point)
        partials = composed.partials
        self._retained.last = LastPoint(point.number, point.root, partials.blocks, partials.digests)
        self._log.writer.table.forget_below(cut.address)
        return point

    def _restated(self, cut: _Cut, composed: ComposedPoint, addresses: U64) -> None:
        """The partial blocks lie in the record now; of those that are lost, the pieces stay."""
        live = self._live
        blocks, digests = composed.partials.blocks, composed.partials.digests
        held = digests == np.uint64(LOST_DIGEST)
        held[held] = [self._held_back(cut, block) for block in blocks[held].tolist()]
        whole = ~held
        live.relocate(blocks[whole], pack_all(DATA, addresses[whole]), digests[whole], cut.address)
        self._partials.drop_made_whole(blocks[whole].tolist(), cut.write)
        live.carry_forward(blocks[held], pack_all(PARTIAL, addresses[held]))
        lost = blocks[digests == np.uint64(LOST_DIGEST)].tolist()
        if new := self._lost.add(lost):
            self._events.tell(lost_sentence(new), EventKind.DAMAGE)

    def _held_back(self, cut: _Cut, block: int) -> bool:
        """Whether this block, which is lost, has not been overwritten since the cut."""
        current = self._partials.blocks.get(block)
        return current is not None and current.same_base(cut.partials[block])


def _announce(announce: Callable[[AnnouncedCut], None] | None, totals: Totals, changed: BlockSet) -> None:
    if announce is not None:
        announce(AnnouncedCut(totals.number, totals.position, totals.write, totals.chain, changed))


def _split_runs(zeroes: BlockSet, rows: int) -> list[tuple[U64, U64]]:
    """(first blocks, counts), at most so many a piece."""
    firsts, counts = zeroes.starts, zeroes.counts
    return [(firsts[at : at + rows], counts[at : at + rows]) for at in range(0, len(firsts), rows)]


def _draft(
    body: bytes, partials: list[tuple[int, int, bytes | bytearray]], asof: WriteNumber, seals: bool
) -> Draft:
    """One part of a record: partial blocks whole as its entries, references and zero runs as its body."""
    word = BLOCK | EntryKind.WRITE << KIND_SHIFT
    return Draft(
        Kind.POINT,
        array("Q", [block * BLOCK for block, _, _ in partials]),
        array("Q", [word] * len(partials)),
        array("Q", [digest for _, digest, _ in partials]),
        [content for _, _, content in partials],
        len(partials),
        0,
        0,
        Flag.SEALS if seals else Flag.NONE,
        body,
        asof,
    )
