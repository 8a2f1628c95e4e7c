"""Making consistency points: cut, compose, append, seal.

The cut is an exchange of the open interval, between two transfers: clients wait for nothing. Composing runs
in a thread. The record is appended among later writes and is "as of the cut". One point at a time, and the
next cut waits for the record to be sealed, so that a record's address is always below the next cut's.

Between awaits: ``_cut`` takes position, write, chain, address, interval, partial copies and transfer table
in one turn of the loop; all parts are appended, and ``_sealed`` moves the maps, in one turn as well, once there is
room for all of them.
"""

from __future__ import annotations

import asyncio
from array import array
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from revolume.blocks.word import DATA
from revolume.chain.point import Point, References, Totals, pack_part, split_references
from revolume.log.appender import Draft
from revolume.log.table import TableView
from revolume.log.transfer import BLOCK, KIND_SHIFT, EntryKind, Flag, Kind
from revolume.volume.compose import Below, Composed, compose
from revolume.volume.core import Core
from revolume.volume.interval import Interval
from revolume.volume.partials import Partial

U64 = npt.NDArray[np.uint64]


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

    def request(self) -> None:
        """A cut is due before its time."""
        self.interval_due.set()

    async def cut(self) -> Point | None:
        """The newest point, made now if anything has changed; None if there has never been anything."""
        return await self._core.maintenance.finished(self._cut_in_turn())

    async def _cut_in_turn(self) -> Point | None:
        async with self._lock:
            self.interval_due.clear()
            core = self._core
            core.live.absorb()
            if core.live.interval.empty:
                return core.points[-1] if core.points else None
            cut = self._cut()
            try:
                partials = await self._whole_partials(cut)
                composed = await self._composed(cut, partials)
                return await self._append(cut, composed, partials)
            except BaseException:
                core.live.interval = cut.interval.followed_by(core.live.interval)
                raise

    async def _composed(self, cut: _Cut, partials: dict[int, bytes]) -> Composed:
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
            appender.position, appender.write, appender.time_ns, appender.chain, address,
            core.live.cut(address), core.partials.copies(), core.writer.table.view(),
        )  # fmt: skip

    def _below(self) -> Below:
        core = self._core
        last = core.last
        return Below(core.live.base, core.sums, core.live.folded, last.partial_blocks, last.partial_digests)

    async def _whole_partials(self, cut: _Cut) -> dict[int, bytes]:
        """The content of every partially modified block at the cut."""
        whole = {}
        for block, partial in cut.partials.items():
            if partial.data is None:
                base = await self._core.reader.read_version(block, partial.base_word, partial.base_digest)
                partial.merge(base)
                current = self._core.partials.blocks.get(block)
                if current is not None and current.base_word == partial.base_word:
                    current.merge(base)
            assert partial.data is not None
            whole[block] = bytes(partial.data)
        return whole

    async def _append(self, cut: _Cut, composed: Composed, partials: dict[int, bytes]) -> Point:
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

    def _drafts(self, totals: Totals, composed: Composed, partials: dict[int, bytes]) -> list[Draft]:
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
                [(b, digests[b], partials[b]) for b in (groups[part] if part < len(groups) else [])],
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
            words = addresses | np.uint64(DATA << 62)
            core.live.restate(composed.partial_blocks, words, composed.partial_digests, cut.address)
            core.partials.settled(composed.partial_blocks.tolist(), cut.write)
        point = Point(
            totals.number, totals.previous, cut.position, cut.write, cut.time_ns, core.appender.epoch,
            composed.digest, composed.root, cut.chain, composed.changed_blocks, cut.address, record,
        )  # fmt: skip
        core.points.append(point)
        last = core.last
        last.number, last.root = point.number, point.root
        last.partial_blocks, last.partial_digests = composed.partial_blocks, composed.partial_digests
        core.writer.table.forget_below(cut.address)
        return point


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
