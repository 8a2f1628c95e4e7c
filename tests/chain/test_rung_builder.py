"""Two rungs merged are the newer over the older, in one go or by slices; layers are read as if they were
merged."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from revolume.blocks.block_location import DATA, ZERO, pack
from revolume.blocks.delta_map import DeltaMap
from revolume.blocks.numbers import Address, WriteNumber
from revolume.blocks.ranges import Ranges
from revolume.chain import map_builder, map_file, rung_builder
from revolume.chain.layered_map import LayeredMap
from revolume.chain.map_file import MapFile, MapMeta, Written, write_map
from revolume.chain.rung_builder import MergeSpec, RungMade, merge_rungs
from revolume.errors import Damaged
from revolume.host import real_host
from revolume.host.disk import Directory

VOLUME = bytes(range(16))
BLOCKS = 20_000


@pytest.fixture
def maps(tmp_path: Path) -> Iterator[Directory]:
    with closing(real_host().disk.open(str(tmp_path))) as directory:
        yield directory


def some(seed: int, entries: int, ranges: int) -> DeltaMap:
    chance = random.Random(seed)
    blocks = np.array(sorted(chance.sample(range(BLOCKS), entries)), np.uint64)
    first = 1 + seed * 1_000_000
    words = [pack(chance.choice([DATA, DATA, ZERO]), first + at) for at in range(entries)]
    zeroes = Ranges()
    for at in range(ranges):
        start = chance.randrange(BLOCKS - 300)
        zeroes = zeroes.with_range(start, start + 300, pack(ZERO, first + entries + at))
    return DeltaMap(blocks, np.array(words, np.uint64), blocks + np.uint64(seed), zeroes)


def meta(number: int) -> MapMeta:
    return MapMeta(WriteNumber(100 * number), Address(1000 * number), number, WriteNumber(100 * (number - 1)))


def written(maps: Directory, number: int, delta: DeltaMap) -> MapFile:
    with closing(maps.open(f"m{number}", create=True)) as file:
        write_map(file, VOLUME, meta(number), [delta], delta.zeroes)
    return opened(maps, f"m{number}")


def opened(maps: Directory, name: str) -> MapFile:
    return MapFile.open(maps.open(name, write=False), VOLUME)


def spec(maps: Directory, before: Written) -> MergeSpec:
    return MergeSpec(maps.path, VOLUME, "m1", "m2", MapMeta(WriteNumber(200), Address(2000), 2), "merged", before)


def content(read: MapFile | LayeredMap) -> tuple[list[list[int]], list[tuple[int, int, int]]]:
    found = DeltaMap.joined(read.pieces())
    return [column.tolist() for column in (found.blocks, found.locations, found.digests)], list(read.ranges())


def expected(delta: DeltaMap) -> tuple[list[list[int]], list[tuple[int, int, int]]]:
    return [column.tolist() for column in (delta.blocks, delta.locations, delta.digests)], list(delta.zeroes)


def merged(maps: Directory) -> tuple[RungMade, int]:
    before, slices = Written(), 0
    while True:
        slices += 1
        done = merge_rungs(real_host().disk, spec(maps, before))
        if done.made is not None:
            return done.made, slices
        before = done.written


@pytest.mark.parametrize(("limit", "at_least"), [(1, 20), (1000, 4), (1 << 30, 1)])
@pytest.mark.parametrize(
    ("entries", "ranges"), [((3000, 4000), (5, 7)), ((10, 5000), (0, 0)), ((5000, 10), (3, 12))]
)
def test_a_merge_in_slices(
    maps: Directory, monkeypatch: pytest.MonkeyPatch, limit: int, at_least: int,
    entries: tuple[int, int], ranges: tuple[int, int],
) -> None:  # fmt: skip
    monkeypatch.setattr(rung_builder, "SLICE", limit)
    monkeypatch.setattr(map_file, "WRITE_PAGES", 1)
    monkeypatch.setattr(map_builder, "PIECE", 300)
    older, newer = some(1, entries[0], ranges[0]), some(2, entries[1], ranges[1])
    for number, delta in ((1, older), (2, newer)):
        written(maps, number, delta).close()
    made, slices = merged(maps)
    want = newer.over(older)
    with closing(opened(maps, "merged")) as found:
        assert found.verify() == made.entries == len(want) and made.ranges == len(want.zeroes)
        assert content(found) == expected(want)
    assert slices >= min(at_least, len(want) // (170 * max(1, limit // 170)))


def test_layers_are_read_as_one_map(maps: Directory) -> None:
    deltas = [some(at, 1500, 4) for at in (1, 2, 3)]
    layers = [written(maps, at, delta) for at, delta in enumerate(deltas, 1)]
    read, want = LayeredMap(layers[::-1]), deltas[2].over(deltas[1].over(deltas[0]))
    assert content(read) == expected(want)
    blocks = np.arange(BLOCKS, dtype=np.uint64)
    np.random.default_rng(1).shuffle(blocks)
    assert read.get(blocks, True) is None or os.name  # whether pages are at hand is the kernel's to say
    words, digests = read.get(blocks, False) or (blocks, blocks)
    at = np.minimum(want.blocks.searchsorted(blocks), len(want) - 1)
    hit = want.blocks[at] == blocks
    assert (words == np.where(hit, want.locations[at], want.zeroes.get(blocks))).all()
    assert (digests[hit] == want.digests[at][hit]).all() and not digests[~hit].any()
    within = DeltaMap.joined(read.within(700, 9000))
    assert within.blocks.tolist() == [b for b in want.blocks.tolist() if 700 <= b < 9000]
    for layer in layers:
        layer.close()


def test_a_damaged_rung_ends_the_merge_and_leaves_no_file(maps: Directory, tmp_path: Path) -> None:
    for number in (1, 2):
        written(maps, number, some(number, 2000, 2)).close()
    with (tmp_path / "m1").open("r+b") as file:
        file.seek(3 * 4096 + 77)
        file.write(b"\xff\xff")
    with pytest.raises(Damaged):
        merged(maps)
    assert not maps.exists("merged")
