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
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from revolume.blocks.digest import LOST_DIGEST
from revolume.blocks.word import DATA, PARTIAL
from revolume.chain.point import Point, References, Totals, pack_part, split_references
from revolume.errors import Damaged, Refused, Unreadable
from revolume.log.appender import Draft
from revolume.log.columns import LIVED_NS
from revolume.log.table import TableView
from revolume.log.transfer import BLOCK, KIND_SHIFT, EntryKind, Flag, Kind
from revolume.volume.compose import Below, Composed, compose
from revolume.volume.core import Core, lost_sentence
from revolume.volume.events import EventKind
from revolume.volume.interval import Interval
from revolume.volume.partials import Partial

U64 = npt.NDArray[np.uint64]
Contents = dict[int, bytes | None]
"""Partially modified blocks whole; None where that can't be had."""

LOST_CONTENT = bytes(BLOCK)
PAUSES_S = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2)
"""Between one try to read what can't be read and the next: a disk, or what stands between, may have hiccups."""


@dataclass(frozen=True, slots=True)
class _Cut:
    """The log at the instant of a cut."""

    position: int
    write: int
    time_ns: int
    chain: bytes
    address: int
    interval: Interval
    partials: dict[int, Partial]
    table: TableView


class Cutter:
    """See the module's text. ``wait_room`` waits until so many blocks can be appended."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._lock = asyncio.Lock()
        self.interval_due = asyncio.Event()
        self.closed = False

    def request(self) -> None:
        """A cut is due before its time."""
        self.interval_due.set()

    async def cut(self) -> Point | None:
        """The newest point, made now if anything has changed; None if none is retained and nothing has."""
        return await self._core.maintenance.finished(self._cut_in_turn(False))

    async def begin(self) -> Point:
        """The same, but a point in any case: a mirror begins at one, of a volume that was never written too."""
        point = await self._core.maintenance.finished(self._cut_in_turn(True))
        assert point is not None
        return point

    async def _cut_in_turn(self, needed: bool) -> Point | None:
        async with self._lock:
            self.interval_due.clear()
            core = self._core
            if self.closed:
                raise Refused("closing", f"{core.name} is being closed.", "Open it again.")
            core.live.absorb()
            unchanged = core.live.interval.empty and not self._resized() and not self._readable_again()
            if unchanged and (core.points or not needed):
                return core.points[-1] if core.points else None
            cut = self._cut()
            try:
                partials = await self._whole_partials(cut)
                composed = await self._composed(cut, partials)
                await core.commit.wait_durable(cut.position)
                return await self._append(cut, composed, partials)
            except BaseException:
                core.live.interval = cut.interval.followed_by(core.live.interval)
                raise

    def _resized(self) -> bool:
        """Whether the volume has grown since the last point: a change, although of no block."""
        core = self._core
        return core.sizes[-1][0] > (core.points[-1].write if core.points else core.horizon.write)

    def _readable_again(self) -> bool:
        """Whether a block that the last point called lost has been read after all."""
        found = (self._core.partials.blocks.get(block) for block in self._core.lost)
        return any(partial is not None and partial.data is not None for partial in found)

    async def _composed(self, cut: _Cut, partials: Contents) -> Composed:
        core = self._core
        async with core.below_lock:
            below = self._below()
            return await core.host.work.call(
                compose, cut.interval, cut.table, partials, core.last.root, below
            )

    def _cut(self) -> _Cut:
        core = self._core
        appender = core.appender
        address = appender.address
        return _Cut(
            appender.position, appender.written, appender.time_ns, appender.chain, address,
            core.live.cut(address), core.partials.copies(), core.writer.table.view(),
        )  # fmt: skip

    def _below(self) -> Below:
        core = self._core
        last = core.last
        return Below(core.live.base, core.sums, core.live.folded, last.partial_blocks, last.partial_digests)

    async def _whole_partials(self, cut: _Cut) -> Contents:
        """The content of every partially modified block at the cut; None for one whose base can't be read. Errors
        of the disk have some seconds to pass; wrong bytes are read twice."""
        known, missing = self._core.lost, [b for b, partial in cut.partials.items() if partial.data is None]
        for number, pause in enumerate((0.0, *PAUSES_S)):
            if number:
                await self._core.host.clock.sleep(pause)
            failures = [(block, await self._complete(block, cut.partials[block])) for block in missing]
            missing = [b for b, error in failures if isinstance(error, Unreadable) or (error and number == 0)]
            if known.issuperset(missing):
                break
        return {block: None if found.data is None else bytes(found.data) for block, found in cut.partials.items()}

    async def _complete(self, block: int, partial: Partial) -> Damaged | None:
        """Read what a block's pieces stand on, and join them."""
        core = self._core
        try:
            base = await core.reader.read_version(block, partial.base_word, partial.base_digest)
        except Damaged as error:
            return error
        partial.merge(base)
        current = core.partials.blocks.get(block)
        if current is not None and current.stands_on(partial):
            current.merge(base)
        return None

    async def _append(self, cut: _Cut, composed: Composed, partials: Contents) -> Point:
        core = self._core
        totals = Totals(
            core.last.number + 1, core.last.number, cut.position, cut.write, cut.time_ns,
            int(composed.references.runs.sum()), len(composed.partial_blocks), len(composed.zeroes[0]),
            composed.digest, composed.root, cut.chain,
        )  # fmt: skip
        drafts = self._drafts(totals, composed, partials)
        await core.admission.wait(sum(draft.total_blocks + 2 for draft in drafts), True)
        words = [(core.writer.emit(draft), draft.blocks) for draft in drafts]
        return self._sealed(cut, totals, composed, words, drafts[-1].header_blocks)

    def _drafts(self, totals: Totals, composed: Composed, partials: Contents) -> list[Draft]:
        """The record's parts, each small enough for the smallest segment."""
        blocks = self._core.pool.segment_blocks
        rows = max(64, min(65536, (blocks // 4) * BLOCK // 32))
        payload = max(1, min(1024, blocks // 4))
        references = list(split_references(composed.references, rows))
        zeroes = _split_pair(composed.zeroes, rows)
        chosen = composed.partial_blocks.tolist()
        groups = [chosen[at : at + payload] for at in range(0, len(chosen), payload)]
        count = max(1, len(references), len(zeroes), len(groups))
        nothing = References(*(np.zeros(0, np.uint64) for _ in range(4)))
        none = (np.zeros(0, np.uint64), np.zeros(0, np.uint64))
        digests = dict(zip(chosen, composed.partial_digests.tolist(), strict=True))
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
        self, cut: _Cut, totals: Totals, composed: Composed, parts: list[tuple[int, int]], header_blocks: int
    ) -> Point:
        core = self._core
        record = parts[-1][0] - header_blocks
        if len(composed.partial_blocks):
            addresses = np.concatenate(
                [np.arange(first, first + count, dtype=np.uint64) for first, count in parts]
            )
            self._restated(cut, composed, addresses)
        point = Point(
            totals.number, totals.previous, cut.position, cut.write, cut.time_ns, core.appender.epoch,
            composed.digest, composed.root, cut.chain, composed.changed_blocks, cut.address, record,
            -(-core.appender.lived_ns // LIVED_NS),
        )  # fmt: skip
        core.points.append(point)
        last = core.last
        last.number, last.root = point.number, point.root
        last.partial_blocks, last.partial_digests = composed.partial_blocks, composed.partial_digests
        core.writer.table.forget_below(cut.address)
        return point

    def _restated(self, cut: _Cut, composed: Composed, addresses: U64) -> None:
        """The partial blocks lie in the record now; of those that are lost, the pieces stay."""
        core = self._core
        blocks, digests = composed.partial_blocks, composed.partial_digests
        stated = zip(blocks.tolist(), digests.tolist(), strict=True)
        held = np.array([self._held_back(cut, block, digest) for block, digest in stated])
        whole = ~held
        core.live.restate(blocks[whole], addresses[whole] | np.uint64(DATA << 62), digests[whole], cut.address)
        core.partials.settled(blocks[whole].tolist(), cut.write)
        core.live.carry(blocks[held], addresses[held] | np.uint64(PARTIAL << 62))
        lost = blocks[digests == np.uint64(LOST_DIGEST)].tolist()
        if new := set(lost) - core.lost:
            core.events.tell(lost_sentence(sorted(new)), EventKind.DAMAGE)
        core.lost = {block for block in core.lost | set(lost) if core.still_lost(block)}

    def _held_back(self, cut: _Cut, block: int, digest: int) -> bool:
        """Whether this block is lost, and has not been overwritten since the cut."""
        current = self._core.partials.blocks.get(block)
        return digest == LOST_DIGEST and current is not None and current.stands_on(cut.partials[block])


def _split_pair(pair: tuple[U64, U64], rows: int) -> list[tuple[U64, U64]]:
    return [(pair[0][at : at + rows], pair[1][at : at + rows]) for at in range(0, len(pair[0]), rows)]


def _draft(body: bytes, partials: list[tuple[int, int, bytes]], asof: int, seals: bool) -> Draft:
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
