"""Offsets and blocks, against counting bytes."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from revolume.blocks.geometry import BLOCK, ceil_div, fragments, touched_blocks, whole_blocks

offsets = st.one_of(st.integers(0, 20).map(lambda n: n * BLOCK), st.integers(0, 20 * BLOCK))


@given(offsets, offsets)
def test_whole_blocks_and_fragments_cover_a_write_exactly(offset: int, length: int) -> None:
    first, count = whole_blocks(offset, length)
    pieces = fragments(offset, length)
    covered = [(block * BLOCK, (block + 1) * BLOCK) for block in range(first, first + count)]
    covered += [(block * BLOCK + at, block * BLOCK + at + size) for block, at, size in pieces]
    assert sum(end - begin for begin, end in covered) == length
    joined = sorted(covered)
    assert all(a[1] == b[0] for a, b in pairwise(joined))
    if length:
        assert joined[0][0] == offset and joined[-1][1] == offset + length
    assert len(pieces) <= 2 and all(0 < size < BLOCK for _, _, size in pieces)
    touched, blocks = touched_blocks(offset, length)
    assert blocks == count + len(pieces)
    assert not blocks or touched == offset // BLOCK


@given(st.integers(0, 1 << 70), st.integers(1, 1 << 40))
def test_division_rounded_up(number: int, divisor: int) -> None:
    result = ceil_div(number, divisor)
    assert (result - 1) * divisor < number <= result * divisor
