"""Delta maps against dicts, block sets against sets."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from revolume.blocks.block_location import DATA, PARTIAL, ZERO, pack
from revolume.blocks.block_set import BlockSet
from revolume.blocks.delta_map import DeltaMap, merge, stated_digest
from revolume.blocks.ranges import Ranges

U64 = np.uint64
TOP = 40
Model = dict[int, tuple[int, int]]
"""Block → (location, digest)."""
Spans = list[tuple[int, int]]

bounds = st.tuples(st.integers(0, TOP), st.integers(0, TOP))
intervals = st.lists(bounds, max_size=8)
locations = st.tuples(st.sampled_from((DATA, ZERO, PARTIAL)), st.integers(1, 99)).map(lambda pair: pack(*pair))
entries = st.dictionaries(st.integers(0, TOP), st.tuples(locations, st.integers(1, 99)), max_size=25)


@st.composite
def maps(draw: st.DrawFn) -> DeltaMap:
    zeroed = [(*interval, pack(ZERO, draw(st.integers(1, 99)))) for interval in draw(intervals)]
    return made(draw(entries), Ranges().with_ranges(zeroed))


def made(model: Model, zeroes: Ranges | None = None) -> DeltaMap:
    rows = np.array([(block, *value) for block, value in sorted(model.items())], U64).reshape(-1, 3)
    return DeltaMap(rows[:, 0], rows[:, 1], rows[:, 2], zeroes or Ranges())


def modelled(found: DeltaMap) -> Model:
    """What the map says of each block; also whether it is one."""
    starts, ends, at = found.zeroes.arrays()
    assert (starts < ends).all() and (ends[:-1] <= starts[1:]).all() and len(at) == len(starts)
    assert (found.blocks[1:] > found.blocks[:-1]).all()
    assert len(found) == len(found.blocks) == len(found.locations) == len(found.digests)
    zeroed = {block: (word, 0) for start, end, word in found.zeroes for block in range(start, end)}
    columns = (found.blocks.tolist(), found.locations.tolist(), found.digests.tolist())
    return zeroed | {block: (at, digest) for block, at, digest in zip(*columns, strict=True)}


def block_set(spans: Spans) -> BlockSet:
    rows = np.array(spans, U64).reshape(-1, 2)
    return BlockSet.of_intervals(rows[:, 0], rows[:, 1])


def members(found: BlockSet) -> set[int]:
    assert (found.starts < found.ends).all() and (found.ends[:-1] < found.starts[1:]).all(), "maximal runs"
    blocks = found.blocks().tolist()
    assert blocks == sorted(set(blocks)) and len(blocks) == found.block_count() == sum(found.counts.tolist())
    assert len(found) == len(found.starts)
    return set(blocks)


@settings(max_examples=60, deadline=None)
@given(intervals, intervals, bounds)
def test_block_sets_are_sets(one: Spans, other: Spans, cut: tuple[int, int]) -> None:
    mine, theirs = ({block for start, end in spans for block in range(start, end)} for spans in (one, other))
    a, b = block_set(one), block_set(other)
    assert members(a) == mine and members(b) == theirs
    assert a == BlockSet.of_blocks(np.array(sorted(mine), U64)) and (a == b) == (mine == theirs)
    assert members(a.union(b)) == mine | theirs
    assert members(a.intersection(b)) == mine & theirs
    assert members(a.difference(b)) == mine - theirs
    assert members(a.clip(*cut)) == {block for block in mine if cut[0] <= block < cut[1]}
    asked = np.arange(TOP + 3, dtype=U64)[::-1]
    assert a.contains(asked).tolist() == [block in mine for block in asked.tolist()]


def test_a_block_set_of_any_size_costs_its_runs() -> None:
    whole = BlockSet.of_intervals(np.zeros(1, U64), np.array([1 << 60], U64))
    hole = whole.difference(block_set([(7, 9)]))
    assert len(hole) == 2 and hole.block_count() == (1 << 60) - 2


@settings(max_examples=60, deadline=None)
@given(maps(), maps())
def test_the_newer_over_the_older(newer: DeltaMap, older: DeltaMap) -> None:
    before = modelled(newer), modelled(older)
    assert modelled(newer.over(older)) == before[1] | before[0]
    assert (modelled(newer), modelled(older)) == before, "operands are not changed"


@settings(max_examples=60, deadline=None)
@given(maps(), intervals, bounds)
def test_some_of_a_map(whole: DeltaMap, spans: Spans, cut: tuple[int, int]) -> None:
    model, chosen = modelled(whole), block_set(spans)
    inside = members(chosen)
    assert modelled(whole.within(chosen)) == {b: value for b, value in model.items() if b in inside}
    assert modelled(whole.without(chosen)) == {b: value for b, value in model.items() if b not in inside}
    assert modelled(whole.clip(*cut)) == {b: value for b, value in model.items() if cut[0] <= b < cut[1]}
    assert members(whole.changed()) == set(model)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, TOP), locations, st.integers(0, 99)), max_size=30))
def test_of_a_block_named_twice_the_last_counts(rows: list[tuple[int, int, int]]) -> None:
    table = np.array(rows, U64).reshape(-1, 3)
    expected = {block: (location, digest) for block, location, digest in rows}
    assert modelled(DeltaMap.of(*table.T)) == expected
    assert modelled(DeltaMap.joined(DeltaMap(*table[at : at + 1].T) for at in range(len(rows)))) == expected


@settings(max_examples=60, deadline=None)
@given(maps())
def test_equal_changes_have_equal_digests_wherever_they_lie(one: DeltaMap) -> None:
    zeroed = {block for block, (location, _) in modelled(one).items() if location >> 62 == ZERO}
    zeroed |= {block for start, end, _ in one.zeroes for block in range(start, end)}
    assert members(one.zero_runs()) == zeroed
    held = {block: value for block, value in modelled(one).items() if value[0] >> 62 != ZERO}
    elsewhere = {block: (pack(DATA, 1000 + block), digest) for block, (_, digest) in held.items()}
    runs = one.zero_runs()
    twin = made(elsewhere, Ranges(runs.starts, runs.ends, np.full(len(runs), ZERO << 62, U64)))
    assert one.interval_digest() == twin.interval_digest()
    assert one.interval_digest() == stated_digest(twin.blocks, twin.digests, runs)
    other = made(elsewhere | {TOP + 1: (pack(DATA, 7), 8)}, twin.zeroes)
    assert other.interval_digest() != one.interval_digest()


def pieces(model: Model, size: int) -> Iterator[DeltaMap]:
    whole = made(model)
    yield DeltaMap()  # a piece may be empty
    for at in range(0, len(whole), size):
        yield whole.entries(slice(at, at + size))


@settings(max_examples=60, deadline=None)
@given(entries, entries, st.integers(1, 30), st.integers(1, 30))
def test_streams_merge_as_maps_do(newer: Model, older: Model, size: int, other: int) -> None:
    found = list(merge(pieces(newer, size), pieces(older, other)))
    assert modelled(DeltaMap.joined(found)) == older | newer
    assert sum(len(piece) for piece in found) == len(older | newer), "each block once, ascending"
    blocks = [block for piece in found for block in piece.blocks.tolist()]
    assert blocks == sorted(blocks)
