"""Of what is sent to a copy only what it has otherwise: digests are asked for by window, sums by region."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import numpy as np
import pytest

from revolume.mirror.source import compared_reader
from revolume.mirror.source.compared_reader import (
    ASKED_BLOCKS,
    REGION_BLOCKS,
    REGIONS_ASKED,
    DifferingBlocks,
    DifferingRegions,
    region_sums,
)
from revolume.mirror.source.point_reader import U64
from revolume.mirror.wire.codec import Pin
from revolume.mirror.wire.comparison_messages import DIGESTS_BLOCKS_MAX, SUMS_BLOCKS_MAX
from revolume.mirror.wire.comparison_messages import REGION_BLOCKS as REGION_ON_THE_WIRE

BLOCKS = 3 * REGIONS_ASKED * REGION_BLOCKS + 77
STANDS = Pin(4, 2, b"c" * 16)


@dataclass
class Answered:
    sums: tuple[tuple[int, int], ...] = ()
    digests: U64 = field(default_factory=lambda: np.zeros(0, np.uint64))


class Copy:
    """Has these digests; what it is asked for is noted."""

    def __init__(self, held: U64) -> None:
        self.held = held
        self.asked: list[tuple[str, int, int]] = []
        self.ended: list[Pin] = []

    async def open(self, point: Pin, quick: bool) -> None:
        raise AssertionError("it is open")

    async def sums(self, first: int, blocks: int) -> Answered:
        assert first % REGION_BLOCKS == 0 and 1 <= blocks <= SUMS_BLOCKS_MAX
        self.asked.append(("sums", first, blocks))
        numbers = np.arange(first, first + blocks, dtype=np.uint64)
        return Answered(sums=tuple(region_sums(numbers, self.held[first : first + blocks])))

    async def digests(self, first: int, blocks: int) -> Answered:
        assert 1 <= blocks <= DIGESTS_BLOCKS_MAX
        self.asked.append(("digests", first, blocks))
        return Answered(digests=self.held[first : first + blocks])

    def end(self, point: Pin) -> None:
        self.ended.append(point)


class Source:
    """A point with these digests; its rows are the blocks ``listed``."""

    def __init__(self, held: U64, listed: U64) -> None:
        self.held, self.listed, self.closed = held, listed, False

    async def next_rows(self, first: int, count: int) -> tuple[U64, U64, int]:
        rows = self.listed[self.listed >= np.uint64(first)][:count]
        behind = int(rows[-1]) + 1 if len(rows) == count else len(self.held)
        return rows, self.held[rows.astype(np.int64)], behind

    async def count(self) -> int:
        raise AssertionError

    async def digests(self, blocks: U64) -> U64:
        return self.held[blocks.astype(np.int64)]

    async def read(self, blocks: U64) -> memoryview:
        return memoryview(b"")

    def close(self) -> None:
        self.closed = True


def pair(chance: np.random.Generator, differ: int) -> tuple[U64, U64, set[int]]:
    """Digests at both ends, a third of which are zero, and the blocks in which they differ."""
    ours = chance.integers(1, 1 << 60, BLOCKS).astype(np.uint64)
    ours[chance.random(BLOCKS) < 0.3] = 0
    theirs, at = ours.copy(), chance.choice(BLOCKS, differ, replace=False)
    theirs[at] = np.where(chance.random(differ) < 0.5, 0, 7)
    ours[at[: differ // 4]] = 0
    return ours, theirs, set(np.flatnonzero(ours != theirs).tolist())


async def rows(reader: DifferingRegions | DifferingBlocks, count: int, first: int = 0) -> dict[int, int]:
    found: dict[int, int] = {}
    while first < BLOCKS:
        blocks, digests, behind = await reader.next_rows(first, count)
        assert behind > first and all(first <= block < behind for block in blocks.tolist())
        found.update(zip(blocks.tolist(), digests.tolist(), strict=True))
        first = behind
    return found


def test_windows_fit_what_the_link_carries() -> None:
    assert REGION_ON_THE_WIRE == REGION_BLOCKS
    assert ASKED_BLOCKS <= DIGESTS_BLOCKS_MAX and REGIONS_ASKED * REGION_BLOCKS <= SUMS_BLOCKS_MAX


@pytest.mark.parametrize("differ", [0, 1, 40, 3000])
@pytest.mark.parametrize("first", [0, 5000])
def test_of_everything_exactly_what_differs_comes(differ: int, first: int) -> None:
    ours, theirs, wanted = pair(np.random.default_rng(differ), differ)
    source, copy = Source(ours, np.zeros(0, np.uint64)), Copy(theirs)
    reader = DifferingBlocks(source, copy, STANDS, BLOCKS)
    found = asyncio.run(rows(reader, 256, first))
    assert found == {block: int(ours[block]) for block in wanted if block >= first}
    regions = {block // REGION_BLOCKS for block in wanted}
    assert {at // REGION_BLOCKS for kind, at, _ in copy.asked if kind == "digests"} <= regions
    assert sum(kind == "sums" for kind, _, _ in copy.asked) == (3 if first else 4)
    reader.close()
    assert source.closed and copy.ended == [STANDS]


@pytest.mark.parametrize("density", [0.9, 0.02])
@pytest.mark.parametrize("differ", [0, 40, 3000])
def test_of_what_is_listed_exactly_what_differs_comes(density: float, differ: int) -> None:
    chance = np.random.default_rng(differ)
    ours, theirs, wanted = pair(chance, differ)
    listed = np.flatnonzero(chance.random(BLOCKS) < density).astype(np.uint64)
    copy = Copy(theirs)
    found = asyncio.run(rows(DifferingRegions(Source(ours, listed), copy, STANDS, BLOCKS), 256))
    assert found == {block: int(ours[block]) for block in wanted & set(listed.tolist())}
    within = set(listed.tolist())
    assert all(first in within and first + count - 1 in within for _, first, count in copy.asked)


def test_what_is_shorter_than_an_answer_is_sent_unasked() -> None:
    ours, theirs, _ = pair(np.random.default_rng(1), 0)
    listed = np.array([3, 3 + compared_reader.PER_BLOCK * 3, 9000], np.uint64)
    copy = Copy(theirs)
    found = asyncio.run(rows(DifferingRegions(Source(ours, listed), copy, STANDS, BLOCKS), 256))
    assert set(found) == {3, 3 + compared_reader.PER_BLOCK * 3}
    assert copy.asked == [("digests", 9000, 1)]
