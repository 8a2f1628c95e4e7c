"""Sealing a point at a secondary: from the record received to a state that is proved to be the source's.

    segment durable → references resolved in storage of our own (``chain/received.py``), cut and zero runs compared
    with the log → what is refused asked for whole and stored as a local record, durable → interval digest compared
    → live map → volume root compared → AGREED, durable

Nothing is believed before the digest has been compared, and nothing is said to be agreed before the root has. If
the root differs the live map has moved to a state that is nobody's: the secondary stops here, says so, and stands
at the point before when it is opened again.
"""

from __future__ import annotations

from array import array
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from revolume.blocks.digest import fragment_digest
from revolume.blocks.word import ADDRESS_MASK, DATA, PARTIAL, ZERO
from revolume.chain.point import Part, Point, changed_blocks
from revolume.chain.received import Received, received, zeroed_elsewhere
from revolume.errors import Refused
from revolume.log.appender import Draft
from revolume.log.columns import LIVED_NS, RANGE_BLOCKS, Columns, ramp
from revolume.log.scan import SegmentReader
from revolume.log.transfer import BLOCK, KIND_SHIFT, EntryKind, Kind
from revolume.volume.compose import Below, delta_digest, moved_root
from revolume.volume.core import Core
from revolume.volume.interval import AT_ONCE

U64 = npt.NDArray[np.uint64]
Contents = dict[int, bytes | None]
AskWhole = Callable[[Point, list[int]], Awaitable[Contents]]
WORD = BLOCK | EntryKind.WRITE << KIND_SHIFT
PIECE = 1 << 13
MASK = np.uint64(ADDRESS_MASK)


@dataclass(frozen=True, slots=True)
class Arrived:
    """A record that has arrived: its parts, their positions, the epoch; of its last transfer the address and the
    lived time."""

    parts: Sequence[Part]
    positions: Sequence[int]
    epoch: int
    record: int
    lived_ns: int


@dataclass(slots=True)
class Delta:
    """What changed: blocks that hold data, ascending, with their places; ``restated``: those whose place lies
    above the cut (they came whole)."""

    blocks: U64
    words: U64
    digests: U64
    restated: npt.NDArray[np.bool_]


