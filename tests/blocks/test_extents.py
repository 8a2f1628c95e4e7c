"""Runs and extents, against a loop."""

from __future__ import annotations

from itertools import groupby, pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from revolume.blocks.extents import contiguous, extents, runs
from revolume.blocks.geometry import BLOCK


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 3), max_size=30))
def test_runs(values: list[int]) -> None:
    starts, lengths, kinds = runs(np.array(values, np.uint64))
    expected = [(value, len(list(group))) for value, group in groupby(values)]
    assert list(zip(kinds.tolist(), lengths.tolist(), strict=True)) == expected
    assert starts.tolist() == [sum(n for _, n in expected[:at]) for at in range(len(expected))]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 60), unique=True).map(sorted))
def test_contiguous(numbers: list[int]) -> None:
    starts, lengths, firsts = contiguous(np.array(numbers, np.uint64))
    rebuilt = [
        n
        for first, count in zip(firsts.tolist(), lengths.tolist(), strict=True)
        for n in range(first, first + count)
    ]
    assert rebuilt == numbers
    assert [numbers[at] for at in starts.tolist()] == firsts.tolist()
    assert all(b != a + c for a, b, c in zip(firsts, firsts[1:], lengths, strict=False))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=12), st.integers(0, 9), st.data())
def test_extents_cover_exactly_the_bytes_asked_for(flags: list[int], first: int, data: st.DataObject) -> None:
    low, high = first * BLOCK, (first + len(flags)) * BLOCK
    offset = data.draw(st.integers(low, high - 1))
    length = data.draw(st.integers(1, high - offset))
    found = extents(first, len(flags), np.array(flags), offset, length)
    assert sum(size for size, _ in found) == length
    assert all(a[1] != b[1] for a, b in pairwise(found))
    at = offset
    for size, flag in found:
        for byte in (at, at + size - 1):
            assert flags[byte // BLOCK - first] == flag
        at += size
