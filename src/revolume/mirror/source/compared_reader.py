"""Blocks of a point that a copy has otherwise: its digests are asked for over the link, and compared.

Of the blocks that a dirty region log names, or of all of them. Of those the copy is asked for the sums of regions
first (the volume root's own sum over each), and for digests where the sums differ. What is compared is what is
stored of digests at both ends: no content is read for it. A block that is not what its digest says is a matter of
healing; here both ends may be whole and differ.

A question is about a window of neighbouring blocks. Where a window lists so few that the answer would be longer
than they are, they are sent unasked.
"""

from __future__ import annotations

from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from revolume.blocks import root as roots
from revolume.blocks.geometry import BLOCK
from revolume.blocks.root import Root
from revolume.chain.point import Point
from revolume.mirror.catch_up_plan import Rule
from revolume.mirror.source.point_reader import RowPages
from revolume.mirror.storage_protocols import PointReader, SourceVolume
from revolume.mirror.wire.codec import Pin
from revolume.volume.livemap.reader import block_numbers

U64 = npt.NDArray[np.uint64]
REGION_BLOCKS: Final = 1024
REGIONS_ASKED: Final = 64
"""Sums that are asked for at once."""
ASKED_BLOCKS: Final = 4096
"""Digests that are asked for at once."""
PER_BLOCK: Final = BLOCK // 8
"""Digests that are as long as a block."""


class Answer(Protocol):
    """Sums by region, or digests by block (uint64, 0 where it reads as zeroes): what was asked for."""

    @property
    def sums(self) -> tuple[Root, ...]: ...

    @property
    def digests(self) -> U64: ...


class CopyDigests(Protocol):
    """A copy at the other end of the link, asked for digests. ConnectionError: the link is lost."""

    async def open(self, point: Pin, quick: bool) -> None:
        """Have it hold the point open at which it stands; ``quick``: what is stored is believed."""

    async def sums(self, first: int, blocks: int) -> Answer: ...

    async def digests(self, first: int, blocks: int) -> Answer: ...

    def end(self, point: Pin) -> None:
        """Nothing more is asked."""


class _Differing:
    """``storage_protocols.PointReader`` of a point, but for the rows, which are those that the copy has
    otherwise. ``reader`` is closed with it."""

    def __init__(self, reader: PointReader, copy: CopyDigests, stands: Pin, blocks: int) -> None:
        """``stands``: the point of the copy, which it holds open; ``blocks``: of the volume."""
        self._reader = reader
        self._copy = copy
        self._stands = stands
        self._blocks = blocks
        self._pages = RowPages(blocks, self._look)

    async def next_rows(self, first: int, count: int) -> tuple[U64, U64, int]:
        """At most ``count`` blocks from ``first`` on that differ, with their digests here, 0 for zeroes; and the
        block up to which that is all of them."""
        return await self._pages.next_rows(first, count)

    async def count(self) -> int:
        """Of the blocks that differ, those that have content here."""
        return await self._pages.count()

    async def digests(self, blocks: U64) -> U64:
        """Of these blocks; 0 for zeroes."""
        return await self._reader.digests(blocks)

    async def read(self, blocks: U64) -> memoryview:
        """Their content, one after the other, checked."""
        return await self._reader.read(blocks)

    def close(self) -> None:
        """Let go of both points."""
        self._copy.end(self._stands)
        self._reader.close()

    async def _look(self, first: int) -> tuple[int, U64, U64]:
        raise NotImplementedError


class DifferingRegions(_Differing):
    """Of the rows that ``reader`` gives."""

    async def _look(self, first: int) -> tuple[int, U64, U64]:
        blocks, digests, behind = await self._reader.next_rows(first, ASKED_BLOCKS)
        if not len(blocks):
            return behind, blocks, digests
        begin = int(blocks[0])
        within = blocks < np.uint64(begin + ASKED_BLOCKS)
        if not within.all():
            behind = int(blocks[~within][0])
        blocks, digests = blocks[within], digests[within]
        span = int(blocks[-1]) + 1 - begin
        if span <= PER_BLOCK * len(blocks):
            theirs = (await self._copy.digests(begin, span)).digests[(blocks - np.uint64(begin)).astype(np.int64)]
            blocks, digests = blocks[theirs != digests], digests[theirs != digests]
        return behind, blocks, digests


class DifferingBlocks(_Differing):
    """Of all blocks."""

    async def _look(self, first: int) -> tuple[int, U64, U64]:
        begin = first - first % REGION_BLOCKS
        blocks = block_numbers(begin, min(REGIONS_ASKED * REGION_BLOCKS, self._blocks - begin))
        digests = await self._reader.digests(blocks)
        theirs = (await self._copy.sums(begin, len(blocks))).sums
        differ = np.zeros(len(blocks), bool)
        for region, sums in enumerate(zip(region_sums(blocks, digests), theirs, strict=True)):
            if sums[0] != sums[1]:
                of = slice(region * REGION_BLOCKS, (region + 1) * REGION_BLOCKS)
                count = len(blocks[of])
                differ[of] = (await self._copy.digests(int(blocks[of.start]), count)).digests != digests[of]
        return begin + len(blocks), blocks[differ], digests[differ]


async def open_jump(
    volume: SourceVolume, copy: CopyDigests, rule: Rule, since: Pin, upto: Point, stands: Pin
) -> PointReader:
    """What is sent to a ``copy`` that ``stands`` there by a rule that jumps to ``upto``. ``since``: what has
    changed behind that is known. NotFound: it is not any more. Refused: the copy can't be asked.
    ConnectionError."""
    everything = rule == Rule.COMPARISON
    reader = await (volume.open_point(upto) if everything else volume.differences.open(since, upto, stands))
    if rule == Rule.DIFFERENCE:
        return reader
    try:
        await copy.open(stands, True)
    except BaseException:
        reader.close()
        raise
    blocks = max(1, -(-volume.size_at(upto.write) // BLOCK))
    return (DifferingBlocks if everything else DifferingRegions)(reader, copy, stands, blocks)


async def open_base(volume: SourceVolume, copy: CopyDigests | None, point: Point) -> PointReader:
    """The blocks of a base; ``copy``: it has something in the place of them already, and gets what differs."""
    if copy is None:
        return await volume.open_point(point)
    pin = Pin(point.number, point.position, point.chain)
    return await open_jump(volume, copy, Rule.COMPARISON, pin, point, pin)


def region_sums(blocks: U64, digests: U64) -> list[Root]:
    """The sum of the volume root's terms over each region of neighbouring blocks, which begin with one."""
    terms = roots.root_terms(blocks, digests)
    begins = np.arange(0, len(blocks), REGION_BLOCKS)
    low, high = (np.add.reduceat(each, begins).tolist() for each in terms)
    return list(zip(low, high, strict=True))