class Sealing:
    """One point at a time. ``columns(begin, end)``: those of the segments between two addresses."""

    def __init__(self, core: Core, columns: Callable[[int, int], Awaitable[list[Columns]]]) -> None:
        self._core = core
        self._columns = columns
        self.referenced_blocks = 0
        self.asked_blocks = 0

    async def seal(self, arrived: Arrived, before: Point, ask: AskWhole) -> Point:
        """The point, agreed in memory; the caller records it. Refused: it can't be agreed."""
        core = self._core
        await core.commit.wait_durable(arrived.positions[-1])
        columns = await self._columns(before.address, arrived.record)
        table = core.writer.table.view()
        got = await core.host.work.call(
            received, arrived.parts, columns, table, (before.position, before.write), arrived.positions
        )
        point = _point(arrived, got.cut_address)
        wrong = got.wrong or await core.host.work.call(self._not_this_log, point, before, columns)
        if wrong:
            raise _not_equal(point, wrong)
        self.referenced_blocks += len(got.blocks)
        delta, record = await self._whole(point, got, ask)
        if delta_digest(delta.blocks, delta.digests, got.zeroes) != point.digest:
            raise _not_equal(point, "its changes don't have the digest that was stated")
        root = await self._applied(point, delta, got)
        if root != point.root:
            raise _not_equal(point, "the volume's root differs from the source's")
        self._moved(point, delta)
        return _point(arrived, got.cut_address, record)

    def _not_this_log(self, point: Point, before: Point, columns: list[Columns]) -> str:
        """The chain checksum at the cut must be this log's."""
        pool, volume = self._core.pool, self._core.volume_id
        chain = before.chain if point.position == before.position else None
        for each in columns:
            rows = each.rows
            here = (rows["position"] == np.uint64(point.position)) & (rows["kind"] != Kind.FIXUP)
            for block in rows["block"][here].tolist():
                found = SegmentReader(pool.segment_at(each.base + block), volume).at(block)
                chain = None if found is None else found.transfer.chain
        return "" if chain == point.chain else "its cut is not one of this log"

    # Blocks asked for whole

    async def _whole(self, point: Point, got: Received, ask: AskWhole) -> tuple[Delta, int]:
        blocks = np.concatenate([got.blocks, got.partial_blocks])
        words = np.concatenate([got.words, got.partial_words])
        digests = np.concatenate([got.digests, got.partial_digests])
        restated = np.repeat([False, True], [len(got.blocks), len(got.partial_blocks)])
        record = point.record
        if got.dropped:
            self._core.events.tell(f"cp{point.number}: {got.dropped} references lead nowhere and are dropped")
        if len(got.refused):
            fixed, record = await self._fixed(point, got, ask)
            blocks, words, digests = (
                np.concatenate([old, new]) for old, new in zip((blocks, words, digests), fixed, strict=True)
            )
            restated = np.append(restated, np.ones(len(fixed[0]), bool))
        order = np.argsort(blocks, kind="stable")
        return Delta(blocks[order], words[order], digests[order], restated[order]), record

    async def _fixed(self, point: Point, got: Received, ask: AskWhole) -> tuple[tuple[U64, U64, U64], int]:
        """Ask for these blocks whole and store them; (blocks, words, digests) and where the last record lies."""
        core, refused = self._core, got.refused.tolist()
        core.events.tell(f"cp{point.number}: {len(refused)} blocks have no reference that holds: asked for whole")
        self.asked_blocks += len(refused)
        contents = await ask(point, refused)
        if set(contents) != set(refused):
            raise _not_equal(point, "the source did not send the blocks that were asked for")
        if any(content is not None and len(content) != BLOCK for content in contents.values()):
            raise _not_equal(point, "the source sent something that is no block")
        held = [(block, content or bytes(BLOCK)) for block, content in sorted(contents.items())]
        step = max(1, min(256, core.pool.segment_blocks // 4))
        rows: list[tuple[int, int, int]] = []
        record = point.record
        for at in range(0, len(held), step):
            stored, record = await self._store(point, held[at : at + step])
            rows += stored
        await core.commit.synced()
        table = np.array(rows, np.uint64).reshape(-1, 3)
        return (table[:, 0], table[:, 1], table[:, 2]), record

    async def _store(
        self, point: Point, held: list[tuple[int, bytes]]
    ) -> tuple[list[tuple[int, int, int]], int]:
        core = self._core
        digests = [fragment_digest(content) for _, content in held]
        draft = Draft(
            Kind.FIXUP, array("Q", [block * BLOCK for block, _ in held]), array("Q", [WORD] * len(held)),
            array("Q", digests), [content for _, content in held], len(held), 0, 0,
            body=point.number.to_bytes(8, "little"), asof=point.write,
        )  # fmt: skip
        while core.appender.whole != core.appender.position:  # never within a write that is half there
            await core.host.clock.sleep(0.01)
        await core.admission.wait(draft.total_blocks + 2, True)
        payload = core.writer.emit(draft)
        rows = [(block, DATA << 62 | payload + i, digests[i]) for i, (block, _) in enumerate(held)]
        return rows, payload - draft.header_blocks

    # The live map

    async def _applied(self, point: Point, delta: Delta, got: Received) -> tuple[int, int]:
        """Move the live map to the point; the root that it has there. Each block is put once, so that all that the
        map has is of the cut before: also blocks that were sent whole, whose place may lie behind this cut."""
        core = self._core
        live, cut = core.live, point.address
        live.interval.begin = AT_ONCE
        zeroed = ZERO << 62 | cut - 1
        small = await self._zeroed(zeroed_elsewhere(got.zeroes, delta.blocks), zeroed)
        within = np.where(delta.restated, np.uint64(PARTIAL << 62 | cut - 1), delta.words)
        await self._put(small, np.full(len(small), zeroed, np.uint64), np.zeros(len(small), np.uint64))
        await self._put(delta.blocks, within, delta.digests)
        interval = live.cut(cut)
        changed = np.sort(np.append(small, delta.blocks))
        async with core.below_lock:
            last = core.last
            below = Below(live.base, core.sums, live.folded, last.partial_blocks, last.partial_digests)
            return await core.host.work.call(
                moved_root, interval, changed, (delta.blocks, delta.digests), last.root, below
            )

    async def _zeroed(self, runs: tuple[U64, U64], word: int) -> U64:
        """Put the large runs as ranges; the blocks of the small ones."""
        starts, ends = runs
        large = ends - starts >= RANGE_BLOCKS
        for start, end in zip(starts[large].tolist(), ends[large].tolist(), strict=True):
            self._core.live.put_range(start, end, word)
            await self._over_later_places(start, end, word)
        counts = (ends - starts)[~large]
        small: U64 = np.repeat(starts[~large], counts.astype(np.int64)) + ramp(counts)
        return small

    async def _over_later_places(self, start: int, end: int, word: int) -> None:
        """A block sent whole may lie behind the cut and yet be older than these zeroes."""
        for blocks, words, _ in self._core.live.overlay.within(start, end):
            later = (words & MASK) > np.uint64(word & ADDRESS_MASK)
            count = int(later.sum())
            await self._put(blocks[later], np.full(count, word, np.uint64), np.zeros(count, np.uint64))

    async def _put(self, blocks: U64, words: U64, digests: U64) -> None:
        """In pieces: the loop serves a link meanwhile."""
        for at in range(0, len(blocks), PIECE):
            here = slice(at, at + PIECE)
            self._core.live.put(blocks[here], words[here], digests[here].copy())
            await self._core.host.clock.sleep(0)

    def _moved(self, point: Point, delta: Delta) -> None:
        core = self._core
        blocks, digests = delta.blocks[delta.restated], delta.digests[delta.restated]
        core.live.restate(blocks, delta.words[delta.restated], digests, point.address)
        last = core.last
        last.number, last.root = point.number, point.root
        last.partial_blocks, last.partial_digests = blocks, digests
        core.writer.table.forget_below(point.address)


def _point(arrived: Arrived, address: int, record: int | None = None) -> Point:
    part = arrived.parts[0]
    return Point(
        part.number, part.previous, part.position, part.write, part.time_ns, arrived.epoch, part.digest, part.root,
        part.chain, changed_blocks(arrived.parts), address, arrived.record if record is None else record,
        -(-arrived.lived_ns // LIVED_NS),
    )  # fmt: skip


def _not_equal(point: Point, why: str) -> Refused:
    return Refused(
        "point-not-equal",
        f"Point cp{point.number} is refused: {why}.",
        "This mirror stands at the point before; look at both sides with 'revolume check', then resynchronise.",
    )


__all__ = ["Arrived", "AskWhole", "Sealing"]
