"""Which page a key belongs to, before and after pages are divided."""

from __future__ import annotations

import numpy as np
import pytest

from revolume.blocks.page_directory import FIRST_RUNS, PageDirectory

KEYS = np.random.default_rng(5).integers(1, 1 << 63, 3000, np.uint64)
BUCKETS = 4


def pages_of(directory: PageDirectory) -> np.ndarray:
    buckets = directory.buckets_of(KEYS)
    assert buckets.tolist() == [directory.bucket_of(key) for key in KEYS.tolist()]
    return buckets // BUCKETS


@pytest.mark.parametrize("seed", [0, (1 << 64) + 17])
def test_a_divided_page_keeps_its_keys_or_gives_them_to_the_new_one(seed: int) -> None:
    directory = PageDirectory(60, BUCKETS, seed)
    before = pages_of(directory)
    assert set(before.tolist()) == set(range(len(FIRST_RUNS)))
    for turn in range(len(FIRST_RUNS), 60):
        page = int(np.bincount(before).argmax())
        upper = directory.divide(page)
        assert upper == turn and directory.pages == turn + 1
        after = pages_of(directory)
        moved = before != after
        assert (before[moved] == page).all() and (after[moved] == upper).all() and moved.any()
        before = after
    assert sorted(directory.walk()) == list(range(60))
    assert directory.divide(0) is None, "there are no more pages"


def test_a_walk_meets_every_key_once_although_pages_are_divided() -> None:
    directory = PageDirectory(64, BUCKETS, 3)
    seen = np.zeros(len(KEYS), int)
    for page in directory.walk():
        seen += pages_of(directory) == page
        directory.divide(page)
    assert (seen == 1).all()
