"""Ranges against a dict of blocks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from revolume.blocks.block_location import ZERO, pack
from revolume.blocks.ranges import Ranges

TOP = 60
pieces = st.tuples(st.integers(0, TOP), st.integers(0, TOP))
ALL = np.arange(TOP + 5, dtype=np.uint64)


def sound(ranges: Ranges) -> None:
    starts, ends, words = ranges.arrays()
    assert (starts < ends).all() and words.all()
    assert (ends[:-1] <= starts[1:]).all()
    assert len(ranges) == len(starts) == len(ends) == len(words)


@settings(max_examples=300, deadline=None)
@given(st.lists(pieces, max_size=30), st.integers(0, 30), st.booleans())
def test_the_newest_range_takes_over(spans: list[tuple[int, int]], floor: int, at_once: bool) -> None:
    facts = [(start, end, pack(ZERO, address + 1)) for address, (start, end) in enumerate(spans)]
    model = {block: word for start, end, word in facts for block in range(start, end)}
    ranges = Ranges()
    if at_once:
        ranges = ranges.with_ranges(facts[:3]).with_ranges(facts[3:])
    else:
        for fact in facts:
            before, was = ranges, list(ranges)
            ranges = ranges.with_range(*fact)
            assert list(before) == was
    sound(ranges)
    assert ranges.get(ALL).tolist() == [model.get(block, 0) for block in ALL.tolist()]
    newer = ranges.without_below(floor)
    sound(newer)
    expected = [word if (word := model.get(b, 0)) & (1 << 62) - 1 >= floor else 0 for b in ALL.tolist()]
    assert newer.get(ALL).tolist() == expected


@settings(max_examples=200, deadline=None)
@given(st.lists(pieces, max_size=10), pieces)
def test_overlapping_is_clipped(spans: list[tuple[int, int]], asked: tuple[int, int]) -> None:
    ranges = Ranges()
    for address, (start, end) in enumerate(spans):
        ranges = ranges.with_range(start, end, pack(ZERO, address + 1))
    model = dict(zip(ALL.tolist(), ranges.get(ALL).tolist(), strict=True))
    seen = {}
    for start, end, word in zip(*ranges.overlapping(*asked), strict=True):
        assert asked[0] <= start < end <= asked[1]
        seen.update({block: int(word) for block in range(int(start), int(end))})
    assert seen == {block: word for block, word in model.items() if word and asked[0] <= block < asked[1]}


@pytest.mark.parametrize("count", [0, 1, 1000])
def test_iterating_gives_plain_numbers(count: int) -> None:
    facts = [(3 * at, 3 * at + 2, pack(ZERO, at + 1)) for at in range(count)]
    assert list(Ranges().with_ranges(facts)) == facts
    assert len(Ranges().with_ranges(facts)) == count
