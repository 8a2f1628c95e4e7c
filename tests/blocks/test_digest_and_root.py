"""Digests of blocks, words, and the root as a sum that does not care how a volume came to be."""

from __future__ import annotations

import random

import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from revolume.blocks import block_location as word
from revolume.blocks import root
from revolume.blocks.digest import ZERO_DIGEST, block_digests, digest_array, fragment_digest
from revolume.blocks.geometry import BLOCK


@pytest.mark.parametrize("count", [0, 1, 64, 65, 1024, 2500])
def test_a_digest_for_each_block(count: int) -> None:
    data = random.Random(count).randbytes(count * BLOCK)
    expected = [xxhash.xxh3_64_intdigest(data[at : at + BLOCK]) for at in range(0, len(data), BLOCK)]
    assert block_digests(memoryview(data), count) == expected
    assert digest_array(memoryview(data), count).tolist() == expected


def test_zeroes_have_the_known_digest_and_no_digest_is_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    assert block_digests(memoryview(bytes(2 * BLOCK)), 2) == [ZERO_DIGEST] * 2
    monkeypatch.setattr("revolume.blocks.digest.xxh3_64_intdigest", lambda view: 0)
    assert block_digests(memoryview(bytes(2 * BLOCK)), 2) == [1, 1]
    assert block_digests(memoryview(bytes(70 * BLOCK)), 70) == [1] * 70
    assert fragment_digest(b"abc") == 1


def test_words() -> None:
    assert word.unpack(word.pack(word.PARTIAL, 12345)) == (word.PARTIAL, 12345)
    words = word.pack_all(word.ZERO, np.array([0, 1, word.ADDRESS_MAX], np.uint64))
    assert word.kinds(words).tolist() == [word.ZERO] * 3
    assert word.addresses(words).tolist() == [0, 1, word.ADDRESS_MAX]
    assert words.tolist() == [word.pack(word.ZERO, address) for address in (0, 1, word.ADDRESS_MAX)]


digests = st.one_of(st.sampled_from([0, ZERO_DIGEST, 1]), st.integers(0, (1 << 64) - 1))
changes = st.lists(st.dictionaries(st.integers(0, 50), digests, min_size=1), max_size=8)


def columns(blocks: dict[int, int]) -> tuple[np.ndarray, np.ndarray]:
    return np.array(list(blocks), np.uint64), np.array(list(blocks.values()), np.uint64)


@settings(max_examples=150, deadline=None)
@given(changes)
def test_the_root_depends_on_the_contents_alone(changes: list[dict[int, int]]) -> None:
    volume: dict[int, int] = {}
    running = root.EMPTY
    for change in changes:
        old = {block: volume.get(block, 0) for block in change}
        running = root.add(root.subtract(running, *columns(old)), *columns(change))
        volume |= change
    contents = {block: digest for block, digest in volume.items() if digest not in (0, ZERO_DIGEST)}
    shuffled = dict(random.Random(1).sample(list(contents.items()), len(contents)))
    assert running == root.add(root.EMPTY, *columns(shuffled))
    assert (running == root.EMPTY) == (not contents)


def test_the_root_sees_exchanged_moved_and_altered_blocks() -> None:
    roots = [
        root.add(root.EMPTY, *columns(volume))
        for volume in ({1: 5, 2: 6}, {1: 6, 2: 5}, {1: 5, 3: 6}, {1: 5}, {1: 5, 2: 7}, {1: 6, 2: 6})
    ]
    for lane in (0, 1):
        assert len({one[lane] for one in roots}) == len(roots)


def test_the_interval_digest_is_over_little_endian_columns() -> None:
    data = np.array([1, 2, 9], "<u8").tobytes() + np.array([7, 8, 0], "<u8").tobytes()
    found = root.interval_digest(np.array([1, 2, 9], np.uint64), np.array([7, 8, 0], np.uint64))
    assert found == xxhash.xxh3_64_intdigest(data)
    nothing = np.zeros(0, np.uint64)
    assert root.interval_digest(nothing, nothing) == xxhash.xxh3_64_intdigest(b"")
