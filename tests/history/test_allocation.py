"""What NBD's block status is made of: bounded answers, and what has changed since a moment."""

from __future__ import annotations

import numpy as np

from revolume.blocks.block_location import DATA, ZERO, pack
from revolume.blocks.geometry import BLOCK
from revolume.history.allocation import STEP_BLOCKS, ChangedSince, span


def test_an_answer_covers_whole_blocks_and_no_more_than_there_is() -> None:
    assert span(0, BLOCK, 10 * BLOCK) == (0, 1, BLOCK)
    assert span(BLOCK + 7, BLOCK, 10 * BLOCK) == (1, 2, BLOCK)
    assert span(9 * BLOCK, 5 * BLOCK, 10 * BLOCK - 100) == (9, 1, BLOCK - 100)


def test_an_answer_is_bounded() -> None:
    size = 4 * STEP_BLOCKS * BLOCK
    assert span(0, size, size) == (0, STEP_BLOCKS, STEP_BLOCKS * BLOCK)
    assert span(BLOCK + 1, size, size) == (1, STEP_BLOCKS, STEP_BLOCKS * BLOCK - 1)


def test_what_lies_at_or_above_the_moment_has_changed() -> None:
    words = np.array([0, pack(DATA, 99), pack(DATA, 100), pack(ZERO, 150)], np.uint64)
    assert ChangedSince(7, 100, []).of(words).tolist() == [False, False, True, True]


def test_what_the_points_record_says_again_has_not() -> None:
    words = np.array([pack(DATA, address) for address in (99, 100, 110, 119, 120)], np.uint64)
    assert ChangedSince(7, 100, [(110, 120)]).of(words).tolist() == [False, True, False, False, True]
